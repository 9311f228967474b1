"""``zoo.ensemble``: from models, bundles, references and specs to one ensemble."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.assembly import assemble, build
from zoo.augmentation import Augmentation
from zoo.ensembling.ensemble import Ensemble
from zoo.ensembling.scoring import weights_from_scores
from zoo.ensembling.spec import EnsembleSpec, MemberSpec, check_weights, read_combine, read_views
from zoo.errors import ConfigError, InvalidReference
from zoo.model import Model
from zoo.reference import Reference
from zoo.spec import ModelSpec

__all__ = ["MemberLike", "ensemble"]

MemberLike = Model | ModelSpec | Reference | str | Path


def ensemble(
    members: Mapping[str, MemberLike] | Sequence[MemberLike],
    combine: str = "mean",
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    tta: str | Augmentation | None = None,
    views: int | None = None,
    heads: Any = None,
    pretrained: bool = True,
    seed: int | None = None,
) -> Ensemble:
    """Make one model of several, each with its own architecture and preprocessing.

    Args:
        members: The members, or name to member: a model, which is taken as it is; the folder of a bundle; a reference,
            on which ``heads`` are put; or a whole ``ModelSpec``. Without names they are ``member1``, ``member2``, …
        combine: ``mean`` of the probabilities; mean of the ``logits``; ``weighted`` mean of the probabilities; ``vote``
            of each member for its most likely class, or the median of numbers; ``greedy`` selection with replacement;
            ``stacking``, a linear model on the members' outputs. ``greedy``, ``stacking`` and ``weighted`` are fitted
            on validation data: ``ensemble.fit(data)``.
        weights: For ``weighted``: one for each member, 0 or more, or task name to such; they are made to sum to 1. None
            to weigh members that were fitted on the same data by the scores that ``zoo.fit`` found on its validation
            rows, in proportion, or to the inverse square of an error; other members must then be fitted.
        tta: Test-time augmentation: ``flip`` for the picture and its mirror image, or an ``Augmentation``, or the name
            of one; each member's probabilities are averaged over the views.
        views: Number of views of an augmentation, the picture as it is among them; 8 by default.
        heads: The heads of members that are references, as for ``zoo.build``.
        pretrained: Whether members that are references or specs get pretrained weights.
        seed: Seed of the random weights of members that are references or specs.

    Returns:
        The ensemble, in eval mode.

    Raises:
        ConfigError: If there is no member, their tasks or classes differ, or a setting cannot be used.
        UnknownName: If there is no such way of combining, or augmentation.
        BundleError: If a bundle cannot be loaded.
        InvalidReference: If a text is neither a bundle's folder nor a reference.

    Example:
        >>> import zoo
        >>> pet = zoo.head("classifier", name="pet", classes=["cat", "dog"])
        >>> both = zoo.ensemble(["timm:test_resnet", "timm:test_vit"], heads=pet, pretrained=False)
        >>> sorted(both.members)
        ['member1', 'member2']

    Source:
        Greedy selection: Caruana et al., "Ensemble Selection from Libraries of Models", 2004. Stacking: Wolpert,
        "Stacked Generalization", 1992. Ours is linear, one weight for each member and class, and shrinks to the mean.
    """
    how, spec_of_views = read_combine(combine), read_views(tta, views)
    named = _named(members)
    if weights is not None and how != "weighted":
        raise ConfigError(f"combine={how!r} takes no weights; set combine='weighted', or leave them out.")
    for each in weights.values() if isinstance(weights, Mapping) else [] if weights is None else [weights]:
        check_weights(each, len(named), "the ensemble")
    if heads is not None and not any(_is_reference(one) for one in named.values()):
        raise ConfigError("heads are for members that are references, and none is; leave them out.")
    found: dict[str, Model] = {}
    origins: dict[str, Path] = {}
    for name, given in named.items():
        found[name], origin = _member(name, given, heads, pretrained=pretrained, seed=seed)
        if origin is not None:
            origins[name] = origin
    specs = tuple(MemberSpec(name=name, model=model.spec) for name, model in found.items())
    made = Ensemble(EnsembleSpec(members=specs, combine=how, views=spec_of_views), found)
    made.origins = origins
    if weights is not None:
        by_task = weights if isinstance(weights, Mapping) else dict.fromkeys(made.tasks(), weights)
        _check_tasks(by_task, made)
        made.set_weights(by_task)
    elif how == "weighted" and (scored := weights_from_scores(found)):
        made.set_weights(scored)
        made.provenance["weighted"] = "by the members' scores on their validation rows"
    return made


def _check_tasks(weights: Mapping[str, Sequence[float]], made: Ensemble) -> None:
    tasks = made.tasks()
    if weights.keys() != tasks.keys():
        raise ConfigError(f"The weights must be of the tasks {', '.join(tasks)}, got {', '.join(weights) or 'none'}.")


def _named(members: Any) -> dict[str, Any]:
    """Give the members by name.

    Raises:
        ConfigError: If there is none, or they are no members.
    """
    if isinstance(members, Mapping):
        named = dict(members)
    elif isinstance(members, (str, Path, Model, ModelSpec, Reference)) or not isinstance(members, Sequence):
        raise ConfigError(f"members must be a list or a dict of members, got {type(members).__name__}.")
    else:
        named = {f"member{n}": member for n, member in enumerate(members, start=1)}
    if not named:
        raise ConfigError("An ensemble must have at least one member, got none.")
    return named


def _is_bundle(given: Any) -> bool:
    if isinstance(given, str):
        return os.path.isdir(given) or ":" not in given or _is_url(given)
    return isinstance(given, Path)


def _is_url(given: Any) -> bool:
    return isinstance(given, str) and "://" in given


def _is_reference(given: Any) -> bool:
    return isinstance(given, Reference) or (isinstance(given, str) and not _is_bundle(given))


def _member(name: str, given: Any, heads: Any, *, pretrained: bool, seed: int | None) -> tuple[Model, Path | None]:
    """Give a member, and the folder of the bundle that it came from; None where it came from none or from a URL.

    Raises:
        ConfigError: If it is none, or a reference without heads.
    """
    weights = "pretrained" if pretrained else None
    if isinstance(given, Model):
        return given, None
    if isinstance(given, ModelSpec):
        return assemble(given, weights=weights, seed=seed), None
    if _is_bundle(given):
        import zoo

        loaded = zoo.load(given)
        if not isinstance(loaded, Model):
            raise ConfigError(f"The member {name!r} is an ensemble; give its members instead.")
        return loaded, None if _is_url(given) else Path(os.path.abspath(given))
    if not _is_reference(given):
        raise ConfigError(
            f"The member {name!r} must be a model, a bundle's folder, a reference or a ModelSpec, got "
            f"{type(given).__name__}."
        )
    if heads is None:
        raise ConfigError(
            f"The member {name!r} is the reference {str(given)!r}; say which heads to put on it: heads=…."
        )
    try:
        return build(given, heads, weights=weights, seed=seed), None
    except InvalidReference as error:
        raise InvalidReference(f"The member {name!r} is no bundle's folder, and no reference: {error}") from error

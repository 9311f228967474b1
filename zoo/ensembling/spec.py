"""An ensemble as data: its members' specs, how their outputs become one, and the views that they see."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from zoo.augmentation import Augmentation
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.spec import ModelSpec, check_name

__all__ = ["COMBINES", "Combine", "EnsembleSpec", "FITTED", "MemberSpec", "ViewSpec", "read_combine", "read_views"]

Combine = Literal["mean", "logits", "weighted", "vote", "greedy", "stacking"]
COMBINES: tuple[str, ...] = get_args(Combine)
FITTED = ("weighted", "greedy", "stacking")
"""Ways of combining that learn from validation data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """One member.

    Args:
        name: Its name; letters, digits, ``_`` and ``-``.
        model: The member as data.
    """

    name: str
    model: ModelSpec

    def __post_init__(self) -> None:
        """Check the name, which becomes a folder in the bundle."""
        check_name("member", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSpec:
    """The views of a picture that every member sees; its outputs for them are averaged.

    Args:
        augmentation: How views are varied; None for the picture and its mirror image.
        views: Number of views, the picture as it is among them; 2 or more, and 2 without an augmentation.
        seed: Seed of the views, 0 to 2**31 - 1; the same view of every picture is varied alike.
    """

    augmentation: Augmentation | None = None
    views: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        least = "2 or more" if self.augmentation is not None else "2 for a picture and its mirror image"
        if self.views < 2 or (self.augmentation is None and self.views != 2):
            raise ConfigError(f"views must be {least}, got {self.views}.")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"The seed of views must be 0 to 2**31 - 1, got {self.seed}.")
        if self.augmentation is not None and self.augmentation.idle:
            raise ConfigError("The augmentation of tta changes nothing; give one that does, or tta='flip'.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSpec:
    """A whole ensemble as data.

    Args:
        members: The members, 1 or more, in order; their names are unique.
        combine: How their outputs become one: ``mean`` of probabilities, of ``logits``, ``weighted`` mean of
            probabilities, ``vote``, ``greedy`` selection, or ``stacking``.
        weights: Task name to one weight a member, 0 or more, sum 1; for ``weighted`` and ``greedy``, empty until they
            are fitted.
        views: The views that every member sees; None for the picture alone.
    """

    members: tuple[MemberSpec, ...]
    combine: Combine = "mean"
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    views: ViewSpec | None = None

    def __post_init__(self) -> None:
        """Check names and weights."""
        if not self.members:
            raise ConfigError("An ensemble must have at least one member, got none.")
        names = [member.name for member in self.members]
        for name, count in Counter(names).items():
            if count > 1:
                raise ConfigError(f"Two members are called {name!r}; give each its own name.")
        if self.weights and self.combine not in ("weighted", "greedy"):
            raise ConfigError(f"combine={self.combine!r} takes no weights; set combine='weighted', or leave them out.")
        for task, weights in self.weights.items():
            check_weights(weights, len(names), f"the task {task!r}")


def check_weights(weights: Sequence[float], count: int, what: str) -> None:
    """Refuse weights that are not one a member, 0 or more, and not all 0.

    Raises:
        ConfigError: If they are not.
    """
    numbers = [w for w in weights if isinstance(w, (int, float)) and not isinstance(w, bool)]
    if len(weights) != count:
        raise ConfigError(f"The weights of {what} must be one for each of the {count} members, got {len(weights)}.")
    if len(numbers) < count or not all(math.isfinite(w) and w >= 0 for w in numbers) or not sum(numbers) > 0:
        raise ConfigError(f"The weights of {what} must be numbers, 0 or more, not all 0, got {list(weights)}.")


def read_combine(given: Any) -> Combine:
    """Read the name of a way of combining.

    Raises:
        UnknownName: If there is none of that name; the message lists the nearest.
    """
    for name in get_args(Combine):
        if name == given:
            found: Combine = name
            return found
    near = nearest(given, COMBINES) if isinstance(given, str) else []
    raise UnknownName(f"There is no combine={given!r}; it is one of {', '.join(near or COMBINES)}.")


def read_views(tta: Any, views: int | None) -> ViewSpec | None:
    """Read what a user gives as ``tta`` and ``views``.

    Raises:
        UnknownName: If there is no augmentation of that name.
        ConfigError: If a value cannot be used.
    """
    if tta is None or isinstance(tta, ViewSpec):
        if views is not None:
            raise ConfigError(f"views={views} needs an augmentation to make them with: tta=….")
        return tta
    if tta == "flip":
        return ViewSpec(views=2 if views is None else views)
    if not isinstance(tta, (str, Augmentation)):
        raise ConfigError(f"tta must be 'flip', an Augmentation or the name of one, got {tta!r}.")
    try:
        augmentation = Augmentation.of(tta)
    except UnknownName as error:
        raise UnknownName(f"{str(error).removesuffix('.')}; tta also takes 'flip'.") from error
    return ViewSpec(augmentation=augmentation, views=8 if views is None else views)


for _spec in (MemberSpec, ViewSpec, EnsembleSpec):
    # pydantic reads it, the dataclass does not know it
    setattr(_spec, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010

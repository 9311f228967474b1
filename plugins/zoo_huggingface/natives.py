"""From a plan to transformers' own module: built from the config alone, or with weights that fit to the last tensor."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.weights import fit_weights, read_weights
from zoo.errors import ConfigError, WeightsError
from zoo_huggingface.adapting import Change, adapt, changes_between
from zoo_huggingface.cutting import cut, skip, under
from zoo_huggingface.inside import tensors_inside
from zoo_huggingface.places import find_place, only_under
from zoo_huggingface.plans import Plan, clean
from zoo_huggingface.quiet import quiet
from zoo_huggingface.rules import COMPOSITES
from zoo_huggingface.sources import Source, first_line

__all__ = ["class_of", "create", "fit_file", "load_pretrained"]

_HEADS = ("classifier", "cls", "lm_head", "score", "pooler", "vocab_projector", "vocab_transform", "decode_head")
"""Where transformers' task models keep what an encoder does not have."""


def create(who: str, plan: Plan, unused: Iterable[str] = ()) -> nn.Module:
    """Build the module with random weights, on the default device.

    Args:
        who: The reference, for messages.
        plan: Which module it is.
        unused: Paths of parts that are cut off at once.

    Raises:
        ConfigError: If transformers cannot build it.
    """
    config = plan.make_config()
    cls = class_of(who, plan, config)
    try:
        with quiet():
            native: nn.Module = cls(config, **_arguments(plan))
    except Exception as error:  # what a model's constructor raises has no common type
        raise ConfigError(f"{who}: transformers cannot build {cls.__name__}: {first_line(error)}") from error
    _settle(native, plan)
    cut(native, (*plan.rule.unused, *unused))
    return native


def load_pretrained(
    who: str, plan: Plan, source: Source, unused: Iterable[str] = (), published: Plan | None = None
) -> nn.Module:
    """Build the module with a source's safetensors weights, in float32; every tensor of the module must be there.

    transformers itself would fill what is missing with random numbers and go on.

    Args:
        who: The reference, for messages.
        plan: Which module it is.
        source: Where the weights are.
        unused: Paths of parts that are cut off at once.
        published: The plan without the options that make weights fit another input; None if there are none.

    Raises:
        WeightsError: If the source has no safetensors weights, cannot be asked, or its tensors do not fit.
    """
    if source.kind == "type":
        raise WeightsError(
            f"{who}: a model type alone has no pretrained weights; name a hub id or a folder "
            f"('hf:org/name', 'hf:./folder'), or build it with weights=None."
        )
    if not source.has_weights():
        raise WeightsError(
            f"{who}: {source.name} has no model.safetensors. Pickled weights (*.bin) can run code and are never "
            "loaded; save the model again with transformers' save_pretrained, which writes safetensors."
        )
    if published is not None:
        changes = _changes(who, published, plan, unused)
        tensors = load_pretrained(who, published, source, unused).state_dict()
        adapted = create(who, plan, unused)
        adapted.load_state_dict({k: adapt(t, changes[k]) if k in changes else t for k, t in tensors.items()})
        return adapted.train()
    config = plan.make_config()
    cls = class_of(who, plan, config)
    whole = _whole(plan, source)
    if whole is not None:
        with torch.device("meta"):
            own = list(create(who, plan).state_dict())
        if not _named_alike(who, own, source):
            return _from_whole(who, plan, source, whole, own, unused)
    renaming = None if whole is None else only_under(find_place(who, own, source.tensor_names())) or None
    try:
        with quiet():
            native, report = cls.from_pretrained(
                source.name,
                config=config,
                revision=source.revision or "main",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
                key_mapping=renaming,
                **_arguments(plan),
            )
    except Exception as error:  # what the hub and the loader raise is their business
        raise WeightsError(f"{who}: the weights of {source.name} cannot be loaded: {first_line(error)}") from error
    gone = (*plan.rule.unused, *unused)
    _check_report(who, (*gone, *skipped(plan)), source, report)
    _settle(native, plan)
    cut(native, gone)
    module: nn.Module = native.train()
    return module


def _whole(plan: Plan, source: Source) -> dict[str, Any] | None:
    """Give the config of the source where it has more models than the one that is asked for."""
    config = source.json("config.json") or {}
    published = config.get("model_type")
    return None if published not in COMPOSITES or published == plan.model_type else clean(config)


def _named_alike(who: str, own: list[str], source: Source) -> bool:
    """Say whether the source has a tensor for each of the module's names, under some prefix."""
    published = set(source.tensor_names())
    try:
        place = find_place(who, own, published)
    except WeightsError:
        return False
    return {place + name for name in own} <= published


def _from_whole(
    who: str, plan: Plan, source: Source, whole: dict[str, Any], own: list[str], unused: Iterable[str]
) -> nn.Module:
    """Build the module with the tensors that transformers finds for it in the whole."""
    tensors, report = tensors_inside(who, whole, own, source)
    if not tensors:
        raise WeightsError(f"{who}: the weights there have no tensor of this part.")
    _check_report(who, (*plan.rule.unused, *unused, *skipped(plan)), source, report)
    with skip_initialisers():
        native = create(who, plan, unused)
    kept = native.state_dict()
    native.load_state_dict({name: tensor for name, tensor in tensors.items() if name in kept}, assign=True)
    return native.train()


def _changes(who: str, published: Plan, plan: Plan, unused: Iterable[str]) -> dict[str, Change]:
    """Say which tensors must change for the options, before any weight is read."""
    with torch.device("meta"):
        before, after = create(who, published, unused), create(who, plan, unused)
    return changes_between(who, before.state_dict(), after.state_dict(), before.config, after.config)


def fit_file(
    who: str,
    plan: Plan,
    native: nn.Module,
    path: str | Path,
    unused: Iterable[str] = (),
    published: Plan | None = None,
) -> None:
    """Load a safetensors file with the module's own keys; the keys of a task's head are left out.

    Args:
        who: The reference, for messages.
        plan: Which module it is.
        native: The module.
        path: The file.
        unused: Paths of parts that are cut off.
        published: The plan without the options that make weights fit another input; None if there are none.

    Raises:
        WeightsError: If it cannot be read or does not fit.
    """
    changes = {} if published is None else _changes(who, published, plan, unused)
    tensors = read_weights(path)
    gone = (*plan.rule.unused, *skipped(plan), *unused)
    used = {key: tensor for key, tensor in tensors.items() if not under(key, gone)}
    own = native.state_dict()
    for key, change in changes.items():
        if key in used and used[key].shape != own[key].shape:
            used[key] = adapt(used[key], change)
    fit_weights(native, _with_shared(native, used), where=str(path), classifier=_HEADS)


def _with_shared(native: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a tensor that the module holds under several names, of which files have one, under all of them."""
    shared: dict[int, list[str]] = {}
    for name, parameter in native.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    found = dict(tensors)
    for names in shared.values():
        given = next((found[name] for name in names if name in found), None)
        if given is not None:
            found.update(dict.fromkeys((name for name in names if name not in found), given))
    return found


def class_of(who: str, plan: Plan, config: Any) -> Any:
    """Find the class to build: the rule's, what ``AutoModel`` gives for the config, or else ``AutoBackbone``.

    Raises:
        ConfigError: If transformers has none.
    """
    if plan.rule.model is not None:
        if plan.rule.model in dir(transformers):
            return getattr(transformers, plan.rule.model)
        return getattr(import_module(type(config).__module__.replace("configuration_", "modeling_")), plan.rule.model)
    for mapping in (transformers.MODEL_MAPPING, transformers.MODEL_FOR_BACKBONE_MAPPING):
        if type(config) in mapping:
            cls = mapping[type(config)]
            return cls[0] if isinstance(cls, (tuple, list)) else cls
    raise ConfigError(f"{who}: {plan.model_type!r} cannot be served: transformers has no encoder for it alone.")


def skipped(plan: Plan) -> tuple[str, ...]:
    """Name the modules that run beside what is wanted."""
    rule = plan.rule
    return (*rule.beside, *((rule.merger,) if rule.merger and plan.pooling != "merged" else ()))


def _settle(native: Any, plan: Plan) -> None:
    """Let modules that run beside what is wanted give what they get, and let the class say no more than is true."""
    skip(native, skipped(plan))
    if not plan.rule.checkpointing:
        native.supports_gradient_checkpointing = False


def _arguments(plan: Plan) -> dict[str, Any]:
    return {"add_pooling_layer": plan.pooling == "pooler"} if plan.rule.optional_pooler else {}


def _check_report(who: str, gone: tuple[str, ...], source: Source, report: dict[str, Any]) -> None:
    missing = sorted(key for key in set(report["missing_keys"]) if not under(key, gone))
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    errors = [str(entry) for entry in report.get("error_msgs") or ()]
    for what, keys in (("missing", missing), ("of another shape", mismatched), ("that cannot be read", errors)):
        if keys:
            shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
            raise WeightsError(
                f"{who}: the weights of {source.name} do not fit; tensors {what} ({len(keys)}): {shown}."
            )

"""From a plan to transformers' own module: built from the config alone, or with weights that fit to the last tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from zoo.contracts.weights import fit_weights, read_weights
from zoo.errors import ConfigError, WeightsError
from zoo_huggingface.plans import Plan
from zoo_huggingface.quiet import quiet
from zoo_huggingface.sources import Source, first_line

try:
    from transformers.utils.output_capturing import maybe_install_capturing_hooks
except ImportError:  # an earlier 5.x
    maybe_install_capturing_hooks = None

__all__ = ["class_of", "create", "fit_file", "load_pretrained", "tower_of"]

_HEADS = ("classifier", "cls", "lm_head", "score", "pooler", "vocab_projector", "vocab_transform", "decode_head")
"""Where transformers' task models keep what an encoder does not have."""


def create(who: str, plan: Plan) -> nn.Module:
    """Build the module with random weights, on the default device.

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
    _prepare(plan, native)
    return native


def load_pretrained(who: str, plan: Plan, source: Source) -> nn.Module:
    """Build the module with a source's safetensors weights, in float32; every tensor of the module must be there.

    transformers itself would fill what is missing with random numbers and go on.

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
    config = plan.make_config()
    cls = class_of(who, plan, config)
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
                **_arguments(plan),
            )
    except Exception as error:  # what the hub and the loader raise is their business
        raise WeightsError(f"{who}: the weights of {source.name} cannot be loaded: {first_line(error)}") from error
    _check_report(who, plan, source, report)
    _prepare(plan, native)
    module: nn.Module = native.train()
    return module


def fit_file(plan: Plan, native: nn.Module, path: str | Path) -> None:
    """Load a safetensors file with the module's own keys; the keys of a task's head are left out.

    Raises:
        WeightsError: If it cannot be read or does not fit.
    """
    tensors = read_weights(path)
    used = {key: tensor for key, tensor in tensors.items() if key not in plan.rule.unused}
    fit_weights(native, used, where=str(path), classifier=_HEADS)


def tower_of(plan: Plan, native: nn.Module) -> nn.Module:
    """Give the encoder inside the module, which is the module itself unless the rule says otherwise."""
    return native.get_submodule(plan.rule.tower)


def class_of(who: str, plan: Plan, config: Any) -> Any:
    """Find the class to build: the rule's, or what ``AutoModel`` gives for the config.

    Raises:
        ConfigError: If transformers has none.
    """
    if plan.rule.model is not None:
        return getattr(transformers, plan.rule.model)
    if type(config) not in transformers.MODEL_MAPPING:
        raise ConfigError(f"{who}: {plan.model_type!r} cannot be served: transformers has no encoder for it alone.")
    cls = transformers.MODEL_MAPPING[type(config)]
    return cls[0] if isinstance(cls, (tuple, list)) else cls


def _arguments(plan: Plan) -> dict[str, Any]:
    return {"add_pooling_layer": plan.pooling == "pooler"} if plan.rule.optional_pooler else {}


def _check_report(who: str, plan: Plan, source: Source, report: dict[str, Any]) -> None:
    missing = sorted(set(report["missing_keys"]) - set(plan.rule.unused))
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    errors = [str(entry) for entry in report.get("error_msgs") or ()]
    for what, keys in (("missing", missing), ("of another shape", mismatched), ("that cannot be read", errors)):
        if keys:
            shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
            raise WeightsError(
                f"{who}: the weights of {source.name} do not fit; tensors {what} ({len(keys)}): {shown}."
            )


def _prepare(plan: Plan, native: nn.Module) -> None:
    """Remove what never runs, and make the module ready to give its maps; nothing else that it gives changes.

    The encoder is asked for each stage's map in front of its downsampling, where the rule says so. transformers hangs
    its recorders of hidden states in at the first pass that wants them, which a compiler cannot follow; here they hang
    from the beginning.
    """
    rule = plan.rule
    for path in rule.unused:
        owner, _, name = path.rpartition(".")
        setattr(native.get_submodule(owner), name, None)
    if rule.before_downsampling is not None:
        encoder = native.get_submodule(rule.before_downsampling)
        encoder.register_forward_pre_hook(_before_downsampling, with_kwargs=True)
    if rule.maps is not None and maybe_install_capturing_hooks is not None:
        maybe_install_capturing_hooks(tower_of(plan, native))


def _before_downsampling(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "output_hidden_states_before_downsampling": True}

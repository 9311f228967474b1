"""Making a timm model, with random weights, with those of its tag, or with those of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.weights import fit_weights, read_weights
from zoo.errors import ConfigError, WeightsError
from zoo.reference import Reference
from zoo_timm.blocks import with_blocks
from zoo_timm.options import OPTIONS, check_arguments, refuse_smuggled
from zoo_timm.weights import check_dtypes, fetch, strict_loading, unreachable

__all__ = ["create", "create_from_file", "create_pretrained"]

ADAPTED = {"in_chans", "img_size"}
"""Arguments to which timm adapts weights of a model that was built without them."""

SHAPING = {"in_chans", "img_size", "global_pool", "dynamic_img_size", "output_stride"}
"""Arguments with which a model may have other tensors than its weights."""

_UNKNOWN_KEYWORD = re.compile(r"unexpected keyword argument\D*?'(\w+)'")


def create(reference: Reference, construction: Mapping[str, Any], **loading: Any) -> nn.Module:
    """Call timm's factory.

    Args:
        reference: For messages.
        construction: As the spec holds it.
        loading: What timm needs to load weights too.

    Raises:
        ConfigError: If timm refuses the arguments.
        RuntimeError: If weights that it loads do not fit.
    """
    refuse_smuggled(reference, construction)
    architecture, tag = construction["architecture"], construction["tag"]
    arguments = dict(construction["arguments"])
    check_arguments(reference, arguments)
    try:
        with with_blocks(architecture, construction.get("blocks")):
            native: nn.Module = timm.create_model(
                f"{architecture}.{tag}" if tag else architecture, num_classes=0, **arguments, **loading
            )
    except (TypeError, ValueError, AssertionError) as error:
        raise _refused(reference, arguments, error) from error
    except RuntimeError as error:
        if loading:
            raise
        raise _refused(reference, arguments, error) from error
    return native


def _refused(reference: Reference, arguments: Mapping[str, Any], error: Exception) -> ConfigError:
    if unknown := _UNKNOWN_KEYWORD.search(str(error)):
        option = next((o for o in reference.options if OPTIONS.get(o) == unknown[1]), unknown[1])
        return ConfigError(f"{reference}: the architecture knows no {option}; leave it out.")
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ConfigError(f"{reference}: timm cannot build it with {dict(arguments)}: {reason}.")


def create_pretrained(reference: Reference, construction: Mapping[str, Any]) -> nn.Module:
    """Create the model with the weights of its tag.

    Raises:
        ConfigError: If an option asks for layers that the weights do not have.
        WeightsError: If they cannot be had or do not fit.
    """
    if not construction["tag"]:
        raise WeightsError(f"{reference} has no pretrained weights; build it with weights=None.")
    _rehearse(reference, construction)
    full = f"{construction['architecture']}.{construction['tag']}"
    tensors = fetch(reference, full)
    overlay = None if tensors is None else {"state_dict": tensors}
    try:
        with strict_loading(f"The pretrained weights of {reference}"), skip_initialisers():
            native: Any = create(reference, construction, pretrained=True, pretrained_cfg_overlay=overlay)
    except WeightsError:
        raise
    except OSError as error:
        raise unreachable(reference, full, error) from error
    native.pretrained_cfg.pop("state_dict", None)  # or the weights would live twice
    return native


def create_from_file(reference: Reference, construction: Mapping[str, Any], path: str | Path) -> nn.Module:
    """Create the model with the weights of a file, which timm adapts where other channels or sizes are asked for.

    Raises:
        WeightsError: If they cannot be read or do not fit.
    """
    tensors = read_weights(path)
    if not ADAPTED & set(construction["arguments"]):
        with skip_initialisers():
            native = create(reference, construction)
        fit_weights(native, tensors, where=str(path), classifier=_classifier(native))
        return native
    where = f"The weights in {path}"
    check_dtypes(tensors, where)
    with strict_loading(where) as left_over, skip_initialisers():
        adapted: Any = create(
            reference, construction, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)}
        )
    adapted.pretrained_cfg.pop("state_dict", None)
    heads = tuple(f"{head}." for head in _classifier(adapted))
    extra = [key for key in left_over if not key.startswith(heads or ("\0",))]
    if extra:
        raise WeightsError(f"{where} do not fit {reference}: {len(extra)} tensors are left over (first {extra[0]!r}).")
    return adapted


def _rehearse(reference: Reference, construction: Mapping[str, Any]) -> None:
    """Refuse options to which timm cannot adapt pretrained weights, before those are fetched.

    On the meta device the tensors of the model without the options are loaded into the model with them.

    Raises:
        ConfigError: If a tensor would have another shape, or stay random.
    """
    arguments = construction["arguments"]
    if not SHAPING & set(arguments):
        return
    usual = {keyword: value for keyword, value in arguments.items() if keyword not in SHAPING}
    with torch.device("meta"):
        tensors = create(reference, {**construction, "arguments": usual}).state_dict()
        try:
            with strict_loading("They"):
                create(reference, construction, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
        except WeightsError as error:
            changed = ", ".join(o for o in reference.options if OPTIONS[o] in SHAPING)
            raise ConfigError(
                f"{reference}: timm cannot adapt pretrained weights to another {changed}; leave it out, or build it "
                f"with weights=None. {error}"
            ) from error


def _classifier(native: nn.Module) -> tuple[str, ...]:
    model: Any = native
    name = model.default_cfg.get("classifier") or ()
    return tuple(_emptied(native, path) for path in ((name,) if isinstance(name, str) else name))


def _emptied(native: nn.Module, path: str) -> str:
    """Give what timm emptied with the classifier: LeViT's last layer takes its BatchNorm along."""
    parent = path.rpartition(".")[0]
    return parent if parent and not native.get_submodule(parent).state_dict() else path

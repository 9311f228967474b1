"""The tensors of one model in a checkpoint of several, by the names that transformers gives them inside the whole.

A checkpoint may call its tensors otherwise than the library, or hold several of the library's as one. How to go from
the one to the other the library knows of whole models only. So the whole is laid out without memory, all of it but the
wanted model is taken away, and the library fills what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CONFIG_MAPPING
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from zoo.errors import WeightsError
from zoo_huggingface.places import find_place
from zoo_huggingface.quiet import quiet
from zoo_huggingface.sources import Source, first_line

__all__ = ["tensors_inside"]


def tensors_inside(
    who: str, config: Mapping[str, Any], own: Iterable[str], source: Source
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a model inside the whole that a source has.

    Args:
        who: The reference, for messages.
        config: The whole model's config, without what is no architecture.
        own: Names of the model's tensors.
        source: Where the weights are.

    Returns:
        Name to tensor, in float32, and what transformers says of the names: ``missing_keys`` and so on.

    Raises:
        WeightsError: If the whole cannot be laid out, or its files cannot be read.
    """
    try:
        whole = _laid_out(config)
        place = find_place(who, own, whole.state_dict())
        mapping = get_model_conversion_mapping(whole)
        tower = _alone(whole, place.rstrip(".")) if place else whole
        settings = LoadStateDictConfig(weight_mapping=mapping, dtype=torch.float32, ignore_mismatched_sizes=True)
        with ExitStack() as stack, quiet():
            held: dict[str, Any] = {}
            for path in source.weight_files():
                file = stack.enter_context(safe_open(path, "pt"))
                held.update({name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118 - no mapping
            info, _ = convert_and_load_state_dict_in_model(whole, held, settings)
    except WeightsError:
        raise
    except Exception as error:  # what the library raises has no common type
        raise WeightsError(f"{who}: the weights of {source.name} cannot be loaded: {first_line(error)}") from error
    found = {name: tensor for name, tensor in tower.state_dict().items() if not tensor.is_meta}
    gone = {name.removeprefix(place) for name in info.missing_keys}
    report = {
        "missing_keys": (gone | (set(own) - set(found))) & set(own),
        "mismatched_keys": [(entry[0].removeprefix(place), *entry[1:]) for entry in info.mismatched_keys],
        "error_msgs": [*info.error_msgs, *info.conversion_errors],
    }
    return found, report


def _laid_out(config: Mapping[str, Any]) -> Any:
    """Build the whole without memory."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"), quiet():
        made = CONFIG_MAPPING[str(config["model_type"])](**fields)
        cls: Any = transformers.MODEL_MAPPING[type(made)]
        return (cls[0] if isinstance(cls, (tuple, list)) else cls)(made)


def _alone(whole: nn.Module, path: str) -> nn.Module:
    """Take everything away but the module at a path."""
    module = whole
    for name in path.split("."):
        module._parameters.clear()
        module._buffers.clear()
        module._modules.update(dict.fromkeys([other for other in module._modules if other != name]))
        module = module.get_submodule(name)
    return module

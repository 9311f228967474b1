"""An adapter in PEFT's own form: its config, the names of its tensors, and what a stranger's config may say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from zoo.adapters.spec import AdapterSpec
from zoo.errors import ConfigError, PluginError

__all__ = ["CONFIG", "PREFIX", "TENSORS", "check_config", "config_bytes", "import_peft", "make_config"]

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT writes before the path of a layer."""

_FREE = {"peft_version": str, "megatron_core": str, "qalora_group_size": int}
"""Keys of a config whose value has no effect on a plain adapter."""


@cache
def import_peft() -> Any:
    """Import PEFT.

    Raises:
        PluginError: If it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise PluginError("Adapters need PEFT; install it with: pip install 'headzoo[lora]'.") from error
    return peft


def make_config(spec: AdapterSpec, paths: Iterable[str] | None = None) -> Any:
    """Make PEFT's config of an adapter.

    Args:
        spec: The adapter.
        paths: Paths of all modules of the backbone, by which the targets are written; None for the targets alone.
    """
    peft = import_peft()
    return peft.LoraConfig(
        r=spec.rank,
        lora_alpha=_plain(spec.alpha),
        lora_dropout=float(spec.dropout),
        target_modules=targets_of(spec, spec.targets if paths is None else paths),
        bias="none",
    )


def targets_of(spec: AdapterSpec, paths: Iterable[str]) -> list[str] | str:
    """Write the targets so that PEFT finds them and no others among the modules of a backbone.

    PEFT takes an entry of a list for the end of a path, too; where that would be another layer, it is one expression.
    """
    chosen = set(spec.targets)
    ends = tuple(f".{path}" for path in chosen)
    if any(path not in chosen and path.endswith(ends) for path in paths):
        return "|".join(re.escape(path) for path in spec.targets)
    return list(spec.targets)


def config_bytes(spec: AdapterSpec, paths: Iterable[str]) -> bytes:
    """Write an adapter's ``adapter_config.json`` as PEFT does.

    Args:
        spec: The adapter.
        paths: Paths of all modules of the backbone.
    """
    told = {**make_config(spec, paths).to_dict(), "target_modules": targets_of(spec, paths), "inference_mode": True}
    return json.dumps(told, indent=2, sort_keys=True).encode("utf-8")


def check_config(told: object, spec: AdapterSpec, where: str) -> None:
    """Refuse a config that is not that of a plain adapter, or not of this one.

    Args:
        told: The JSON of an ``adapter_config.json``.
        spec: The adapter that it must be of.
        where: Its path, for the message.

    Raises:
        ConfigError: If it is another's, or asks for more.
    """
    if not isinstance(told, Mapping):
        raise ConfigError(f"{where} must be a JSON object.")
    expected: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "r": (spec.rank,),
        "lora_alpha": (_plain(spec.alpha),),
        "lora_dropout": (spec.dropout,),
        "target_modules": (list(spec.targets), "|".join(re.escape(path) for path in spec.targets)),
        "bias": ("none",),
        "init_lora_weights": (True,),
        "inference_mode": (True,),
    }
    for key, values in expected.items():
        if told.get(key) not in values:
            raise ConfigError(f"{where} does not say what the manifest says: its {key!r} is another.")
    for key, value in told.items():
        inert = value is None or value is False or (isinstance(value, (list, dict)) and not value)
        if key not in expected and not inert and not isinstance(value, _FREE.get(str(key), ())):
            raise ConfigError(f"{where} asks for {str(key)[:80]!r}, which a plain adapter has not.")


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else value

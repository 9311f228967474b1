"""Adapters in a bundle: what the manifest says of them, and their folders in PEFT's own form."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from zoo.adapters.peft_form import CONFIG, PREFIX, TENSORS, check_config, config_bytes
from zoo.adapters.spec import AdapterSpec
from zoo.bundle.entries import AdapterEntry
from zoo.bundle.plain_json import parse
from zoo.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.bundle.digest import Record
    from zoo.bundle.tensors import TensorSet
    from zoo.model import Model

__all__ = [
    "adapter_configs",
    "adapter_entries",
    "adapter_parts",
    "adapter_states",
    "check_adapters",
    "check_configs",
    "pour_adapters",
    "spec_of",
]

FOLDER = "adapters/"
_STATE = re.compile(r"zsd1:blake3:[0-9a-f]{64}")
_MOST_BYTES = 4 * 2**20
_MOST_VERSION = 40


def spec_of(entry: AdapterEntry) -> AdapterSpec:
    """Give an adapter as data.

    Raises:
        ConfigError: If a value is outside its range.
    """
    return AdapterSpec(
        name=entry.name,
        stream=entry.stream,
        rank=entry.rank,
        alpha=entry.alpha,
        dropout=entry.dropout,
        targets=entry.targets,
    )


def check_adapters(
    entries: Sequence[AdapterEntry], streams: Collection[str], files: Collection[str], where: str
) -> None:
    """Refuse adapters that a manifest says wrongly, before any of their files is opened.

    Args:
        entries: What the manifest says.
        streams: The streams that have a backbone of their own.
        files: All files that the manifest lists.
        where: Its path, for the message.

    Raises:
        BundleError: If one breaks a rule of the format, or files and entries do not belong together.
    """
    for entry in entries:
        try:
            spec_of(entry)
        except ConfigError as error:
            raise BundleError(f"{where} does not follow the format: {error}") from error
        placed = entry.path == FOLDER + entry.name and entry.stream in streams
        if not placed or not _STATE.fullmatch(entry.state_digest) or len(entry.peft) > _MOST_VERSION:
            raise BundleError(f"{where} does not follow the format: it says the adapter {entry.name!r} wrongly.")
    names, on = [entry.name.lower() for entry in entries], [entry.stream for entry in entries]
    if len(set(names)) < len(names) or len(set(on)) < len(on):
        raise BundleError(f"{where} does not follow the format: a backbone has one adapter, and a name stands for one.")
    expected = {f"{entry.path}/{file}" for entry in entries for file in (CONFIG, TENSORS)}
    if {name for name in files if name.startswith(FOLDER)} != expected:
        raise BundleError(f"{where} does not follow the format: the files in {FOLDER} are not those of its adapters.")


def adapter_states(model: Model) -> dict[str, Mapping[str, Tensor]]:
    """Give the tensors of a model's adapters as PEFT names them, by file."""
    return {
        f"{FOLDER}{adapter.spec.name}/{TENSORS}": {
            PREFIX + key: tensor for key, tensor in adapter.parts.state_dict().items()
        }
        for adapter in model.adapters
    }


def adapter_parts(model: Model, name: str) -> nn.Module:
    """Find the module that holds an adapter's tensors.

    Raises:
        BundleError: If the model has no such adapter.
    """
    for adapter in model.adapters:
        if adapter.spec.name == name:
            return adapter.parts
    raise BundleError(f"The model has no adapter {name!r}.")


def adapter_configs(model: Model) -> dict[str, bytes]:
    """Give the ``adapter_config.json`` of each adapter of a model, by file."""
    found = {}
    for adapter in model.adapters:
        paths = [path for path, _ in model.backbones[adapter.spec.stream].native.named_modules()]
        found[f"{FOLDER}{adapter.spec.name}/{CONFIG}"] = config_bytes(adapter.spec, paths)
    return found


def adapter_entries(
    model: Model, tensors: TensorSet, records: Mapping[str, Mapping[str, Record]]
) -> tuple[AdapterEntry, ...]:
    """Give what a manifest says of a model's adapters.

    Args:
        model: The model.
        tensors: Its tensors.
        records: File to name to record, of the adapters' files.
    """
    from zoo.bundle.digest import digest_records

    return tuple(
        AdapterEntry(
            name=adapter.spec.name,
            stream=adapter.spec.stream,
            rank=adapter.spec.rank,
            alpha=float(adapter.spec.alpha),
            dropout=float(adapter.spec.dropout),
            targets=adapter.spec.targets,
            path=FOLDER + adapter.spec.name,
            peft=version("peft"),
            state_digest=digest_records(tensors.completed(f"{FOLDER}{adapter.spec.name}/{TENSORS}", records)),
        )
        for adapter in model.adapters
    )


def check_configs(entries: Sequence[AdapterEntry], texts: Mapping[str, bytes], where: str) -> None:
    """Refuse an ``adapter_config.json`` that is not that of the manifest's adapter; PEFT reads none of them here.

    Raises:
        BundleError: If one is another's, or asks for more than a plain adapter has.
    """
    for entry in entries:
        file = f"{entry.path}/{CONFIG}"
        try:
            check_config(parse(texts[file], f"{where}/{file}", most=_MOST_BYTES), spec_of(entry), f"{where}/{file}")
        except ConfigError as error:
            raise BundleError(f"{error} Get the bundle again, or save the model again.") from error


def pour_adapters(model: Model, specs: Sequence[AdapterSpec], tensors: TensorSet, where: str) -> None:
    """Put adapters on a model that was rebuilt; their tensors are compared with the layers before anything is made.

    Raises:
        BundleError: If the tensors do not fit.
        ConfigError: If a layer is not there, or cannot be adapted.
        PluginError: If PEFT is not installed.
    """
    from zoo.adapters.layers import add_adapter, shapes_of
    from zoo.bundle.rebuilding import fit

    for spec in specs:
        backbone = model.backbones[spec.stream]
        file = f"{FOLDER}{spec.name}/{TENSORS}"
        given = tensors.of(file)
        expected = {PREFIX + name: shape for name, shape in shapes_of(backbone, spec).items()}
        if {name: tuple(tensor.shape) for name, tensor in given.items()} != expected:
            raise BundleError(
                f"The tensors of {file} in {where} are not those of an adapter of rank {spec.rank} on the layers that "
                "the manifest names. Save the model again."
            )
        adapter = add_adapter(backbone, spec)
        fit(adapter.parts, {name.removeprefix(PREFIX): tensor for name, tensor in given.items()}, file)

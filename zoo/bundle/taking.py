"""Backbones of a loaded model taken over by the next one, where they are the same byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from zoo.bundle.digest import state_digest
from zoo.bundle.manifest import Manifest
from zoo.bundle.paths import OWN

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.model import Model
    from zoo.spec import StreamSpec

__all__ = ["digest_of_backbone", "taken_from"]

_known: WeakKeyDictionary[Any, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def taken_from(model: Model, manifest: Manifest) -> dict[str, Backbone]:
    """Give the backbones of a model that are those of a bundle: in what they are, what is kept of them, and each byte.

    Args:
        model: The model that is there.
        manifest: The bundle's manifest.

    Returns:
        The bundle's stream to backbone.
    """
    tied = {name.partition("/model.safetensors:")[0] for group in manifest.tied for name in group}
    found = {}
    for part in manifest.components:
        entry = manifest.model.streams.get(part.name)
        other = model.spec.streams.get(part.name)
        if part.role != "backbone" or entry is None or other is None or part.name not in model.backbones:
            continue
        backbone = model.backbones[part.name]
        adapted = len(backbone.adapters) > 0 or any(adapter.stream == part.name for adapter in manifest.adapters)
        alone = part.path not in tied and f"{part.path}/{OWN}" not in manifest.files and not adapted
        if alone and _described(entry) == _described(other) and digest_of_backbone(backbone) == part.state_digest:
            found[part.name] = backbone
    return found


def digest_of_backbone(backbone: Backbone) -> str:
    """Give the state digest of a backbone; it is computed again when a tensor has changed since.

    What has changed is told from the tensors' addresses and version counters, which an optimizer's step raises.
    """
    stamp = [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in chain(backbone.parameters(), backbone.buffers())
    ]
    kept = _known.get(backbone)
    if kept is None or kept[0] != stamp:
        kept = _known[backbone] = stamp, state_digest(backbone.native.state_dict())
    return kept[1]


def _described(entry: StreamSpec) -> Mapping[str, Any]:
    backbone = replace(entry.backbone, reference="", weights=None, license=None)
    return {"backbone": backbone, "keep": entry.keep}

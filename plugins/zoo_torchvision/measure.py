"""The spec of a torchvision model, measured by one pass of shapes on the meta device."""

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from zoo.contracts.weights import norm_kinds
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.backbone import Recorder, to_map

__all__ = ["measure"]


def measure(
    reference: Reference,
    native: nn.Module,
    anatomy: Anatomy,
    preprocessing: Preprocessing,
    construction: dict[str, Any],
    *,
    weights: str | None,
    license: str | None,
) -> BackboneSpec:
    """Run one picture of zeros and write down what comes out.

    Args:
        reference: What is asked for.
        native: The module on the meta device, classifier removed.
        anatomy: Its family's row.
        preprocessing: How pictures are prepared for it.
        construction: What builds it again.
        weights: Where its pretrained weights come from.
        license: Their licence.
    """
    pooled, token_dim, maps = _probe(native, anatomy, preprocessing)
    stages = [
        StageSpec(name=name, module=path, channels=maps[name].shape[1], reduction=_reduction(preprocessing, maps[name]))
        for name, path in anatomy.taps.items()
    ]
    if stages[0].name != "stem":
        stages.insert(0, StageSpec(name="stem"))
    fixed = anatomy.size_keyword is not None
    capabilities = {"pooled", "maps", "in_channels"}
    capabilities |= {"tokens"} if token_dim is not None else set()
    capabilities |= set() if fixed else {"dynamic_size"}
    capabilities |= {"grad_checkpointing"} if anatomy.checkpoint_flag is not None else set()
    channels, size = preprocessing.channels, preprocessing.size
    return BackboneSpec(
        reference=str(reference),
        provider=reference.provider,
        architecture=construction["architecture"],
        library="torchvision",
        library_version=torchvision.__version__,
        modality="image",
        inputs=(InputSpec(name="image", kind="image", rank=4, channels=channels, size=size, fixed_size=fixed),),
        pooled_dim=pooled.shape[-1],
        token_dim=token_dim,
        prefix_tokens=0 if token_dim is None else 1,
        stages=(*stages, StageSpec(name="post")),
        capabilities=tuple(sorted(capabilities)),
        norms=norm_kinds(native),
        parameters=sum(parameter.numel() for parameter in native.parameters()),
        pooling=anatomy.pooling,
        weights=weights,
        license=license,
        preprocessing=preprocessing,
        construction=construction,
    )


def _probe(
    native: nn.Module, anatomy: Anatomy, preprocessing: Preprocessing
) -> tuple[Tensor, int | None, dict[str, Tensor]]:
    tokens = {} if anatomy.tokens is None else {"tokens": anatomy.tokens}
    taps = anatomy.taps | tokens
    conv: Any = native.get_submodule(anatomy.conv)
    height, width = preprocessing.size
    grid = (height // conv.kernel_size[0], width // conv.kernel_size[1])
    with torch.no_grad():
        image = torch.zeros(1, preprocessing.channels, height, width, device="meta")
        pooled, taken = Recorder(native, taps).run(native.eval(), image, taps)
    maps = {name: to_map(taken[name], anatomy, grid) for name in anatomy.taps}
    return pooled, taken["tokens"].shape[-1] if tokens else None, maps


def _reduction(preprocessing: Preprocessing, grid: Tensor) -> float:
    """Give the power of two of which the map's size is a rounding, else what was measured."""
    side, cells = preprocessing.size[0], grid.shape[-2]
    nominal = 2 ** round(math.log2(side / cells))
    if cells in (side // nominal, -(-side // nominal)):
        return float(nominal)
    return float(side / cells) if side % cells == 0 else round(side / cells, 4)

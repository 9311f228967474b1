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
from zoo_torchvision.backbone import TOKENS, to_map
from zoo_torchvision.recorder import Recorder

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
    given = _given(anatomy, preprocessing)
    pooled_dim, token_dim, maps = _probe(native, anatomy, given)
    stages = [
        StageSpec(name=name, module=path, **(_shape(given, maps[name]) if anatomy.maps else {}))
        for name, path in anatomy.ends_by_stage.items()
    ]
    if stages[0].name != "stem":
        stages.insert(0, StageSpec(name="stem"))
    capabilities = {"pooled", "in_channels"}
    capabilities |= {"maps"} if anatomy.maps else set()
    capabilities |= {TOKENS} if token_dim is not None else set()
    capabilities |= set() if anatomy.fixed_size else {"dynamic_size"}
    capabilities |= {"grad_checkpointing"} if anatomy.checkpoint_flag is not None else set()
    return BackboneSpec(
        reference=str(reference),
        provider=reference.provider,
        architecture=construction["architecture"],
        library="torchvision",
        library_version=torchvision.__version__,
        modality=anatomy.modality,
        inputs=(given,),
        pooled_dim=pooled_dim,
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


def _given(anatomy: Anatomy, preprocessing: Preprocessing) -> InputSpec:
    return InputSpec(
        name=anatomy.modality,
        kind=anatomy.modality,
        rank=4 if anatomy.frames is None else 5,
        channels=preprocessing.channels,
        size=preprocessing.size,
        fixed_size=anatomy.fixed_size,
        least=anatomy.least,
        length=anatomy.frames,
        fixed_length=anatomy.fixed_frames,
    )


def _probe(native: nn.Module, anatomy: Anatomy, given: InputSpec) -> tuple[int, int | None, dict[str, Tensor]]:
    """Give the widths of the pooled vector and of a token, and the maps, all without numbers."""
    conv: Any = native.get_submodule(anatomy.conv)
    height, width = given.size or (0, 0)
    grid = (height // conv.kernel_size[-2], width // conv.kernel_size[-1])
    clip = () if anatomy.frames is None else (anatomy.frames,)

    def forward(images: Tensor) -> Any:
        for path in () if anatomy.classifier else anatomy.trunk:
            images = native.get_submodule(path)(images)
        return native(images) if anatomy.classifier or not anatomy.trunk else images

    with torch.no_grad(), torch.device("meta"):
        native.eval()
        image = torch.zeros(1, given.channels or 3, *clip, height, width)
        output, taken = Recorder(native, anatomy.taps).run(forward, image, anatomy.taps)
    tokens = taken.pop(TOKENS, None)
    maps = {name: to_map(one, anatomy, grid) for name, one in taken.items()}
    pooled_dim = output.shape[-1] if anatomy.classifier else next(reversed(maps.values())).shape[1]
    return pooled_dim, None if tokens is None else tokens.shape[-1], maps


def _shape(given: InputSpec, grid: Tensor) -> dict[str, Any]:
    """Give channels and reduction: the power of two of which the map's size is a rounding, else what was measured."""
    side, cells = (given.size or (0, 0))[0], grid.shape[-2]
    nominal = 2 ** round(math.log2(side / cells))
    if cells in (side // nominal, -(-side // nominal)):
        return {"channels": grid.shape[1], "reduction": float(nominal)}
    return {"channels": grid.shape[1], "reduction": round(side / cells, 4)}

"""What a timm model takes and gives, measured on the meta device: shapes without weights and without compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from zoo.contracts.weights import norm_kinds
from zoo.errors import CapabilityError, ConfigError
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo_timm.backbone import checkpointing, has_own_head, pool
from zoo_timm.sizes import divisor_of, least_of, native_size
from zoo_timm.stages import Tap, find_taps, stage_map
from zoo_timm.transforms import read_preprocessing
from zoo_timm.trimming import POOLED, TOKENS, Reading, readings

__all__ = ["measure"]


_VALUES_READ = {"Gemma4VitClassifier", "Gemma4VitEncoder"}


@dataclass(frozen=True)
class _Found:
    pooled: int
    own_head: bool
    token_dim: int | None
    prefix: int
    maps: Mapping[str, tuple[int, float]]
    readings: Mapping[str, Reading]


def measure(reference: Reference, native: nn.Module, construction: Mapping[str, Any]) -> BackboneSpec:
    """Write the spec of a model that was built on the meta device.

    Raises:
        ConfigError: If it cannot take pictures of its size.
    """
    model: Any = native
    config: Mapping[str, Any] = model.pretrained_cfg
    arguments = construction["arguments"]
    channels = arguments.get("in_chans", config["input_size"][0])
    size = _size(native, construction)
    taps = find_taps(native)
    found = _probe(reference, native, taps, channels, size)
    stages = [_stage(tap, found) for tap in taps]
    if stages[0].name != "stem":
        stages.insert(0, StageSpec(name="stem"))
    fixed = bool(config.get("fixed_input_size")) and not arguments.get("dynamic_img_size")
    capabilities = {"pooled", "in_channels", "maps"}
    capabilities |= {"tokens"} if found.token_dim is not None else set()
    capabilities |= set() if fixed else {"dynamic_size"}
    capabilities |= {"grad_checkpointing"} if checkpointing(native, True) else set()
    image = InputSpec(
        name="image",
        kind="image",
        rank=4,
        channels=channels,
        size=size,
        fixed_size=fixed,
        divisor=1 if fixed else divisor_of(native),
        least=1 if fixed or "output_stride" in arguments else least_of(native),
    )
    return BackboneSpec(
        reference=str(reference),
        provider=reference.provider,
        architecture=construction["architecture"],
        library="timm",
        library_version=timm.__version__,
        modality="image",
        inputs=(image,),
        pooled_dim=found.pooled,
        token_dim=found.token_dim,
        prefix_tokens=found.prefix,
        stages=(*stages, StageSpec(name="post")),
        capabilities=tuple(sorted(capabilities)),
        norms=norm_kinds(native),
        parameters=sum(p.numel() for p in native.parameters()),
        pooling="forward_head(pre_logits=True)" if found.own_head else "mean",
        weights=(config.get("hf_hub_id") or config.get("url") or None) if construction["tag"] else None,
        license=config.get("license"),
        preprocessing=read_preprocessing(native, channels, size),
        construction={
            **construction,
            "taps": [tap.as_json() for tap in taps],
            "readings": {output: reading.as_json() for output, reading in found.readings.items()},
        },
    )


def _size(native: nn.Module, construction: Mapping[str, Any]) -> tuple[int, int]:
    asked = construction["arguments"].get("img_size")
    height, width = construction.get("size") or ((asked, asked) if asked else native_size(native))
    return height, width


def _stage(tap: Tap, found: _Found) -> StageSpec:
    channels, reduction = found.maps.get(tap.stage, (None, None))
    return StageSpec(name=tap.stage, module=tap.module, channels=channels, reduction=reduction)


def _probe(reference: Reference, native: nn.Module, taps: list[Tap], channels: int, size: tuple[int, int]) -> _Found:
    """Run one picture of zeros on the meta device; nothing is computed but shapes, and who reads which parameter."""
    image = torch.zeros(1, channels, *size, device="meta")
    model: Any = native.eval()
    drawn = {tap.stage: tap.index for tap in taps if tap.index is not None}
    declared = {tap.stage: tap.reduction for tap in taps if tap.reduction is not None}
    try:
        final, maps = _intermediates(model, image, list(drawn.values()))
        own_head = has_own_head(native, final)
        pooled = pool(native, final, own_head=own_head)
        by_stage = dict(zip(drawn, maps, strict=True))
        prefix, tokens = _tokens(native, final, maps[-1])
        outputs: dict[str, Sequence[Tensor]] = {POOLED: [pooled], **{stage: [one] for stage, one in by_stage.items()}}
        outputs |= {} if tokens is None else {TOKENS: [tokens]}

        def run(output: str) -> None:
            if output in drawn:
                _intermediates(model, image, [drawn[output]], stop_early=True, intermediates_only=True)
            elif output == POOLED:
                pool(native, model.forward_features(image), own_head=own_head)
            else:
                _intermediates(model, image, [drawn[taps[-1].stage]])

        found = readings(native, _names(taps), stage_map(native, taps).__getitem__, outputs, run)
    except AssertionError as error:
        raise ConfigError(f"{reference}: timm cannot run it on pictures of {size[0]}×{size[1]}: {error}.") from error
    except RuntimeError as error:
        raise CapabilityError(f"{reference}: timm cannot say its shapes without real data: {error}.") from error
    return _Found(
        pooled=pooled.shape[-1],
        own_head=own_head,
        token_dim=None if tokens is None else tokens.shape[-1],
        prefix=prefix,
        maps={
            stage: (one.shape[1], _reduction(size, one.shape[-2:], declared[stage])) for stage, one in by_stage.items()
        },
        readings=found,
    )


def _names(taps: Sequence[Tap]) -> list[str]:
    return [*([] if taps[0].stage == "stem" else ["stem"]), *(tap.stage for tap in taps), "post"]


def _intermediates(model: Any, image: Tensor, indices: list[int], **how: bool) -> Any:
    """Call ``forward_intermediates``.

    Gemma's encoder reads the grid back from values, which the meta device has not; there its sequences are laid out by
    the picture's size.
    """
    if type(model).__name__ not in _VALUES_READ:
        return model.forward_intermediates(image, indices=indices, output_fmt="NCHW", **how)
    result = model.forward_intermediates(image, indices=indices, output_fmt="NLC", **how)
    grid = [side // cell for side, cell in zip(image.shape[-2:], model.get_patch_size(), strict=True)]
    if how.get("intermediates_only"):
        return result
    final, maps = result
    return final, [one.unflatten(1, grid).permute(0, 3, 1, 2) for one in maps]


def _tokens(native: nn.Module, final: Any, last: Tensor) -> tuple[int, Tensor | None]:
    """Give the number of prefix tokens and the sequence, if what comes last is a sequence over the last map's grid."""
    prefix = int(getattr(native, "num_prefix_tokens", 0) or 0)
    cells = last.shape[-2] * last.shape[-1]
    if isinstance(final, Tensor) and final.ndim == 3 and final.shape[1] == cells + prefix:
        return prefix, final
    return 0, None


def _reduction(size: tuple[int, int], grid: tuple[int, int], declared: float) -> float:
    """Give the declared reduction where the map's size is a rounding of it, else what was measured.

    timm's declared reductions are a rounding of the true ones in 94 architectures and wrong in 8.
    """
    exact = [side / cells for side, cells in zip(size, grid, strict=True)]
    rounded = all(
        cells in (int(side / declared), -int(-side // declared)) for side, cells in zip(size, grid, strict=True)
    )
    return float(declared) if rounded else round(exact[0], 4)

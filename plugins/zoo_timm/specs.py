"""What a timm model takes and gives, measured on the meta device: shapes without weights and without compute."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from zoo.contracts.weights import norm_kinds
from zoo.errors import CapabilityError, ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo_timm.backbone import Tap, find_taps, has_own_head, pool

__all__ = ["measure"]

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class _Shapes:
    pooled: int
    own_head: bool
    token_dim: int | None
    prefix: int
    channels: list[int]
    reductions: list[float]


def measure(reference: Reference, native: nn.Module, construction: Mapping[str, Any]) -> BackboneSpec:
    """Write the spec of a model that was built on the meta device."""
    model: Any = native
    config: Mapping[str, Any] = model.pretrained_cfg
    channels = construction["arguments"].get("in_chans", config["input_size"][0])
    size = _size(native, config)
    taps = find_taps(native)
    found = _probe(reference, native, taps, channels, size)
    stages = [
        StageSpec(name=tap.stage, module=tap.module, channels=width, reduction=reduction)
        for tap, width, reduction in zip(taps, found.channels, found.reductions, strict=True)
    ]
    if stages[0].name != "stem":
        stages.insert(0, StageSpec(name="stem"))
    fixed = bool(config.get("fixed_input_size")) and not construction["arguments"].get("dynamic_img_size")
    capabilities = {"pooled", "in_channels", "maps"}
    capabilities |= {"tokens"} if found.token_dim is not None else set()
    capabilities |= set() if fixed else {"dynamic_size"}
    return BackboneSpec(
        reference=str(reference),
        provider=reference.provider,
        architecture=construction["architecture"],
        library="timm",
        library_version=timm.__version__,
        modality="image",
        inputs=(InputSpec(name="image", kind="image", rank=4, channels=channels, size=size, fixed_size=fixed),),
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
        preprocessing=_preprocessing(reference, native, channels, size),
        construction={**construction, "taps": [tap.as_json() for tap in taps]},
    )


def _size(native: nn.Module, config: Mapping[str, Any]) -> tuple[int, int]:
    size = getattr(getattr(native, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _probe(reference: Reference, native: nn.Module, taps: list[Tap], channels: int, size: tuple[int, int]) -> _Shapes:
    """Run one picture of zeros on the meta device; nothing is computed but shapes."""
    image = torch.zeros(1, channels, *size, device="meta")
    indices = [tap.index for tap in taps]
    model: Any = native.eval()
    try:
        with torch.no_grad():
            final, maps = model.forward_intermediates(image, indices=indices, output_fmt="NCHW")
            own_head = has_own_head(native, final)
            pooled = pool(native, final, own_head=own_head)
    except AssertionError as error:
        raise ConfigError(f"{reference}: timm cannot run it on pictures of {size[0]}×{size[1]}: {error}.") from error
    except RuntimeError as error:
        raise CapabilityError(f"{reference}: timm cannot say its shapes without real data: {error}.") from error
    prefix = int(getattr(native, "num_prefix_tokens", 0) or 0)
    cells = maps[-1].shape[-2] * maps[-1].shape[-1]
    fits = isinstance(final, torch.Tensor) and final.ndim == 3 and final.shape[1] == cells + prefix
    return _Shapes(
        pooled=pooled.shape[-1],
        own_head=own_head,
        token_dim=final.shape[-1] if fits else None,
        prefix=prefix if fits else 0,
        channels=[m.shape[1] for m in maps],
        reductions=[_reduction(size, m.shape[-2:], tap.reduction) for tap, m in zip(taps, maps, strict=True)],
    )


def _reduction(size: tuple[int, int], grid: tuple[int, int], declared: float) -> float:
    """Give the declared reduction where the map's size is a rounding of it, else what was measured.

    timm's declared reductions are a rounding of the true ones in 94 architectures and wrong in 8.
    """
    exact = [side / cells for side, cells in zip(size, grid, strict=True)]
    rounded = all(
        cells in (int(side / declared), -int(-side // declared)) for side, cells in zip(size, grid, strict=True)
    )
    return float(declared) if rounded else round(exact[0], 4)


def _preprocessing(
    reference: Reference, native: nn.Module, channels: int, size: tuple[int, int]
) -> Preprocessing | None:
    """Say timm's evaluation transform as data; None, and a line in the log, where it cannot be said."""
    config = timm.data.resolve_data_config({}, model=native)
    squash = config["crop_mode"] == "squash"
    if config["crop_mode"] == "border" or (size[0] != size[1] and not squash):
        log.warning("%s: its preprocessing cannot be said as data yet; call the model with tensors.", reference)
        return None
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if channels != len(mean):
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    scaled = tuple(int(side / config["crop_pct"]) for side in size)
    return Preprocessing(
        size=size,
        resize=scaled if squash else scaled[:1],
        interpolation=config["interpolation"],
        mean=mean,
        std=std,
        channels=channels,
    )

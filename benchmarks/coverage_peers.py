"""What peers serve of the same names, asked for maps as (B, C, H, W) with the channels that they declare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any


def first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300]}" if lines else type(error).__name__


def guarded(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, **ask()}
    except Exception as error:  # whatever a library raises is the answer
        return {"ok": False, "reason": first_line(error)}


def nchw(maps: Iterable[Any], channels: Iterable[int] | None) -> dict[str, Any]:
    """Check that a peer gave maps as (B, C, H, W)."""
    shapes = [tuple(one.shape) for one in maps]
    if any(len(shape) != 4 for shape in shapes):
        raise AssertionError(f"not all maps have four dimensions: {shapes}")
    if channels is not None and [shape[1] for shape in shapes] != list(channels):
        raise AssertionError(f"not NCHW with the declared channels {list(channels)}: {shapes}")
    return {"maps": len(shapes)}


def timm_peers(name: str) -> dict[str, Any]:
    import segmentation_models_pytorch as smp
    import timm
    import torch
    from transformers import TimmBackbone, TimmBackboneConfig

    size = timm.get_pretrained_cfg(name).input_size if timm.get_pretrained_cfg(name) else (3, 224, 224)

    def run(make: Callable[[], Any], channels: Callable[[Any], Iterable[int] | None], device: str) -> dict[str, Any]:
        with torch.device(device), torch.no_grad():
            model = make().eval()
            given = model(torch.zeros(1, *size))
        return nchw(getattr(given, "feature_maps", given), channels(model))

    peers: dict[str, tuple[Callable[[], Any], Callable[[Any], Iterable[int] | None]]] = {
        "features_only": (
            lambda: timm.create_model(name, features_only=True),
            lambda m: m.feature_info.channels(),
        ),
        "smp": (lambda: smp.encoders.get_encoder(f"tu-{name}", weights=None), lambda m: m.out_channels),
        "TimmBackbone": (
            lambda: TimmBackbone(TimmBackboneConfig(backbone=name, use_pretrained_backbone=False)),
            lambda m: m.channels,
        ),
    }
    return {peer: on_either(lambda device, asked=asked: run(*asked, device)) for peer, asked in peers.items()}


def on_either(ask: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Ask without memory, and with real numbers if a pass must read them."""
    answer = guarded(lambda: ask("meta"))
    return guarded(lambda: ask("cpu")) if not answer["ok"] and "meta" in answer["reason"] else answer


def transformers_peers(model_type: str) -> dict[str, Any]:
    import torch
    from transformers import CONFIG_MAPPING, AutoBackbone

    def run(device: str) -> dict[str, Any]:
        plain = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
        config = CONFIG_MAPPING[model_type].from_dict(plain)  # as a checkpoint's: lists for the defaults' tuples
        with torch.device(device), torch.no_grad():
            model = AutoBackbone.from_config(config).eval()
            side = getattr(config, "image_size", 224) or 224
            height, width = (side, side) if isinstance(side, int) else side
            given = model(torch.zeros(1, getattr(config, "num_channels", 3), height, width))
        return nchw(given.feature_maps, model.channels)

    return {"AutoBackbone": on_either(run)}

"""What a model's backbones cost: multiply-accumulates, parameters, and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.contracts.widths import Widths, reshape
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.registry import registry
from zoo.spec import BackboneSpec

__all__ = ["QuickCount", "all_of", "latencies", "macs_of", "macs_when_whole", "sample_of", "skeleton"]

REPEATS = 15
"""How often each model is timed; the median counts."""
_COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_UNWRITTEN = 224
"""Height and width of a picture in pixels where a backbone says none."""


def skeleton(spec: BackboneSpec, widths: Widths | None = None) -> Backbone:
    """Build a backbone without memory for its weights, at its library's widths or at others.

    Args:
        spec: The backbone, pruned or not.
        widths: What to make narrower; None for the full widths.

    Raises:
        ConfigError: If the widths are not the backbone's.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        built = registry().provider(spec.provider).build(replace(spec, widths={}), weights=None)
    reshape(built.native, widths or {}, where=spec.reference)
    return built


def all_of(backbone: Backbone) -> Want:
    """Give all that a backbone can still be asked for: what it was cut to, or everything."""
    if backbone.kept is not None:
        return backbone.kept
    has = backbone.spec.capabilities
    maps = tuple(stage.name for stage in backbone.spec.maps) if "maps" in has else ()
    return Want(pooled="pooled" in has, tokens="tokens" in has, maps=maps)


def sample_of(spec: BackboneSpec, *, batch: int = 1, device: str = "cpu") -> Tensor:
    """Give pictures of noise as a backbone takes them, ``(batch, C, H, W)``, at the size of its weights.

    Raises:
        ConfigError: If it takes anything but pictures.
    """
    first, *others = spec.inputs
    if spec.modality != "image" or first.kind != "image" or others:
        raise ConfigError(f"{spec.reference} looks at {spec.modality}; pruning widths is for backbones of pictures.")
    size = spec.preprocessing.size if spec.preprocessing is not None else first.size
    height, width = size or first.size or (_UNWRITTEN, _UNWRITTEN)
    drawn = torch.Generator().manual_seed(0)
    pictures = torch.randn(batch, first.channels or 3, height, width, generator=drawn)
    return pictures.to(device)


def macs_of(model: Model) -> int:
    """Count the multiply-accumulates of a model's backbones for one picture, at the size of their weights.

    Those of convolutions, linear layers and the two products of attention are counted, as torch counts them: two
    floating-point operations are one. Heads are left out.

    Raises:
        ConfigError: If a backbone takes anything but pictures.
    """
    return sum(_macs(backbone, model.wants[stream]) for stream, backbone in model.backbones.items())


def macs_when_whole(model: Model) -> int:
    """Count what :func:`macs_of` gives of the same model at the widths of its libraries.

    Raises:
        ConfigError: If a backbone takes anything but pictures.
    """
    total = 0
    for stream, backbone in model.backbones.items():
        sample_of(backbone.spec)
        whole = skeleton(backbone.spec).eval()
        if backbone.kept is not None:
            whole.trim(backbone.kept)
        total += _macs(whole, model.wants[stream])
    return total


def _macs(backbone: Backbone, want: Want) -> int:
    picture = sample_of(backbone.spec, device=str(next(backbone.native.parameters()).device))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(picture, want)
    return counter.get_total_flops() // 2


class QuickCount:
    """Counts as :func:`macs_of` does without running the model: layers become narrower, what they run on does not.

    Where functions outside of layers multiply, theirs count as they were at first.

    Args:
        model: The model, before it is pruned.
    """

    def __init__(self, model: Model) -> None:
        self._places: dict[Any, int] = {}
        handles = [
            layer.register_forward_hook(self._note)
            for backbone in model.backbones.values()
            for layer in backbone.native.modules()
            if isinstance(layer, _COUNTED)
        ]
        try:
            self._rest = 0
            self._rest = macs_of(model) - self.macs()
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, layer: nn.Module, _: Any, given: Tensor) -> None:
        """Add to how many places a layer's weight is multiplied with."""
        width = given.shape[-1] if isinstance(layer, nn.Linear) else given.shape[1]
        self._places[layer] = self._places.get(layer, 0) + given.numel() // width

    def macs(self) -> int:
        """Give the multiply-accumulates for one picture at the widths of now."""
        return self._rest + sum(places * layer.weight.numel() for layer, places in self._places.items())


def latencies(models: Sequence[Model], *, repeats: int = REPEATS) -> list[float]:
    """Time the backbones of models on the CPU, one picture a pass, in turn, so that what disturbs one disturbs all.

    Args:
        models: The models, on the CPU; they are run in eval mode.
        repeats: How often each is timed after one pass that is not.

    Returns:
        For each model the median, in milliseconds, with the threads that torch has.
    """
    samples = [{name: sample_of(one.spec) for name, one in model.backbones.items()} for model in models]
    times: list[list[float]] = [[] for _ in models]
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for model, pictures, taken in zip(models, samples, times, strict=True):
                start = time.perf_counter()
                _run(model, pictures)
                if turn:
                    taken.append(time.perf_counter() - start)
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return [1000 * statistics.median(taken) for taken in times]


def _run(model: Model, pictures: Mapping[str, Tensor]) -> None:
    for stream, backbone in model.backbones.items():
        backbone(pictures[stream], model.wants[stream])

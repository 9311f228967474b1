"""The ranges of activations, found by torchao's observers over rows of data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.contracts.rounding import LEAST, MOST, Rounding
from zoo.data import placed
from zoo.errors import ConfigError, PluginError
from zoo.model import Model

__all__ = ["Observer", "find_ranges", "library"]

Observer = Literal["minmax", "histogram"]
"""``minmax`` for all that was seen; ``histogram`` for the range of least squared error, which may cut off ends."""


def library() -> Any:
    """Import torchao's observers, without what its import says on the error stream.

    Raises:
        PluginError: If it is not installed.
    """
    noisy = logging.getLogger("torch.utils._pytree")
    before, noisy.disabled = noisy.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchao.quantization.pt2e as pt2e
    except ImportError as error:
        raise PluginError(
            "Ranges of activations are found by torchao, which is not installed: pip install 'headzoo[quantization]'."
        ) from error
    finally:
        noisy.disabled = before
    return pt2e


def find_ranges(
    model: Model, roundings: Mapping[str, Rounding], batches: Iterable[Any], observer: Observer
) -> tuple[int, list[dict[str, Tensor]]]:
    """Set the ranges of all places by what comes there in float.

    Args:
        model: The model, in eval mode, rounding already.
        roundings: What its backbones round with.
        batches: What the model takes, batch by batch.
        observer: By what a range is found.

    Returns:
        How many rows were looked at, and what the tasks gave, on the CPU.

    Raises:
        ConfigError: If there is no row, or what comes to a place is no finite number.
    """
    pt2e = library()
    kinds: dict[str, Callable[..., Any]] = {"minmax": pt2e.MinMaxObserver, "histogram": pt2e.HistogramObserver}
    place = next(model.parameters()).device
    seen: dict[str, list[Any]] = {
        name: [
            kinds[observer](
                dtype=torch.int8, qscheme=torch.per_tensor_affine, quant_min=LEAST, quant_max=MOST
            ).to(place)
            for _ in rounding.ranges
        ]
        for name, rounding in roundings.items()
    }  # fmt: skip
    looked, outputs = 0, []
    try:
        for name, rounding in roundings.items():
            rounding.resting, rounding.watch = True, _Watch(seen[name])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # observers that are asked for the last time
            for batch in batches:
                given = model(placed(batch, place))
                outputs.append({name: output.cpu() for name, output in given.items()})
                looked += len(next(iter(given.values()))) if given else 1
            for name, rounding in roundings.items():
                for number, one in enumerate(seen[name]):
                    rounding.ranges[number] = _bounds(one)
    finally:
        for rounding in roundings.values():
            rounding.resting, rounding.watch = False, None
    if not looked:
        raise ConfigError("Ranges are found by rows of data, and there are none.")
    if not all(bool(rounding.ranges.isfinite().all()) for rounding in roundings.values()):
        raise ConfigError("A backbone gives numbers that are not finite for these rows, so it cannot be quantized.")
    return looked, outputs


class _Watch:
    """Shows each place's numbers to its observer."""

    def __init__(self, observers: list[Any]) -> None:
        self.observers = observers

    def __call__(self, rounding: Rounding, place: int, given: Tensor, training: bool) -> None:
        self.observers[place](given.detach().float())


def _bounds(observer: Any) -> Tensor:
    """Give the range of an observer, ``(2,)``, with zero in it; both ends are zero where nothing came."""
    if not bool(observer.min_val.isfinite().all()) and bool((observer.min_val > observer.max_val).all()):
        return torch.zeros(2)
    scale, zero = observer.calculate_qparams()
    low = (LEAST - zero.float()) * scale.float()
    high = (MOST - zero.float()) * scale.float()
    return torch.stack([low.flatten()[0], high.flatten()[0]])

"""Prediction: what a user hands over, batch by batch through a model or an ensemble, in the user's own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.contracts.head import Decoded
from zoo.data import Inputs, Preparer, as_rows, placed, prepared
from zoo.errors import ConfigError

__all__ = ["Prediction", "as_device", "plain", "predict"]

Prediction = dict[str, Decoded]
"""Task name to what is said of one sample."""
Told = Mapping[str, Sequence[Decoded]]
"""Task name to what is said of each sample of a batch."""


class _Runs(Protocol):
    """What can be run on prepared samples: a module that knows its inputs."""

    training: bool

    @property
    def modalities(self) -> dict[str, str]: ...
    def preparers(self) -> dict[str, Preparer]: ...
    def parameters(self) -> Iterator[Any]: ...
    def train(self, mode: bool = True) -> Any: ...
    def to(self, device: Any) -> Any: ...


def predict(
    model: _Runs,
    given: Any,
    tell: Callable[[Mapping[str, Any]], Told],
    *,
    batch_size: int,
    device: str | torch.device | None,
) -> Prediction | list[Prediction]:
    """Predict what a user hands over; the model's mode is as before afterwards.

    Args:
        model: The model.
        given: As :func:`zoo.data.as_rows` takes it.
        tell: From a batch on the device to what is said of its samples.
        batch_size: Samples in one pass, 1 or more.
        device: Where to run; None for where the model is.

    Raises:
        DataError: If a sample cannot be read.
        ShapeError: If a tensor does not fit.
        ConfigError: If ``batch_size`` is below 1, the device is not there, or a sample cannot be prepared.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    rows, single = as_rows(given, model.modalities)
    found = [row for part in _batches(model, rows, tell, batch_size, device) for row in part]
    return found[0] if single else found


def _batches(
    model: _Runs,
    rows: Sequence[Inputs],
    tell: Callable[[Mapping[str, Any]], Told],
    batch_size: int,
    device: str | torch.device | None,
) -> Iterator[list[Prediction]]:
    place = as_device(device) if device is not None else next(model.parameters()).device
    was_training = model.training
    model.train(False)
    model.to(place)
    try:
        with torch.no_grad(), ThreadPoolExecutor(max_workers=4) as pool:
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                told = tell(placed(prepared(model.preparers(), part, pool), place))
                yield [{name: each[row] for name, each in told.items()} for row in range(len(part))]
    finally:
        model.train(was_training)


def plain(output: Tensor) -> Tensor:
    """Bring an output to the CPU, in a type that numpy knows."""
    return output.float().cpu() if output.dtype in (torch.bfloat16, torch.float16) else output.cpu()


def as_device(device: str | torch.device) -> torch.device:
    """Check that a device is there.

    Raises:
        ConfigError: If it is not.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"device must be one of this machine, such as 'cpu', got {device!r}: {reason}") from error

"""An exponential moving average of the weights, by which a model is judged and which it is finally given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zoo.model import Model

__all__ = ["Averaging"]


class Averaging(TrainerCallback):
    """Follows a model's weights with their moving average, ``e = decay e + (1 - decay) w`` after each optimizer step.

    After the first step the average is the weights themselves. Buffers, and numbers that are not floating-point, are
    taken over as they are.

    Args:
        model: The model.
        names: The keys of its state dict that training may change.
        decay: Share of the average that stays, in ``(0, 1)``.
        learn: What learns from features anew, called whenever the model has other weights.

    Source:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the arithmetic is that of
        ``torch.optim.swa_utils``, over the tensors that train alone.
    """

    def __init__(self, model: Model, names: Sequence[str], decay: float, learn: Callable[[], None]) -> None:
        self._model = model
        self._names = tuple(names)
        self._learn = learn
        self._mean = get_ema_multi_avg_fn(decay)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._averaged = frozenset(parameters.intersection(names))
        self._values: dict[str, Tensor] = {}
        self._applied = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Follow one step."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now into the average."""
        now = self._now()
        if not self._values:
            self._values = {name: tensor.clone() for name, tensor in now.items()}
            return
        mixed = [name for name, tensor in now.items() if name in self._averaged and tensor.is_floating_point()]
        if mixed:
            self._mean([self._values[name] for name in mixed], [now[name] for name in mixed], None)
        for name in now.keys() - set(mixed):
            self._values[name].copy_(now[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights for a while; before the first step nothing is done."""
        if self._applied or not self._values:
            yield
            return
        kept = {name: tensor.clone() for name, tensor in self._now().items()}
        self._applied = True
        self._pour(self._values)
        try:
            self._learn()
            yield
        finally:
            self._pour(kept)
            self._applied = False

    def settle(self) -> None:
        """Give the model the averaged weights for good."""
        if self._values:
            self._pour(self._values)
            self._learn()

    def state(self) -> dict[str, Tensor]:
        """Give what a checkpoint keeps."""
        return dict(self._values)

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        self._values = {name: state[name].to(tensor.device, copy=True) for name, tensor in self._now().items() if state}

    def _now(self) -> dict[str, Tensor]:
        held = self._model.state_dict()
        return {name: held[name].detach() for name in self._names}

    @torch.no_grad()
    def _pour(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._now().items():
            tensor.copy_(values[name])

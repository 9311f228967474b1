"""Linear heads on kept features by L-BFGS: the heads' own losses over all rows at once, with an L2 penalty.

The objective is that of stochastic training, the sum of the tasks' mean losses, plus ``weight_decay / 2`` times the sum
of the squared weights (not the biases), on standardised features. For linear heads it is convex, so there is one
solution, and it is found to a gradient of 1e-4, as scikit-learn's logistic regression does, in the variables of
:mod:`zoo.training.linear.preconditioning`.

Source: Liu and Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", 1989; the implementation is
torch's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.contracts.features import Features
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.features.flat import from_flat
from zoo.training.judging.epochs import describe
from zoo.training.judging.history import EpochRow, History
from zoo.training.linear.layers import FirstLayer, Scale, first_layers, scale_of, written
from zoo.training.linear.preconditioning import Directions, directions_of
from zoo.training.linear.standardising import all_features
from zoo.training.planning.settings import Settings
from zoo.training.rows.batches import FeatureRows, Row

__all__ = ["minimised", "solve"]

log = logging.getLogger("zoo")

MOST = 1000
"""Most iterations."""
GRADIENT = 1e-4
"""Largest element of the gradient at which the solution is there."""
NARROW = 8
"""Fewer outputs than these are computed the other way round, which a matrix library does faster."""


def solve(model: Model, rows: Dataset[Row], run: Settings, history: History, place: torch.device) -> None:
    """Train a model's linear heads in place; it ends in eval mode.

    Args:
        model: The model; its heads were checked to be linear.
        rows: The training rows, of kept features.
        run: The user's settings; of them, ``weight_decay`` is the penalty.
        history: Where what happened is written, as one epoch.
        place: Where to run.

    Raises:
        ConfigError: If the features are not kept.
    """
    if not isinstance(rows, FeatureRows):
        raise ConfigError("solver='lbfgs' needs features that are kept, and those of this model are not.")
    model.to(place)
    flat, targets = all_features(rows, place)
    count, loss = minimised(model, from_flat(flat), targets, run.weight_decay)
    if count >= MOST:
        log.warning("L-BFGS stopped after %d iterations, short of the solution; raise weight_decay.", count)
    row = EpochRow(1, loss)
    history.epochs.append(row)
    history.best_epoch = 1
    log.info("L-BFGS took %d iterations. %s", count, describe(row))


def minimised(
    model: Model, features: Mapping[str, Features], targets: Mapping[str, Tensor], decay: float
) -> tuple[int, float]:
    """Bring linear heads to the least loss on features; the model ends in eval mode.

    Args:
        model: The model, on the device of the features.
        features: Stream name to the features of all rows.
        targets: Task name to targets.
        decay: Half of it is the factor of the squared weights, 0 or more.

    Returns:
        The number of iterations, and the loss without the penalty.
    """
    model.eval()
    layers = first_layers(model, features)
    scales = {}
    for stream in {one.stream for one in layers}:
        pooled = features[stream].pooled
        assert pooled is not None
        scales[stream] = scale_of(pooled)
        if any(one.layer.bias is None for one in layers if one.stream == stream):  # nothing could take up the mean
            scales[stream] = Scale(torch.zeros_like(scales[stream].mean), scales[stream].std)
    ready = {stream: _scaled(one, scales.get(stream)) for stream, one in features.items()}
    before = _few(model, features)
    with written(layers, scales):
        after = _few(model, ready)
        if all(torch.allclose(value, after[name], rtol=1e-3, atol=1e-3) for name, value in before.items()):
            return _minimise(_Problem(model, ready, targets, decay), layers)
    return _minimise(_Problem(model, features, targets, decay), layers)  # something else reads them, too


def _minimise(problem: _Problem, layers: list[FirstLayer]) -> tuple[int, float]:
    problem.precondition(layers)
    vector = problem.start()
    solver = torch.optim.LBFGS(
        [vector],
        max_iter=MOST,
        max_eval=2 * MOST,
        tolerance_grad=0.0,
        tolerance_change=1e-12,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> Tensor:
        loss, vector.grad = problem(vector.detach())
        return loss

    with _narrow(layers):
        solver.step(evaluate)
    problem.put(vector.detach())
    return int(solver.state[vector]["n_iter"]), problem.loss()


@contextmanager
def _narrow(layers: list[FirstLayer]) -> Iterator[None]:
    """Let layers of few outputs compute ``(W xᵀ)ᵀ`` for as long as the context is open."""
    narrow = [one.layer for one in layers if one.layer.out_features < NARROW]
    for layer in narrow:
        vars(layer)["forward"] = partial(_turned, layer)
    try:
        yield
    finally:
        for layer in narrow:
            del vars(layer)["forward"]


def _turned(layer: nn.Linear, given: Tensor) -> Tensor:
    product = (layer.weight @ given.T).T
    return product if layer.bias is None else product + layer.bias


def _scaled(features: Features, scale: Scale | None) -> Features:
    if scale is None or features.pooled is None:
        return features
    return replace(features, pooled=scale(features.pooled))


def _few(model: Model, features: Mapping[str, Features]) -> dict[str, Tensor]:
    """Give the outputs for the first rows; heads that are solved read pooled vectors only."""
    with torch.no_grad():
        return model.score(
            {s: Features(pooled=one.pooled[:4]) for s, one in features.items() if one.pooled is not None}
        )


class _Problem:
    """Loss and gradient of all heads as functions of one vector, in double precision for the line search."""

    def __init__(
        self, model: Model, features: Mapping[str, Features], targets: Mapping[str, Tensor], decay: float
    ) -> None:
        self._model, self._features, self._targets, self._decay = model, features, targets, decay
        self._parameters = [p for p in model.heads.parameters() if p.requires_grad]
        self._sizes = [p.numel() for p in self._parameters]
        self._directions: dict[int, Directions] = {}

    def precondition(self, layers: list[FirstLayer]) -> None:
        """Take other variables for the weights of layers that read features; they begin at 0."""
        made = {one.stream: self._directions_of(one.stream) for one in layers}
        self._directions = {id(one.layer.weight): made[one.stream] for one in layers}
        with torch.no_grad():
            for one in layers:
                one.layer.weight.zero_()

    def _directions_of(self, stream: str) -> Directions:
        pooled = self._features[stream].pooled
        assert pooled is not None
        return directions_of(pooled, self._decay)

    def start(self) -> Tensor:
        """Give the parameters as they are, as one vector."""
        return torch.cat([p.detach().flatten().cpu().double() for p in self._parameters]).requires_grad_()

    def put(self, vector: Tensor) -> list[Tensor]:
        """Take parameters from a vector, and give them in its precision."""
        values = self._values(vector)
        with torch.no_grad():
            for parameter, value in zip(self._parameters, values, strict=True):
                parameter.copy_(value)
        return values

    def _values(self, vector: Tensor) -> list[Tensor]:
        parts = zip(self._parameters, vector.split(self._sizes), strict=True)
        return [self._moved(parameter, part.view(parameter.shape)) for parameter, part in parts]

    def _moved(self, parameter: Tensor, value: Tensor) -> Tensor:
        directions = self._directions.get(id(parameter))
        return value if directions is None else directions(value)

    def loss(self) -> float:
        """Give the sum of the tasks' losses, without the penalty."""
        with torch.no_grad():
            return float(self._losses())

    def __call__(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Give the objective and its gradient at a vector; none where the parameters' own gradient says it is there."""
        values = self.put(vector)
        with torch.enable_grad():
            loss = self._losses()
            gradients = torch.autograd.grad(loss, self._parameters)
        total, largest = loss.detach().cpu().double(), 0.0
        found = []
        for parameter, gradient, value in zip(self._parameters, gradients, values, strict=True):
            exact = gradient.cpu().double()
            if parameter.ndim > 1:
                total = total + 0.5 * self._decay * value.square().sum()
                exact = exact + self._decay * value
            largest = max(largest, float(exact.abs().max()))
            found.append(self._moved(parameter, exact).flatten())
        return total, torch.cat(found) * (largest > GRADIENT)

    def _losses(self) -> Tensor:
        losses = self._model.losses(self._model.score(self._features), self._targets)
        return torch.stack(list(losses.values())).sum()

"""The learning rate, looked for: a short run whose rate rises until the loss does, and that leaves no trace."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from zoo.augmentation import Augmentation
from zoo.data import Table, check_labels, placed, split_table
from zoo.errors import ConfigError, PluginError
from zoo.model import Model
from zoo.registry import registry
from zoo.strict import check_options
from zoo.training.following import follow
from zoo.training.judging.evaluation import pick_device
from zoo.training.learning import learn_features
from zoo.training.planning.groups import parameter_groups, rate_in
from zoo.training.planning.making import make_plan
from zoo.training.planning.optimizers import MakesOptimizer, check_optimizer, make_optimizer
from zoo.training.planning.resting import begin, rested, trained_tasks
from zoo.training.resuming.randomness import generators, take_up_generators
from zoo.training.rows.batches import Collator, SampleRows, ViewRows
from zoo.training.rows.tables import read_for
from zoo.training.rows.targets import columns_of, labels_of, row_targets
from zoo.training.step import Step

__all__ = ["RateSearch", "find_lr", "steepest"]

_SMOOTHING = 0.9
_RISE = 4.0
"""The search ends where the smoothed loss is this many times the lowest so far."""


@dataclass(frozen=True, slots=True)
class RateSearch:
    """What a search for a learning rate found.

    Args:
        rates: The heads' learning rate of each step.
        losses: The loss of each step, before it.
        smoothed: Their exponential moving average, of weight 0.9 and without its start.
        suggestion: The rate at which the loss fell fastest; None if it never fell.
        diverged: Whether the search ended early, because the loss had risen to four times its lowest or was no number.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    diverged: bool

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the loss over the rate as a picture; its ending says of which kind.

        Args:
            path: The new file, such as ``rates.png``.

        Raises:
            PluginError: If matplotlib is not installed; it is in the extra ``plot``.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise PluginError("A picture of the rates needs matplotlib: pip install 'headzoo[plot]'.") from error
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.8", label="loss")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, linestyle="--", color="0.4", label=f"{self.suggestion:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate of the heads")
        axes.set_ylabel("loss")
        axes.legend()
        figure.savefig(path)
        return Path(path)


def find_lr(
    model: Model,
    data: Table | str | Path | Any,
    *,
    method: str = "fine_tuning",
    steps: int = 100,
    lowest: float = 1e-6,
    highest: float = 1.0,
    batch_size: int = 32,
    weight_decay: float = 0.01,
    optimizer: MakesOptimizer = "adamw",
    optimizer_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    validation: float = 0.2,
    strict: bool = False,
    augmentation: Augmentation | str | None = None,
    freeze: str | Sequence[str] | None = None,
    freeze_norms: bool = False,
    **settings: Any,
) -> RateSearch:
    """Look for a learning rate: train a copy with a rate that rises exponentially from step to step.

    The model, torch's, NumPy's and Python's random numbers and every mode stay as they are. It trains what the method
    trains in its first epoch, each stage at its share of the heads' rate, on the rows on which ``zoo.fit`` would.

    Args:
        model: The model.
        data: As for ``zoo.fit``.
        method: As for ``zoo.fit``.
        steps: Optimizer steps from the lowest rate to the highest, 10 or more.
        lowest: The first step's learning rate of the heads, above 0.
        highest: The last step's, above the lowest.
        batch_size: Rows in a step.
        weight_decay: As for ``zoo.fit``.
        optimizer: As for ``zoo.fit``.
        optimizer_settings: As for ``zoo.fit``.
        seed: Seed of the split, the order of the rows and dropout.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        validation: Share of the training rows that is left out, as ``zoo.fit`` leaves it out.
        strict: Whether an unreadable picture is an error instead of a skipped row.
        augmentation: As for ``zoo.fit``.
        freeze: As for ``zoo.fit``.
        freeze_norms: As for ``zoo.fit``.
        settings: The method's own settings.

    Returns:
        The losses by rate, and the rate at which the loss fell fastest.

    Raises:
        UnknownName: If the method, a setting, a label column or what is to be frozen does not exist.
        ConfigError: If a setting cannot be used.
        DataError: If the data cannot be used.

    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv:1506.01186, section 3.3. Ours rises
        exponentially instead of linearly, and suggests the steepest descent of the smoothed loss, as fastai does.
    """
    _check(steps, lowest, highest, batch_size)
    place, kind = pick_device(device), registry().method_class(method)
    own = {name for name in inspect.signature(find_lr).parameters if name != "settings"}
    check_options(f"zoo.find_lr with the method {method!r}", settings, own | {field.name for field in fields(kind)})
    check_optimizer(optimizer, optimizer_settings or {}, weight_decay=weight_decay)
    chosen = kind.with_settings(method, settings)
    named = [freeze] if isinstance(freeze, str) else list(freeze or ())
    before = generators()
    try:
        tried = copy.deepcopy(model)
        torch.manual_seed(seed)
        chosen.prepare(tried, seed=seed)
        if chosen.objective(tried, seed=seed) is not None:
            raise ConfigError(
                f"zoo.find_lr tries rates on the heads' own losses, and the method {method!r} trains more; look for a "
                "rate with fine_tuning, or try a few."
            )
        plan = rested(tried, make_plan(chosen, tried, epochs=max(10, len(tried.stages())), lr=highest), named)
        table = read_for(tried, data, strict=strict)
        columns = columns_of(tried, table)
        check_labels(table, sorted(set(columns.values())))
        shares = {"train": 1 - validation, **({"validation": validation} if validation else {})}
        rows = split_table(table, fractions=shares, seed=seed, stratify=sorted(set(columns.values())))["train"]
        targets = row_targets(tried, rows, columns)
        for name, task in trained_tasks(tried, named).items():
            task.prepare(labels_of(rows.column(columns[name])))
        begin(tried, plan, named, norms=freeze_norms)
        how = Augmentation.of(augmentation)
        views = SampleRows(tried, rows, targets) if how.idle else ViewRows(tried, rows, targets, how, seed)
        learn_features(tried.to(place), views, batch_size=batch_size, place=place)
        follow(tried, plan, 0)
        groups = parameter_groups(tried, plan, weight_decay=weight_decay)
        for group in groups:
            group["lr"] = rate_in(group, plan.at(0))
        made = make_optimizer(optimizer, groups, optimizer_settings or {})
        return _search(tried, made, _batches(tried, views, batch_size, seed), _rising(lowest, highest, steps), place)
    finally:
        take_up_generators(before)


def _check(steps: int, lowest: float, highest: float, batch_size: int) -> None:
    """Refuse numbers that make no search."""
    for what, value, least in (("steps", steps, 10), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{what} must be a whole number, {least} or more, got {value!r}.")
    if not (0 < lowest < highest < math.inf):
        raise ConfigError(f"The rates must rise from above 0 to a finite number, got {lowest!r} to {highest!r}.")


def _rising(lowest: float, highest: float, steps: int) -> list[float]:
    """Give rates in equal ratios, the first and the last exact."""
    return [lowest * (highest / lowest) ** (n / (steps - 1)) for n in range(steps - 1)] + [highest]


def _batches(model: Model, rows: SampleRows, batch_size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Give batches without end, the rows in a new order each time; a last one of a single row is left out."""
    order = torch.Generator().manual_seed(seed)
    drop = len(rows) > batch_size and len(rows) % batch_size == 1
    loader = DataLoader(
        rows,
        batch_size=batch_size,
        shuffle=True,
        generator=order,
        drop_last=drop,
        collate_fn=Collator(model.preparers()),
    )
    epoch = 0
    while True:
        if isinstance(rows, ViewRows):
            rows.epoch = epoch
        yield from loader
        epoch += 1


def _search(
    model: Model,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Any]],
    rates: Sequence[float],
    place: torch.device,
) -> RateSearch:
    """Step with each rate in turn until the loss has risen."""
    objective = Step(model.train())
    shares = [group["lr"] / rates[-1] for group in optimizer.param_groups]
    losses: list[float] = []
    smoothed: list[float] = []
    for rate in rates:
        loss = objective(**placed(next(batches), place))["loss"]
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            losses.pop()
            break
        smoothed.append(_smooth(losses))
        if smoothed[-1] > _RISE * min(smoothed):
            break
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = tuple(rates[: len(losses)])
    diverged = len(losses) < len(rates) or smoothed[-1] > _RISE * min(smoothed)
    return RateSearch(found, tuple(losses), tuple(smoothed), steepest(found, smoothed), diverged)


def _smooth(losses: Sequence[float]) -> float:
    """Give the moving average up to the last loss, as if there had been no zeros before the first."""
    weights = [_SMOOTHING ** (len(losses) - 1 - n) for n in range(len(losses))]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Give the rate at which a loss falls fastest over the logarithm of the rate.

    Args:
        rates: Rising rates, above 0.
        losses: The loss at each of them.

    Returns:
        The middle of the steepest step of two; None if the loss falls nowhere, or there are less than three.

    Example:
        >>> steepest([0.1, 1.0, 10.0, 100.0], [5.0, 4.0, 1.0, 2.0])
        1.0
    """
    logs = [math.log(rate) for rate in rates]
    slopes = [
        ((losses[n + 1] - losses[n - 1]) / (logs[n + 1] - logs[n - 1]), rates[n]) for n in range(1, len(rates) - 1)
    ]
    slope, rate = min(slopes, default=(0.0, 0.0))
    return rate if slope < 0 else None

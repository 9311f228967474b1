"""The table of stages × epochs × rates: what a run will train, before it is trained."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from zoo.contracts.method import Method, Plan, StageState
from zoo.model import Model
from zoo.registry import registry
from zoo.stages import heads_named
from zoo.strict import check_options
from zoo.training.planning.groups import HEADS, Slot, slots
from zoo.training.planning.making import make_plan
from zoo.training.planning.optimizers import MakesOptimizer
from zoo.training.planning.resting import rested, rests
from zoo.training.planning.schedules import Schedule
from zoo.training.planning.settings import Settings, name_of

__all__ = ["PlanCell", "PlanPhase", "PlanRow", "PlanTable", "plan", "tabulate"]


@dataclass(frozen=True, slots=True)
class PlanPhase:
    """A column: epochs in which the same trains at the same rates.

    Args:
        first: Its first epoch, counted from 1; None where the validation values decide when it begins.
        last: Its last epoch; None as above.
        step: Its number, counted from 1, where the validation values decide; else None.
        restarts: Whether warm-up and schedule begin anew with it.
    """

    first: int | None
    last: int | None
    step: int | None = None
    restarts: bool = False

    def __str__(self) -> str:
        """Write it as the head of a column."""
        if self.first is None:
            return f"step {self.step}"
        told = f"epoch {self.first}" if self.first == self.last else f"epochs {self.first}-{self.last}"
        return f"{told}, anew" if self.restarts else told


@dataclass(frozen=True, slots=True)
class PlanCell:
    """What a stage does in a phase.

    Args:
        parameters: How many of its parameters train.
        lr: Highest learning rate of them; 0 where it rests.
        lowest: Lowest learning rate of them; another one where blocks have their own.
        train: Which of its parameters train, ``all``, ``biases`` or ``adapters``.
    """

    parameters: int
    lr: float
    lowest: float
    train: str

    def __str__(self) -> str:
        """Write it as a cell; a dash where nothing trains."""
        if not self.parameters:
            return "-"
        told = f"{self.lr:.3g}" if self.lr == self.lowest else f"{self.lowest:.2g} to {self.lr:.3g}"
        return told if self.train == "all" else f"{told} ({self.train})"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A stage.

    Args:
        name: ``stream.stage``, or ``heads``.
        parameters: How many parameters it has.
        cells: What it does in each phase.
    """

    name: str
    parameters: int
    cells: tuple[PlanCell, ...]


@dataclass(frozen=True, slots=True)
class PlanTable:
    """What trains when, at what rate.

    Args:
        method: Name of the method.
        settings: Its settings.
        epochs: Number of epochs.
        optimizer: Name of the optimizer.
        schedule: Name of the schedule.
        phases: The columns.
        rows: The rows: the stages of each stream in the order of execution, then the heads.
        patience: Epochs without a better validation value after which the next phase begins; None where each phase has
            its epochs.
    """

    method: str
    settings: Mapping[str, Any]
    epochs: int
    optimizer: str
    schedule: str
    phases: tuple[PlanPhase, ...]
    rows: tuple[PlanRow, ...]
    patience: int | None = None

    def trained(self) -> tuple[int, ...]:
        """Count the parameters that train, phase by phase."""
        return tuple(sum(row.cells[at].parameters for row in self.rows) for at in range(len(self.phases)))

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "settings": dict(self.settings), "trained": list(self.trained())}

    def lines(self) -> list[tuple[str, ...]]:
        """Give head, rows and the row of sums as texts."""
        return [
            ("stage", "parameters", *map(str, self.phases)),
            *((row.name, f"{row.parameters:,}", *map(str, row.cells)) for row in self.rows),
            ("trains", f"{sum(row.parameters for row in self.rows):,}", *(f"{count:,}" for count in self.trained())),
        ]

    def caption(self) -> str:
        """Say in one line what the rates are."""
        many = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        told = f"{self.method}, {many}, {self.optimizer}: highest learning rates; the schedule is {self.schedule}."
        if self.patience is None:
            return told
        once = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
        return f"{told} Each further step begins after {once} without a better validation value."

    def __str__(self) -> str:
        """Write it as text, each column as wide as it must be."""
        lines = self.lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        told = [
            "  ".join(cell.rjust(width) if at == 1 else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
            for pairs in (list(zip(line, widths, strict=True)) for line in lines)
        ]
        return "\n".join([self.caption(), *(line.rstrip() for line in told)])


def plan(
    model: Model,
    *,
    method: str = "fine_tuning",
    epochs: int = 10,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float | None = None,
    optimizer: MakesOptimizer = "adamw",
    optimizer_settings: Mapping[str, Any] | None = None,
    schedule: Schedule = "cosine",
    schedule_settings: Mapping[str, Any] | None = None,
    freeze: str | Sequence[str] | None = None,
    **settings: Any,
) -> PlanTable:
    """Say what ``zoo.fit`` would train when, and at what rate, without training and without data.

    Args:
        model: The model; it stays as it is.
        method: As for ``zoo.fit``.
        epochs: As for ``zoo.fit``.
        lr: As for ``zoo.fit``.
        weight_decay: As for ``zoo.fit``.
        warmup: As for ``zoo.fit``.
        optimizer: As for ``zoo.fit``.
        optimizer_settings: As for ``zoo.fit``.
        schedule: As for ``zoo.fit``.
        schedule_settings: As for ``zoo.fit``.
        freeze: As for ``zoo.fit``.
        settings: The method's own settings.

    Returns:
        The table; ``str`` of it is what ``zoo plan`` prints.

    Raises:
        UnknownName: If the method, a setting or a stage does not exist.
        ConfigError: If a setting cannot be used, or the plan trains nothing.

    Example:
        >>> import zoo
        >>> model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None)
        >>> print(zoo.plan(model, method="partial", epochs=3).rows[4].cells[0])
        0.0001
    """
    run = Settings(
        epochs, 1, lr, weight_decay, warmup, 0, "cpu", "fp32", 0.0, None, None, None, None,
        optimizer=optimizer, optimizer_settings=optimizer_settings or {}, schedule=schedule,
        schedule_settings=schedule_settings or {},
    )  # fmt: skip
    kind = registry().method_class(method)
    own = {name for name in inspect.signature(plan).parameters if name not in ("model", "settings")}
    check_options(f"zoo.plan with the method {method!r}", settings, own | {field.name for field in fields(kind)})
    chosen = kind.with_settings(method, settings)
    if kind.prepare is not Method.prepare:
        model = copy.deepcopy(model)
        chosen.prepare(model)
    named = [freeze] if isinstance(freeze, str) else list(freeze or ())
    made = rested(model, make_plan(chosen, model, epochs=epochs, lr=lr, schedule=schedule), named)
    resting = frozenset[str]().union(*(heads_named(model.spec, name) or () for name in named))
    return tabulate(model, made, method, chosen.told(), run, resting=resting)


def tabulate(
    model: Model,
    made: Plan,
    method: str,
    settings: Mapping[str, Any],
    run: Settings,
    *,
    resting: frozenset[str] = frozenset(),
) -> PlanTable:
    """Make the table of a plan.

    Args:
        model: The model.
        made: The plan.
        method: The method's name.
        settings: The method's settings.
        run: The user's settings.
        resting: Heads that are to be frozen, besides those that are.
    """
    phases = _phases(made)
    places = slots(model, made)
    sizes: dict[str, list[tuple[int, Slot, bool]]] = {stage: [] for stage in _stages(model)}
    for name, parameter in model.named_parameters():
        head = name.split(".")[1] if places[name].stage == HEADS else ""
        sizes[places[name].stage].append((parameter.numel(), places[name], head in resting or rests(model, name)))
    rows = []
    for stage, held in sizes.items():
        states = made.states_of(stage)
        cells = tuple(_cell(held, states[at]) for at, _ in phases)
        rows.append(PlanRow(stage, sum(count for count, _, _ in held), cells))
    return PlanTable(
        method=method,
        settings=dict(settings),
        epochs=run.epochs,
        optimizer="lbfgs" if run.solver == "lbfgs" else name_of(run.optimizer),
        schedule="constant" if run.solver == "lbfgs" else name_of(run.schedule),
        phases=tuple(phase for _, phase in phases),
        rows=tuple(rows),
        patience=made.patience,
    )


def _stages(model: Model) -> list[str]:
    return [
        *(
            f"{stream}.{stage.name}"
            for stream, backbone in model.backbones.items()
            for stage in backbone.spec.stages
            if stage.name not in model.cut[stream]
        ),
        HEADS,
    ]


def _cell(held: Sequence[tuple[int, Slot, bool]], state: StageState) -> PlanCell:
    rates = [(count, slot.rate(state)) for count, slot, still in held if not still]
    training = [rate for _, rate in rates if rate]
    count = sum(count for count, rate in rates if rate)
    return PlanCell(count, max(training, default=0.0), min(training, default=0.0), state.train)


def _phases(made: Plan) -> list[tuple[int, PlanPhase]]:
    """Give each phase with the number of the entry that it follows; epochs that are alike are one."""
    if made.patience is not None:
        return [(at, PlanPhase(None, None, at + 1)) for at in range(len(made.epochs))]
    found: list[tuple[int, PlanPhase]] = []
    for epoch, states in enumerate(made.epochs):
        if found and epoch not in made.restarts and states == made.epochs[epoch - 1]:
            at, phase = found.pop()
            found.append((at, PlanPhase(phase.first, epoch + 1, restarts=phase.restarts)))
        else:
            found.append((epoch, PlanPhase(epoch + 1, epoch + 1, restarts=epoch in made.restarts)))
    return found

"""The method contract: which stages train when, and at what rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo.strict import check_options

if TYPE_CHECKING:
    from zoo.contracts.objective import Objective
    from zoo.data import Table
    from zoo.model import Model

__all__ = ["FROZEN", "Method", "Plan", "StageState", "Trains"]

Trains = Literal["all", "biases", "adapters"]
"""Which parameters of a stage train: all, those called ``bias``, or those that an adapter added."""


@dataclass(frozen=True, slots=True)
class StageState:
    """What a stage does in one epoch.

    Args:
        trainable: Whether its weights change; if not, its running statistics and dropout rest as well.
        lr: Learning rate of its parameters, of those of its last block where ``decay`` is not 1; 0 for a frozen stage.
        train: Which of its parameters train. With anything but ``all``, its norms with running statistics use those and
            do not change them.
        decay: What the rate of a block is multiplied with to give that of the block before it, above 0.

    Raises:
        ConfigError: If a rate, a decay or the kind of parameters cannot be used.
    """

    trainable: bool
    lr: float = 0.0
    train: Trains = "all"
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (_is_number(self.lr) and (self.lr > 0 if self.trainable else self.lr == 0)):
            must = "above 0 and finite where a stage trains" if self.trainable else "0 where a stage is frozen"
            raise ConfigError(f"A learning rate must be {must}, got {self.lr!r}.")
        if not (_is_number(self.decay) and self.decay > 0):
            raise ConfigError(f"decay must be a number above 0, got {self.decay!r}.")
        if self.train not in get_args(Trains):
            raise ConfigError(f"train must be one of {', '.join(get_args(Trains))}, got {self.train!r}.")

    def lr_of(self, block: int, blocks: int) -> float:
        """Give the rate of a block of the stage.

        Args:
            block: Its number, counted from 0.
            blocks: How many there are.
        """
        return self.lr * self.decay ** max(0, blocks - 1 - block)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


FROZEN = StageState(trainable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What trains when: a pure function of the epoch, or of the epoch and how the epochs before went.

    Args:
        epochs: For each epoch, stage to state. Stages of a backbone are written ``stream.stage``, heads ``heads``. With
            ``patience``, one entry a phase instead.
        restarts: Epochs at which warm-up and schedule begin anew, counted from 0 and above 0.
        patience: Epochs without a better one after which the next phase begins; None where ``epochs`` are epochs.

    Raises:
        ConfigError: If there is no epoch, or the restarts or the patience cannot be used.
    """

    epochs: tuple[Mapping[str, StageState], ...]
    restarts: tuple[int, ...] = ()
    patience: int | None = None

    def __post_init__(self) -> None:
        """Check that it can be followed."""
        if not self.epochs:
            raise ConfigError("A plan must have at least one epoch, got none.")
        if self.patience is not None and (self.patience < 1 or self.restarts):
            raise ConfigError(
                f"A plan's patience must be 1 or more, and without restarts; got {self.patience}, {self.restarts}."
            )
        if any(not 0 < epoch < len(self.epochs) for epoch in self.restarts):
            raise ConfigError(f"A plan must restart in epochs 1 to {len(self.epochs) - 1}, got {list(self.restarts)}.")

    def phase(self, epoch: int, values: Sequence[float] = ()) -> int:
        """Give the number of the entry of ``epochs`` that an epoch follows.

        With patience, the phase is found from the values alone: a value is better if it is above all before it; after
        ``patience`` values in a row that are not, the next phase begins and counts anew. NaN is never better.

        Args:
            epoch: The epoch, counted from 0.
            values: For each epoch before it, the validation value by which the best epoch is chosen, turned so that
                more is better; only read with ``patience``.

        Raises:
            ValueError: If the plan has patience and there are fewer values than epochs before.
        """
        last = len(self.epochs) - 1
        if self.patience is None:
            return min(epoch, last)
        if len(values) < epoch:
            raise ValueError(f"The phase of epoch {epoch} needs {epoch} values, got {len(values)}.")
        best, waited, phase = -math.inf, 0, 0
        for value in values[:epoch]:
            better = value > best
            best, waited = (value, 0) if better else (best, waited + 1)
            if waited >= self.patience and phase < last:
                phase, waited = phase + 1, 0
        return phase

    def at(self, epoch: int, values: Sequence[float] = ()) -> Mapping[str, StageState]:
        """Give the states in an epoch, counted from 0; the last one's go on after the end. See :meth:`phase`."""
        return self.epochs[self.phase(epoch, values)]

    def stages(self) -> frozenset[str]:
        """Give all stages that the plan names."""
        return frozenset(stage for states in self.epochs for stage in states)

    def states_of(self, stage: str) -> tuple[StageState, ...]:
        """Give what a stage does, one entry an epoch, or a phase."""
        return tuple(states.get(stage, FROZEN) for states in self.epochs)

    def never_trained(self) -> frozenset[str]:
        """Give the stages that are frozen from the first epoch to the last."""
        return frozenset(s for s in self.stages() if not any(state.trainable for state in self.states_of(s)))


@dataclass(frozen=True)
class Method(ABC):
    """A way of transfer learning. Its settings are its dataclass fields; all have defaults."""

    summary: ClassVar[str]
    """One line for ``zoo methods``."""
    when: ClassVar[str] = ""
    """When to use it rather than another, a sentence for ``zoo methods``."""
    labelled: ClassVar[bool] = True
    """Whether it learns from labels; where not, its objective says so as well, and ``zoo fit`` builds no heads."""

    def prepare(self, model: Model, *, seed: int = 0) -> None:
        """Change the model before the plan is made, for a method that adds parameters; by default nothing.

        What it adds stands in ``backbone.adapters``, by the path of the layer beside which it is. Called once a run,
        also on a model that was prepared before.

        Args:
            model: The model that is to be trained.
            seed: Seed of what is drawn at random, the run's own.
        """
        return

    def meet(self, model: Model, table: Table, columns: Mapping[str, str], *, seed: int = 0) -> None:
        """Look at the labels of the training rows before they are encoded, such as for new classes; by default nothing.

        Called once a run of a method with labels, after :meth:`objective`; heads that it grows
        (:meth:`zoo.Model.grow`) train as they are then.

        Args:
            model: The model that is to be trained.
            table: The training rows.
            columns: Task name to label column.
            seed: Seed of what is drawn at random, the run's own.
        """
        return

    def rows(self, model: Model, table: Table, columns: Mapping[str, str]) -> Table:
        """Give the rows to train on: those of the data, behind which it may add others; by default nothing is added.

        Called once a run of a method with labels, after :meth:`meet`, when validation and test rows are held out and
        few shots are drawn.

        Args:
            model: The model that is to be trained.
            table: The training rows.
            columns: Task name to label column.
        """
        return table

    def finish(self, model: Model) -> None:
        """Change the model when it has been trained and has the weights of its best epoch; by default nothing.

        Args:
            model: The model.
        """
        return

    def objective(self, model: Model, *, seed: int = 0) -> Objective | None:
        """Give what is trained beside the heads' losses, or in their place; by default None, the heads' losses alone.

        Called once a run, after :meth:`prepare`.

        Args:
            model: The model that is to be trained.
            seed: Seed of what is drawn at random, the run's own.
        """
        return None

    def told(self) -> dict[str, Any]:
        """Give the settings as JSON, for the history and the bundle; those that are no JSON must be named here."""
        return asdict(self)

    @abstractmethod
    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Say what trains when.

        Args:
            streams: Stream name to the outline of its backbone.
            epochs: Number of epochs, 1 or more.
            lr: Learning rate of the heads, above 0.

        Raises:
            ConfigError: If the settings do not fit the backbones or the number of epochs.
            UnknownName: If a setting names a stage that is not there.
        """

    @classmethod
    def with_settings(cls, name: str, settings: Mapping[str, Any]) -> Method:
        """Make the method with a user's settings.

        Raises:
            UnknownName: If a setting is not known.
            ConfigError: If a value cannot be used.
        """
        check_options(f"The method {name!r}", settings, {f.name for f in fields(cls)})
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"The method {name!r} cannot use {dict(settings)}: {error}.") from error

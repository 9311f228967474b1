"""The method contract: which stages train when, and at what rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.errors import ConfigError
from zoo.spec import check_options

if TYPE_CHECKING:
    from zoo.spec import BackboneSpec

__all__ = ["FROZEN", "Method", "Plan", "StageState"]


@dataclass(frozen=True, slots=True)
class StageState:
    """What a stage does in one epoch.

    Args:
        trainable: Whether its weights change; if not, its running statistics and dropout rest as well.
        lr: Learning rate of its parameters; 0 for a frozen stage.
    """

    trainable: bool
    lr: float = 0.0


FROZEN = StageState(trainable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What trains when: a pure function of the epoch.

    Args:
        epochs: For each epoch, stage to state. Stages of a backbone are written ``stream.stage``, heads ``heads``.
    """

    epochs: tuple[Mapping[str, StageState], ...]

    def at(self, epoch: int) -> Mapping[str, StageState]:
        """Give the states in an epoch, counted from 0; the last one's go on after the end."""
        return self.epochs[min(epoch, len(self.epochs) - 1)]

    def stages(self) -> frozenset[str]:
        """Give all stages that the plan names."""
        return frozenset(stage for states in self.epochs for stage in states)

    def never_trained(self) -> frozenset[str]:
        """Give the stages that are frozen from the first epoch to the last."""
        return frozenset(s for s in self.stages() if not any(states.get(s, FROZEN).trainable for states in self.epochs))


@dataclass(frozen=True)
class Method(ABC):
    """A way of transfer learning. Its settings are its dataclass fields; all have defaults."""

    summary: ClassVar[str]
    """One line for ``zoo list --methods``."""

    @abstractmethod
    def plan(self, streams: Mapping[str, BackboneSpec], *, epochs: int, lr: float) -> Plan:
        """Say what trains when.

        Args:
            streams: Stream name to the spec of its backbone.
            epochs: Number of epochs, 1 or more.
            lr: Learning rate of the heads.
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

"""Pruning: layers become narrower, or weights zero, before the run, which then trains what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.settings import check_count, check_number

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["Pruning"]

SHARE = 0.6
"""Share of the multiply-accumulates that is left where no target is set."""


@dataclass(frozen=True)
class Pruning(Method):
    """Prune the backbones once, before the first epoch, then train everything that is left.

    What is pruned, and what the targets mean, is said by ``zoo.prune``, which does it. A model that meets the target
    already is not pruned any further, so a run on a pruned model, or one that goes on, only trains. The running
    statistics of norms follow the narrower layers as the run trains; where norms rest, measure them first, with
    ``zoo.prune(model, macs=…, data=…)``.

    Args:
        macs: Share of the multiply-accumulates of the whole architecture that may be left, in ``(0, 1)``; None for 0.6
            where no other target is set.
        latency: Milliseconds that one picture may take in the backbones on this CPU; None for another target.
        sparsity: Share of the weights of convolutions and linear layers that is to be zero, in ``(0, 1)``, and stays so
            in training; None for another target.
        importance: By what the least important are told: ``l2`` (by default), ``l1`` or ``random``; for ``sparsity``
            ``l1`` (by default) or ``random``.
        ranking: With what a part is compared: ``local``, with those of its own layers, so that all lose the same share,
            or ``global``, with those of all layers. None for ``local`` where channels go, and for ``global`` where
            heads of attention, hidden units or single weights do.
        multiple_of: Numbers of channels and hidden units stay multiples of this, 1 or more; None for 8. Not with
            ``sparsity``, which changes no widths.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Li et al., "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710: prune by norms once, then train on.
        Ours prunes all layers that hang together with DepGraph (Fang et al., 2023, arXiv:2301.12900). For ``sparsity``
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv:1506.02626, in
        one round; the weights that are left go on from the values that they have.
    """

    macs: float | None = None
    latency: float | None = None
    sparsity: float | None = None
    importance: str | None = None
    ranking: str | None = None
    multiple_of: int | None = None
    backbone_lr_scale: float = 0.1

    summary = "Narrower layers or zero weights, chosen once before the run, which then trains what is left"
    when = "A model that must be smaller or faster, where some labelled rows are there to repair it."

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        targets = {"macs": self.macs, "latency": self.latency, "sparsity": self.sparsity}
        given = {name: value for name, value in targets.items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"pruning has one target of macs, latency and sparsity, got {' and '.join(given)}.")
        for name, value in given.items():
            if name == "latency":
                check_number(name, value)
            else:
                check_number(name, value, below=1)
        known = ("l1", "random") if self.sparsity is not None else ("l1", "l2", "random")
        if self.importance == "taylor":
            raise ConfigError(
                "importance='taylor' needs data before the run, which a method does not have; call zoo.prune(model, "
                "importance='taylor', data=…), then train with any method."
            )
        if self.importance is not None and self.importance not in known:
            raise ConfigError(f"importance must be one of {', '.join(known)}, got {self.importance!r}.")
        if self.ranking not in (None, "local", "global"):
            raise ConfigError(f"ranking must be one of local, global, got {self.ranking!r}.")
        if self.multiple_of is not None:
            check_count("multiple_of", self.multiple_of)
            if self.sparsity is not None:
                raise ConfigError("multiple_of is of widths, and sparsity changes none; leave it out.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)

    def told(self) -> dict[str, Any]:
        """Give the settings, with the target that counts where none is set."""
        return {**asdict(self), "macs": self._macs}

    @property
    def _macs(self) -> float | None:
        return SHARE if self.macs is self.latency is self.sparsity is None else self.macs

    def prepare(self, model: Model, *, seed: int = 0) -> None:
        """Prune the model, unless it meets the target."""
        import zoo

        how: Any = self.importance
        ranking: Any = self.ranking
        zoo.prune(
            model,
            macs=self._macs,
            latency=self.latency,
            sparsity=self.sparsity,
            importance=how,
            ranking=ranking,
            multiple_of=self.multiple_of,
            seed=seed,
        )

    def objective(self, model: Model, *, seed: int = 0) -> Objective | None:
        """Hold the zeros where single weights are pruned; widths need nothing."""
        return None if self.sparsity is None else _Zeros()

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, outline in streams.items() for stage in outline.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)


class _Zeros(Objective):
    """Trains by the heads' own losses, and sets what is zero in the backbones back to zero after each step."""

    def __init__(self) -> None:
        super().__init__()
        self._masks: list[tuple[torch.nn.Parameter, Tensor]] = []

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Write down where the zeros are."""
        self._masks = [
            (weight, weight.detach() != 0)
            for backbone in model.backbones.values()
            for weight in backbone.native.parameters()
            if weight.ndim > 1 and bool((weight == 0).any())
        ]

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' losses as they are."""
        return batch.losses

    def stepped(self, model: Model, progress: float) -> None:
        """Set the zeros back."""
        with torch.no_grad():
            for weight, kept in self._masks:
                weight.mul_(kept)

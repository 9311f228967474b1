"""A batch in, the loss and the outputs out: what an engine trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.objective import Batch, Objective
from zoo.model import Model
from zoo.training.dividing import weighed
from zoo.training.features.store import from_flat
from zoo.training.ranks import Ranks
from zoo.training.rows.asked import by_kind
from zoo.training.rows.mixing import Mixing, before_it

__all__ = ["Step"]


class Step(nn.Module):
    """A batch in, the loss and the outputs out: what the engine trains.

    Args:
        model: The model.
        objective: What a method trains beside the heads' losses, or in their place; None for these alone.
        later: Whether all backbones may rest for now, since a later epoch trains one; see ``Model.losses``.
        mixing: How batches are mixed in training; None for not at all.
        ranks: The processes among which a batch is divided; in training all of them must have their part at once.
    """

    def __init__(
        self,
        model: Model,
        *,
        objective: Objective | None = None,
        later: bool = False,
        mixing: Mixing | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks or Ranks()
        self.model = model
        self.objective = objective
        self.done = (0, 1)
        """The number of the step, and that of all; the engine sets it."""
        self.later = later
        self.mixing = mixing
        if self.ranks.several:  # with one that no pass uses, DDP never warns that it found none such
            self.unused = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        targets: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
        features: Mapping[str, Tensor] | None = None,
        rows: Tensor | None = None,
        **asked: Any,
    ) -> dict[str, Any]:
        """Give the sum of the losses, and the outputs.

        Args:
            targets: Task name to encoded targets.
            inputs: Input name to pictures.
            features: Flat features that were computed before, instead of inputs.
            rows: Numbers of the rows, for an objective.
            asked: What an objective asked for, as :class:`zoo.training.rows.asked.AskedRows` gives it.
        """
        if self.objective is not None and self.training:
            return self._by_objective(self.objective, targets, inputs, features, rows, asked)
        share = 1.0
        if self.mixing is not None and self.training and inputs is not None:
            inputs, share = self.mixing.mixed(inputs)
        outputs = self.run(inputs, features)
        losses = self.model.losses(outputs, targets, later=self.later)
        if share < 1:
            others = self.model.losses(outputs, before_it(targets), later=self.later)
            losses = {name: share * loss + (1 - share) * others[name] for name, loss in losses.items()}
        if self.ranks.several and self.training:
            losses = weighed(self.model, losses, targets, self.ranks)
            outputs = {name: output.detach() for name, output in outputs.items()}  # gradients come by the loss alone
        return {"loss": torch.stack(list(losses.values())).sum(), "outputs": outputs}

    def _by_objective(
        self,
        objective: Objective,
        targets: Mapping[str, Tensor],
        inputs: Mapping[str, Any] | None,
        features: Mapping[str, Tensor] | None,
        rows: Tensor | None,
        asked: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Give the sum of the objective's parts, and the outputs."""
        assert rows is not None
        step, steps = self.done
        batch = Batch(
            rows=rows, inputs=inputs, targets=targets, step=step, progress=step / steps, **by_kind(objective, asked)
        )
        outputs: dict[str, Tensor] = {}
        if objective.passes:
            if features is not None:
                batch.features = from_flat(features)
            else:
                assert inputs is not None
                batch.features = self.model.features(inputs, wants=objective.wants)
            batch.outputs = outputs = self.model.score(batch.features)
            losses = self.model.losses(outputs, targets, later=self.later)
            if self.ranks.several:
                losses = weighed(self.model, losses, targets, self.ranks)
            batch.losses = losses
        parts = objective.losses(self.model, batch)
        return {
            "loss": torch.stack([part.float() for part in parts.values()]).sum(),
            "outputs": {name: output.detach() for name, output in outputs.items()},
        }

    def run(self, inputs: Mapping[str, Any] | None, features: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Give the outputs, from pictures or from features."""
        return self.model.score(from_flat(features)) if features is not None else self.model(inputs)

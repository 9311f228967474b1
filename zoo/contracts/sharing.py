"""What tasks share below their heads: the parameters by which their gradients meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

__all__ = ["Shared"]


@dataclass(frozen=True, slots=True)
class Shared:
    """The trainable parameters that tasks may have in common; which of them a task really reads, its graph says.

    Args:
        backbones: Stream name to the parameters of its backbone, in the order of execution.
        trunk: Those of the heads around the tasks, outermost first.
        later: Whether there may be none for now, since a later epoch trains a backbone.
    """

    backbones: Mapping[str, Sequence[nn.Parameter]]
    trunk: tuple[nn.Parameter, ...] = ()
    later: bool = False

    @classmethod
    def of(cls, backbones: Mapping[str, nn.Module], *, later: bool = False) -> Shared:
        """Take what is trainable now of a model's backbones."""
        trainable = {name: [p for p in one.parameters() if p.requires_grad] for name, one in backbones.items()}
        return cls(trainable, later=later)

    def under(self, parameters: Iterable[nn.Parameter]) -> Shared:
        """Add the parameters of one more head to the trunk."""
        return replace(self, trunk=(*self.trunk, *parameters))

"""What pruning did, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PruneReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What :func:`zoo.prune` did to the backbones of a model; heads are not counted.

    Args:
        macs_whole: Multiply-accumulates for one picture at the libraries' own widths; None where single weights were
            pruned, which changes none.
        macs_before: Those of the model as it came.
        macs_after: Those of the model as it is now.
        parameters_before: Number of parameters as it came.
        parameters_after: Number of parameters now.
        latency_before: Median time of one picture on the CPU as it came, in milliseconds.
        latency_after: The same now, measured in turn with it.
        sparsity: Share of the weights of convolutions and linear layers that are zero now.
        narrowed: Number of layers that are narrower than their libraries build them.
        protected: Whether all that the heads read has the width that it had.
        norms: Number of norms whose running statistics were measured anew.
    """

    macs_whole: int | None = None
    macs_before: int | None = None
    macs_after: int | None = None
    parameters_before: int
    parameters_after: int
    latency_before: float | None = None
    latency_after: float | None = None
    sparsity: float
    narrowed: int = 0
    protected: bool = False
    norms: int = 0

    @property
    def share(self) -> float | None:
        """The multiply-accumulates that are left, as a share of those at the libraries' own widths."""
        if self.macs_whole is None or self.macs_after is None:
            return None
        return self.macs_after / self.macs_whole

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values, with the share."""
        return {**asdict(self), "share": self.share}

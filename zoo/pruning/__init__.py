"""Pruning: models with narrower layers, fewer heads of attention, or weights that are zero."""

from zoo.pruning.making import prune
from zoo.pruning.report import PruneReport

__all__ = ["PruneReport", "prune"]

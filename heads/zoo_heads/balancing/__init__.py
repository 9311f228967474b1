"""Ways to weigh the tasks of a multi-task head against one another, by name."""

from __future__ import annotations

from zoo_heads.balancing.balance import Balance
from zoo_heads.balancing.gradnorm import GradNorm
from zoo_heads.balancing.pcgrad import PCGrad
from zoo_heads.balancing.uncertainty import Uncertainty

__all__ = ["BALANCES", "Balance"]

BALANCES: dict[str, type[Balance]] = {"uncertainty": Uncertainty, "gradnorm": GradNorm, "pcgrad": PCGrad}

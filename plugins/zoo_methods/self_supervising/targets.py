"""Target networks: a copy of the backbone, and of what is on it, that follows by a moving average."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

__all__ = ["Followed"]


class Followed(nn.Module):
    """A copy of modules whose parameters follow theirs; nothing in it trains, and all of it is in the state.

    Norms of the copy that have running statistics keep their own, as they see the copy's batches.

    Args:
        momentum: Share of itself that a parameter keeps in the first step, in ``[0, 1)``; it rises to 1 by a half
            cosine.
        modules: The modules to follow.

    Source:
        Grill et al., "Bootstrap Your Own Latent", 2020, arXiv:2006.07733, equation 1 and section 3.3.
    """

    def __init__(self, momentum: float, *modules: nn.Module) -> None:
        super().__init__()
        self.momentum = momentum
        self.copies = nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)

    @torch.no_grad()
    def follow(self, progress: float, *modules: nn.Module) -> None:
        """Take a step towards the modules, which must be those of the beginning.

        Args:
            progress: Share of the run's steps that are done, in ``[0, 1]``.
            modules: The modules as they are now.
        """
        own = [parameter.detach() for parameter in self.copies.parameters()]
        theirs = [parameter.detach() for module in modules for parameter in module.parameters()]
        torch._foreach_lerp_(own, theirs, 1 - self.momentum_at(progress))

    def momentum_at(self, progress: float) -> float:
        """Give the momentum at a share of the run: ``1 - (1 - base) * (cos(pi * progress) + 1) / 2``."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

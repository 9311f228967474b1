"""The layers that heads on one vector a sample share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import CapabilityError, ConfigError

__all__ = ["Cosine", "check_layers", "projection"]


class Cosine(nn.Module):
    """Scores by the cosine between the input and a weight a class, times a scale; no bias.

    Args:
        in_features: Width of the input.
        out_features: Number of classes.
        scale: What the cosine is multiplied by, the inverse of a softmax temperature; where training begins if it is
            learnt.
        fixed: Whether the scale stays; else it is learnt.

    Shape:
        - input: ``(B, in_features)``; output: ``(B, out_features)``, within ``± scale``.

    Source:
        Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", 2018, arXiv:1804.09458, equation
        4. Ours is the classifier without their weight generator.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float, fixed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.normal_(self.weight)
        value = torch.tensor(float(scale))
        if fixed:
            self.register_buffer("scale", value)
        else:
            self.scale = nn.Parameter(value)

    def forward(self, given: Tensor) -> Tensor:
        """Give the scaled cosines."""
        return F.linear(F.normalize(given, dim=-1), F.normalize(self.weight, dim=-1)) * self.scale


def projection(
    in_features: int,
    out_features: int,
    *,
    norm: bool,
    hidden: int | None,
    dropout: float,
    last: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    """Make a linear layer, or a perceptron with one hidden layer, behind optional normalisation and dropout.

    Args:
        in_features: Width of the pooled vector.
        out_features: Width of the output.
        norm: Whether to put a LayerNorm first.
        hidden: Width of a hidden layer with GELU; None for none.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.
        last: Makes the last layer from its two widths.

    Shape:
        - input: ``(B, in_features)``; output: ``(B, out_features)``.
    """
    if in_features < 1:
        raise CapabilityError(f"A head needs a pooled vector of 1 or more channels, got {in_features}.")
    layers: list[nn.Module] = [nn.LayerNorm(in_features)] if norm else []
    if hidden is not None:
        layers += [nn.Linear(in_features, hidden), nn.GELU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(last(hidden or in_features, out_features))
    return nn.Sequential(*layers)


def check_layers(config: Any) -> None:
    """Check ``hidden`` and ``dropout`` of a head's config.

    Raises:
        ConfigError: If one is out of its range.
    """
    if config.hidden is not None and config.hidden < 1:
        raise ConfigError(f"hidden must be 1 or more channels, got {config.hidden}.")
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {config.dropout}.")

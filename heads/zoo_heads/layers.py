"""The layers that heads on the pooled vector share."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.errors import CapabilityError, ConfigError

__all__ = ["check_layers", "projection"]


def projection(in_features: int, out_features: int, *, norm: bool, hidden: int | None, dropout: float) -> nn.Sequential:
    """Make a linear layer, or a perceptron with one hidden layer, behind optional normalisation and dropout.

    Args:
        in_features: Width of the pooled vector.
        out_features: Width of the output.
        norm: Whether to put a LayerNorm first.
        hidden: Width of a hidden layer with GELU; None for none.
        dropout: Chance that a channel is zeroed in training, in ``[0, 1)``.

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
    layers.append(nn.Linear(hidden or in_features, out_features))
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

"""Single weights pruned: zeros that no width shows, kept by whoever trains on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.prune import L1Unstructured

from zoo.errors import ConfigError
from zoo.model import Model

__all__ = ["prune_weights", "share_of_zeros"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _weights(model: Model) -> list[nn.Parameter]:
    """List the weights of the convolutions and linear layers of the backbones, each once."""
    found = {
        id(layer._parameters["weight"]): layer.get_parameter("weight")
        for backbone in model.backbones.values()
        for layer in backbone.native.modules()
        if isinstance(layer, _LAYERS) and isinstance(layer._parameters.get("weight"), nn.Parameter)
    }
    return list(found.values())


def share_of_zeros(model: Model) -> float:
    """Give the share of the weights of a model's backbones, of convolutions and linear layers, that are zero."""
    weights = _weights(model)
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))


def prune_weights(model: Model, share: float, importance: str, *, ranking: str, seed: int) -> None:
    """Set the least important weights of the backbones to zero, in place, for good; biases and norms stay.

    Args:
        model: The model.
        share: Share of the weights of convolutions and linear layers that is zero afterwards, in ``(0, 1)``; where more
            of them are already, nothing is changed.
        importance: ``l1`` for the magnitude; ``random`` for any of them.
        ranking: ``global`` over all layers together, or ``local``, where the share holds for each layer.
        seed: Seed of ``random``; torch's global generator stays as it was.

    Raises:
        ConfigError: If the backbones have no such layer.

    Source:
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv:1506.02626, once;
        which weights go is chosen by ``torch.nn.utils.prune.L1Unstructured``.
    """
    weights = _weights(model)
    if not weights:
        raise ConfigError("The backbones have no convolution or linear layer, so there are no weights to prune.")
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for ranked in [weights] if ranking == "global" else [[weight] for weight in weights]:
            worth = torch.cat([_worth(weight, importance, drawn).flatten() for weight in ranked])
            count = round(share * len(worth))
            if count <= int((worth == 0).sum()):
                continue
            mask = L1Unstructured(amount=count).compute_mask(worth, torch.ones_like(worth))
            for weight, kept in zip(ranked, mask.split([weight.numel() for weight in ranked]), strict=True):
                weight.mul_(kept.view_as(weight).to(weight.device))


def _worth(weight: nn.Parameter, importance: str, drawn: torch.Generator) -> torch.Tensor:
    """Give what each number is worth; one that is zero already is worth nothing."""
    held = weight.detach().cpu().float()
    return held.abs() if importance == "l1" else (torch.rand(held.shape, generator=drawn) + 1) * (held != 0)

"""Mixup and CutMix: batches of pictures mixed with themselves, and losses mixed alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.model import Model

__all__ = ["Mixing", "before_it"]


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixes each picture of a batch with the one before it, by a share that is drawn once a batch.

    Of both kinds, each batch has one, with equal chances.

    Args:
        mixup: Parameter of the Beta distribution of the shares by which whole pictures are blended; 0 for no mixup.
        cutmix: The same for the area that a rectangle of the other picture does not take; 0 for no CutMix.

    Source:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, arXiv:1710.09412; Yun et al., "CutMix", 2019,
        arXiv:1905.04899; pictures are mixed by ``torchvision.transforms.v2``. As in the papers' own code the losses of
        both targets are mixed, which for cross-entropy is the loss of the mixed target; so labels may be missing.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def check(self, model: Model) -> None:
        """Refuse a model that cannot learn from mixed pictures.

        Raises:
            ConfigError: If an input is no picture, or a head learns no classes of whole pictures.
        """
        told = " and ".join(name for name in ("mixup", "cutmix") if getattr(self, name))
        for stream, entry in model.spec.streams.items():
            if entry.backbone.modality != "image":
                raise ConfigError(f"{told} mixes pictures, and the stream {stream!r} reads {entry.backbone.modality}.")
        if self.cutmix and len({entry.backbone.inputs[0].size for entry in model.spec.streams.values()}) > 1:
            raise ConfigError("cutmix cuts one rectangle out of all inputs, and the streams' sizes differ; use mixup.")
        for name, head in model.heads.items():
            if head.balances:
                raise ConfigError(f"{told} needs losses of fixed weights, and the head {name!r} balances its tasks.")
        for name, task in model.tasks().items():
            if task.activation is None or task.masks is not None:
                raise ConfigError(
                    f"{told} needs classes of whole pictures, and the head {name!r} ({task.spec.type}) learns others; "
                    "leave it out."
                )

    def mixed(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Mix a batch.

        Args:
            inputs: Input name to pictures, ``(B, C, H, W)``; drawn from torch's global generator.

        Returns:
            The mixed inputs, and the share of its own picture that each keeps, in ``[0, 1]``.

        Raises:
            ConfigError: If an input is no batch of pictures, or some pictures of it are missing.
        """
        from torchvision.transforms import v2

        for name, given in inputs.items():
            if not (isinstance(given, Tensor) and given.ndim == 4):
                raise ConfigError(f"mixup and cutmix mix batches of whole pictures, and the input {name!r} is none.")
        count = len(next(iter(inputs.values())))
        cut = bool(torch.rand(1) < 0.5) if self.mixup and self.cutmix else bool(self.cutmix)
        kind, alpha = (v2.CutMix, self.cutmix) if cut else (v2.MixUp, self.mixup)
        made, shares = kind(alpha=alpha, num_classes=count)(dict(inputs), torch.arange(count))
        return made, float(shares[0, 0])


def before_it(targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the targets of the pictures that were mixed in: for each row those of the row before it."""
    return {name: target.roll(1, 0) for name, target in targets.items()}

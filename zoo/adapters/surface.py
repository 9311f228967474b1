"""What a model does with adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo.adapters.layers import Adapter, adapter_of, add_adapter, merged_weights, remove_adapter, take_weights
from zoo.adapters.spec import AdapterSpec, scales_of
from zoo.adapters.targets import choose
from zoo.errors import ConfigError
from zoo.freezing import freeze_module

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.contracts.features import Want
    from zoo.contracts.modules import ModuleMap
    from zoo.spec import ModelSpec

__all__ = ["Adapting"]


class Adapting(nn.Module):
    """The part of a model that puts adapters on its backbones and takes them off."""

    spec: ModelSpec
    backbones: ModuleMap[Backbone]
    wants: Mapping[str, Want]

    @property
    def adapters(self) -> list[Adapter]:
        """The adapters of all backbones; what each is stands in its ``spec``."""
        return [found for backbone in self.backbones.values() if (found := adapter_of(backbone)) is not None]

    def add_adapters(
        self,
        *,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        targets: str | Sequence[str] = "auto",
        stages: Sequence[str] | None = None,
        name: str = "lora",
        seed: int = 0,
    ) -> list[Adapter]:
        """Put a low-rank adapter on each backbone; outputs stay the same until it is trained.

        Where the very same adapters are there already, they stay as they are; others that have learnt nothing are
        replaced.

        A layer that is adapted gives ``layer(x) + alpha / rank * B(A(dropout(x)))``, where ``A`` gives ``rank``
        numbers and ``B`` begins at 0. The backbone's own tensors, their names and their stages stay as they are.

        Args:
            rank: Width between ``A`` and ``B``, 1 to 4096.
            alpha: Numerator of the scale, above 0.
            dropout: Share of the inputs of ``A`` that is dropped in training, in ``[0, 1)``.
            targets: ``attention`` for the linear layers of attention, ``linear`` for all linear layers, ``all`` for
                convolutions too, ``auto`` for ``attention`` where there is any, else ``all``; or paths of layers in the
                library's module, of which the end is enough (``qkv``) and ``*`` stands for any letters. Only layers
                that are called in a pass are taken.
            stages: The stages in which layers are taken; None for all.
            name: Name of the adapter; of several backbones, ``name-stream``.
            seed: Seed of ``A``, 0 or more; the global generator is neither read nor changed.

        Returns:
            The adapters.

        Raises:
            ConfigError: If a value is outside its range, there is no layer to adapt, or another adapter is there that
                has learnt something.
            UnknownName: If there is no such layer or stage.
            PluginError: If PEFT is not installed.

        Source:
            Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685. The layers are
            PEFT's; the defaults of rank and scale are ours.
        """
        scales_of(alpha, dropout)
        specs = []
        for stream, backbone in self.backbones.items():
            chosen = choose(backbone, targets, self._wanted(stream), stages)
            own = name if len(self.backbones) == 1 else f"{name}-{stream}"
            specs.append(AdapterSpec(name=own, stream=stream, rank=rank, alpha=alpha, dropout=dropout, targets=chosen))
        there = self.adapters
        if there and [adapter.spec for adapter in there] == specs:
            return there
        if any(adapter.has_learnt() for adapter in there):
            raise ConfigError(
                f"The model has the adapter {there[0].spec.name!r} already, and it is another than this; call "
                "merge_adapters() or remove_adapters() first."
            )
        self.remove_adapters()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return [add_adapter(self.backbones[spec.stream], spec) for spec in specs]

    def merge_adapters(self) -> None:
        """Add what the adapters learnt to the backbones' weights, and take them off; outputs stay, but for rounding.

        Raises:
            ConfigError: If a weight would not be finite; nothing is changed then.
        """
        merged = {stream: merged_weights(backbone) for stream, backbone in self.backbones.items()}
        for stream, backbone in self.backbones.items():
            take_weights(backbone, merged[stream])

    def remove_adapters(self) -> None:
        """Take the adapters off; the backbones are as they were without them."""
        for backbone in self.backbones.values():
            remove_adapter(backbone)

    def _rest_adapters(self, stream: str, stages: frozenset[str]) -> None:
        """Let what stands beside the layers of frozen stages rest, and the others train."""
        backbone = self.backbones[stream]
        if (adapter := adapter_of(backbone)) is not None:
            for path, part in adapter.named_parts():
                freeze_module(part, frozen=backbone.stage_of(path) in stages, training=self.training)

    def _wanted(self, stream: str) -> Want:
        """Give all that is read of a backbone."""
        first, *others = [self.wants[name] for name in self.spec.streams if self.spec.owner(name) == stream]
        for want in others:
            first = first | want
        return first

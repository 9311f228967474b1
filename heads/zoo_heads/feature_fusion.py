"""Feature fusion: several streams made one, which any head reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadConfig, HeadContext, Label, Needs, Task
from zoo.errors import ConfigError
from zoo.spec import HeadSpec
from zoo_heads.fusing import FuserSettings
from zoo_heads.fusion_plan import FUSED, METHODS, FusionPlan, Missing, chosen_streams, given_streams, inner_head

__all__ = ["FeatureFusion", "FeatureFusionConfig"]


@dataclass(frozen=True, kw_only=True)
class FeatureFusionConfig(HeadConfig):
    """Settings of a feature fusion.

    Args:
        head: The head inside, of any type, as the dict that ``zoo.head`` takes, without ``stream``; called like this
            one unless it has a name.
        streams: The streams that are fused, 2 or more; None for all.
        method: ``concat``, ``sum``, ``gated`` or ``bilinear`` of the pooled vectors, ``attention`` over the tokens, or
            ``maps``.
        dim: Width of what is fused, 1 or more; None for 256. Not for ``concat``.
        maps: With ``maps``, how the maps of one reduction are joined; None for ``sum``.
        attention_heads: With ``attention``, the heads of the layer, a divisor of ``dim``; None for 4.
        missing: ``mask`` to take samples that lack the input of some streams, which then have no part; ``error`` to
            refuse them.
    """

    head: dict[str, Any]
    streams: tuple[str, ...] | None = None
    method: Literal["concat", "sum", "gated", "attention", "bilinear", "maps"] = "concat"
    dim: int | None = None
    maps: Literal["sum", "concat", "attention"] | None = None
    attention_heads: int | None = None
    missing: Missing = "error"

    def __post_init__(self) -> None:
        """Check the values, and that the method reads what is set."""
        for name in ("dim", "maps", "attention_heads"):
            given = getattr(self, name)
            if given is None:
                continue
            if name not in METHODS[self.method].options:
                readers = [method for method, one in METHODS.items() if name in one.options]
                raise ConfigError(f"{name} is for the method {', '.join(readers)}, and the method is {self.method}.")
            if isinstance(given, int) and given < 1:
                raise ConfigError(f"{name} must be 1 or more, got {given}.")
        settings = self.settings()
        heads = settings.attention_heads
        if self.method == "attention" and settings.dim % heads:
            raise ConfigError(f"dim must be a multiple of the {heads} attention_heads, got {settings.dim}.")

    def settings(self) -> FuserSettings:
        """Give the fuser's settings, with its own for what is not set."""
        given = {name: getattr(self, name) for name in ("dim", "maps", "attention_heads")}
        return FuserSettings(**{name: value for name, value in given.items() if value is not None})


class FeatureFusion(Head):
    """Features of several streams, fused by a ``Fuser``, under any head, which reads one stream called ``fused``.

    The streams may see one input through several backbones, or an input each.

    Shape:
        - output: task name to what the tasks of the head inside give.

    Raises:
        UnknownName: If a stream is not the model's.
        ConfigError: If the streams are fewer than two, or the head inside names a stream.
        CapabilityError: If the head inside reads what the method does not give, or a stream lacks a reduction.
    """

    Config = FeatureFusionConfig
    summary = "Any head on features of several streams: concat, sum, gated, bilinear, attention over tokens, or maps"

    def __init__(self, spec: HeadSpec, config: FeatureFusionConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        plan = _plan(spec, config, context)
        self.streams = tuple(plan.streams)
        self.fuser, self.inner = plan.build()

    @classmethod
    def needs(cls, spec: HeadSpec, config: FeatureFusionConfig, context: HeadContext) -> Mapping[str, Needs]:
        """Ask each stream for what the method reads, to give what the head inside reads."""
        return _plan(spec, config, context).needs()

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Complete the head inside."""
        config: FeatureFusionConfig = cls.read_config(spec)
        inner = inner_head(spec, config.head)
        return spec.with_config(head=context.lookup(inner.type).complete(inner, columns, context).flat())

    def may_miss(self) -> frozenset[str]:
        """Name its streams, with ``missing="mask"``."""
        return frozenset(self.streams if self.config.missing == "mask" else ())

    def tasks(self) -> dict[str, Task]:
        """Give the tasks of the head inside."""
        return self.inner.tasks()

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the outputs of the head inside, on what is fused."""
        given, present = given_streams(self.spec, self.streams, features, self.config.missing)
        return self.inner({FUSED: self.fuser(given, present)})

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the losses of the head inside."""
        return self.inner.losses(outputs, targets)


def _plan(spec: HeadSpec, config: FeatureFusionConfig, context: HeadContext) -> FusionPlan:
    streams = chosen_streams(spec, config.streams, context.streams)
    return FusionPlan.make(spec, inner_head(spec, config.head), streams, config.method, config.settings(), context)

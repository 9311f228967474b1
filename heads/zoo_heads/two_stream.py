"""Two streams, or more: one task told from several backbones, by their scores or by their pooled vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadConfig, HeadContext, Label, Needs, Task
from zoo.contracts.modules import ModuleMap
from zoo.errors import ConfigError
from zoo.spec import BackboneSpec, HeadSpec
from zoo_heads.fusing import FuserSettings
from zoo_heads.fusion_plan import FUSED, FusionPlan, Missing, chosen_streams, given_streams, inner_head, told
from zoo_heads.late_fusion import Activation, FusedTask, StreamTask, fuse_scores

__all__ = ["TwoStream", "TwoStreamConfig"]

LATE = ("mean", "weighted", "learnt")


@dataclass(frozen=True, kw_only=True)
class TwoStreamConfig(HeadConfig):
    """Settings of a head on two streams or more.

    Args:
        head: The head of one task, as the dict that ``zoo.head`` takes, without ``stream``; called like this one unless
            it has a name. Its ``weight`` is that of the loss of what is fused.
        streams: The streams, 2 or more; None for all.
        fusion: Of the streams' scores, ``mean``, ``weighted``, or ``learnt``, whose weights are a softmax that starts
            equal; or of their pooled vectors, ``concat`` or ``sum``.
        weights: Stream to its weight, above 0, scaled to sum to 1; for ``weighted``.
        of: What is averaged, ``probabilities`` or ``logits`` (the outputs as they are); None for the probabilities of a
            task that has some, else the outputs. For the fusion of scores.
        stream_weight: Factor of each stream's own loss, 0 or more.
        dim: Width of the summed projections, 1 or more; None for 256. For ``sum``.
        missing: ``mask`` to take samples that lack the input of some streams and tell them from the others; ``error``
            to refuse them.
    """

    head: dict[str, Any]
    streams: tuple[str, ...] | None = None
    fusion: Literal["mean", "weighted", "learnt", "concat", "sum"] = "mean"
    weights: dict[str, float] | None = None
    of: Literal["probabilities", "logits"] | None = None
    stream_weight: float = 0.0
    dim: int | None = None
    missing: Missing = "error"

    def __post_init__(self) -> None:
        """Check the values, and that the fusion reads what is set."""
        readers = {"weights": ("weighted",), "of": LATE, "dim": ("sum",)}
        for name, fusions in readers.items():
            if getattr(self, name) is not None and self.fusion not in fusions:
                raise ConfigError(f"{name} is for the fusion {', '.join(fusions)}, and the fusion is {self.fusion}.")
        if self.fusion == "weighted" and not self.weights:
            raise ConfigError("weights must give each stream its weight, such as {'rgb': 1, 'flow': 2}; got none.")
        if any(not weight > 0 for weight in (self.weights or {}).values()):
            raise ConfigError(f"weights must be above 0, got {self.weights}.")
        if not self.stream_weight >= 0:
            raise ConfigError(f"stream_weight must be 0 or more, got {self.stream_weight}.")
        if self.dim is not None and self.dim < 1:
            raise ConfigError(f"dim must be 1 or more, got {self.dim}.")


class TwoStream(Head):
    """One task told from several streams, two or more.

    With late fusion each stream has a head of its own, and their scores are averaged; each stream is a task too, called
    ``<task>-<stream>``, with the same labels, metrics and decoding. With mid fusion one head reads the fused pooled
    vectors, and a stream has a head and a task of its own if ``stream_weight`` is above 0. Where a sample lacks a
    stream, that stream's own output is NaN and its prediction says that it is missing.

    Shape:
        - output: task name to what the task gives, for averaged probabilities as the logits that stand for them.

    Raises:
        UnknownName: If a stream is not the model's.
        ConfigError: If the streams are fewer than two, the weights are not theirs, the head inside is not that of one
            task or names a stream, or has no probabilities to average.
        CapabilityError: If the head inside reads more than pooled vectors, and these are fused.

    Source:
        Simonyan & Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", 2014,
        arXiv:1406.2199: softmax scores of separately trained streams, averaged. Ours also trains through the average,
        learns its weights, and fuses pooled vectors; for the paper's training set ``stream_weight`` to 1 and the
        ``weight`` of the head inside to 0.
    """

    Config = TwoStreamConfig
    summary = "One task told from several streams: their scores averaged, or their pooled vectors fused"

    def __init__(self, spec: HeadSpec, config: TwoStreamConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        streams = chosen_streams(spec, config.streams, context.streams)
        inner = _task_inside(spec, config, context)
        self.streams = tuple(streams)
        own = _own_heads(inner, config, streams)
        built = {stream: cast(Task, context.build(one)) for stream, one in own.items()}
        self.own: ModuleMap[Task] = ModuleMap(built)
        self.fuser: nn.Module | None = None
        if config.fusion in LATE:
            speaker = built[self.streams[0]]
            self.activation = _activation(spec, config, speaker)
            self._set_shares(config)
            within = HeadContext({FUSED: streams[self.streams[0]]}, context.lookup)
            fused: Task = FusedTask(inner, within, speaker)
        else:
            self.fuser, head = _plan(spec, inner, config, streams, context).build()
            self.inner = fused = cast(Task, head)
        if config.missing == "mask":
            built = {stream: StreamTask(own[stream], context, one) for stream, one in built.items()}
        self._told = (fused, *built.values())  # a tuple: each of their tensors is registered above

    def _set_shares(self, config: TwoStreamConfig) -> None:
        """Keep the logarithms of the streams' weights."""
        if config.weights is not None and set(config.weights) != set(self.streams):
            given, own = ", ".join(config.weights), ", ".join(self.streams)
            raise ConfigError(f"{told(self.spec)} must have one weight for each of the streams {own}, got {given}.")
        logs = torch.tensor([math.log((config.weights or {}).get(name, 1.0)) for name in self.streams])
        if config.fusion == "learnt":
            self.shares: Tensor = nn.Parameter(logs)
        else:
            self.register_buffer("shares", logs)

    @classmethod
    def needs(cls, spec: HeadSpec, config: TwoStreamConfig, context: HeadContext) -> Mapping[str, Needs]:
        """Ask each stream for what the head inside reads, or for its pooled vector."""
        streams = chosen_streams(spec, config.streams, context.streams)
        inner = _task_inside(spec, config, context)
        needs = {} if config.fusion in LATE else dict(_plan(spec, inner, config, streams, context).needs())
        for one in _own_heads(inner, config, streams).values():
            for stream, asked in context.needs(one).items():
                needs[stream] = needs.get(stream, Needs()) | asked
        return needs

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Complete the head inside."""
        config: TwoStreamConfig = cls.read_config(spec)
        inner = _task_inside(spec, config, context)
        return spec.with_config(head=context.lookup(inner.type).complete(inner, columns, context).flat())

    def may_miss(self) -> frozenset[str]:
        """Name its streams, with ``missing="mask"``."""
        return frozenset(self.streams if self.config.missing == "mask" else ())

    def tasks(self) -> dict[str, Task]:
        """Give the task of what is fused, then those of the streams."""
        return {task.spec.name: task for task in self._told}

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the outputs of what is fused and of the streams."""
        fused, *own = self._told
        given, present = given_streams(self.spec, self.streams, features, self.config.missing)
        outputs = {name: output for task in own for name, output in task({task.stream: given[task.stream]}).items()}
        if self.fuser is None:
            output = fuse_scores(list(outputs.values()), self.shares, present, self.activation)
        else:
            output = fused({FUSED: self.fuser(given, present)})[fused.spec.name]
        return {fused.spec.name: output, **outputs}

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the loss of what is fused and those of the streams."""
        return {name: loss for task in self._told for name, loss in task.losses(outputs, targets).items()}


def _task_inside(spec: HeadSpec, config: TwoStreamConfig, context: HeadContext) -> HeadSpec:
    """Read the head inside, which must be that of one task."""
    inner = inner_head(spec, config.head)
    kind = context.lookup(inner.type)
    if not issubclass(kind, Task):
        raise ConfigError(
            f"{told(spec)} takes the head of one task, got {inner.type!r}; put a {spec.type} for each task into "
            "multi_task instead."
        )
    return inner


def _own_heads(inner: HeadSpec, config: TwoStreamConfig, streams: Mapping[str, BackboneSpec]) -> dict[str, HeadSpec]:
    """Describe the head of each stream; there are none where vectors are fused and no stream learns by itself."""
    if config.fusion not in LATE and not config.stream_weight:
        return {}
    shared = {**inner.config, "target": inner.config.get("target") or inner.name, "weight": config.stream_weight}
    return {
        stream: HeadSpec(type=inner.type, name=f"{inner.name}-{stream}", config={**shared, "stream": stream})
        for stream in streams
    }


def _plan(
    spec: HeadSpec,
    inner: HeadSpec,
    config: TwoStreamConfig,
    streams: Mapping[str, BackboneSpec],
    context: HeadContext,
) -> FusionPlan:
    settings = FuserSettings() if config.dim is None else FuserSettings(dim=config.dim)
    return FusionPlan.make(spec, inner, streams, config.fusion, settings, context)


def _activation(spec: HeadSpec, config: TwoStreamConfig, task: Task) -> Activation:
    """Say how the scores become what is averaged."""
    if config.of == "probabilities" and task.activation is None:
        raise ConfigError(f"{told(spec)}: {task.spec.type!r} has no probabilities to average; set of='logits'.")
    return None if config.of == "logits" else task.activation

"""Heads on a backbone that exists as a spec only: features are drawn, so that every number can be had by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadContext, Needs
from zoo.registry import registry
from zoo.spec import BackboneSpec, HeadSpec, InputSpec, StageSpec
from zoo_heads.classifier import Classifier
from zoo_heads.fusion_plan import FUSED

WIDTH = 6


def spec() -> BackboneSpec:
    return BackboneSpec(
        reference="none:six",
        provider="none",
        architecture="six",
        library="none",
        library_version="0",
        modality="image",
        inputs=(InputSpec(name="image", kind="image", rank=4, channels=3),),
        pooled_dim=WIDTH,
        stages=(StageSpec(name="stem"), StageSpec(name="post")),
        capabilities=("pooled",),
        parameters=0,
        pooling="mean",
    )


@pytest.fixture
def context() -> HeadContext:
    return HeadContext({"main": spec()}, registry().head_class)


@pytest.fixture
def make(context) -> Callable[..., Head]:
    """Build a head from its type and settings, always with the same random weights."""

    def build(type: str, name: str = "kind", **config) -> Head:
        torch.manual_seed(0)
        return context.build(HeadSpec(type=type, name=name, config=config))

    return build


@pytest.fixture
def features() -> Callable[[int], dict[str, Features]]:
    """Draw features for a batch."""

    def draw(rows: int, seed: int = 1) -> dict[str, Features]:
        generator = torch.Generator().manual_seed(seed)
        return {"main": Features(pooled=torch.randn(rows, WIDTH, generator=generator))}

    return draw


class Pixels(Classifier):
    """A stub of a head that reads maps: a class for each position of the finest, from all levels."""

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        stages = {stage.reduction: stage for stage in context.streams[self.stream].maps}
        self.names = [stages[float(reduction)].name for reduction in self.reads(config).reductions]
        count = sum(stages[float(reduction)].channels for reduction in self.reads(config).reductions)
        self.layers = nn.Conv2d(count, len(config.classes), 1)

    @classmethod
    def reads(cls, config):
        return Needs(reductions=(8, 16) if config.hidden is None else (config.hidden,))

    def score(self, features):
        size = features.maps[self.names[0]].shape[-2:]
        return self.layers(torch.cat([F.interpolate(features.maps[name], size=size) for name in self.names], dim=1))


def _stages(*found: tuple[int, float]) -> tuple[StageSpec, ...]:
    maps = [StageSpec(name=f"s{i}", channels=c, reduction=r) for i, (c, r) in enumerate(found, start=1)]
    return (StageSpec(name="stem"), *maps, StageSpec(name="post"))


STREAMS = {
    "a": replace(spec(), stages=_stages((4, 4.0), (5, 8.0), (6, 16.0)), capabilities=("maps", "pooled")),
    "b": replace(
        spec(),
        reference="none:five",
        pooled_dim=5,
        token_dim=5,
        stages=_stages((3, 8.0), (2, 16.0), (3, 16.0)),
        capabilities=("maps", "pooled", "tokens"),
    ),
    "c": replace(
        spec(), reference="none:text", pooled_dim=4, token_dim=4, modality="text", capabilities=("pooled", "tokens")
    ),
}


@pytest.fixture
def streams() -> Callable[..., HeadContext]:
    """Make the context of a model with several streams: a convolutional network, a transformer, a text encoder."""

    def lookup(type: str) -> type[Head]:
        return Pixels if type == "pixels" else registry().head_class(type)

    return lambda *names: HeadContext({name: STREAMS[name] for name in names}, lookup)


@pytest.fixture
def draw_streams() -> Callable[..., dict[str, Features]]:
    """Draw the features of several streams; b sees more pixels than a, and the texts of c have 3 to 7 tokens."""

    def draw(rows: int, *names: str, seed: int = 1) -> dict[str, Features]:
        made = torch.Generator().manual_seed(seed)

        def one(*shape: int) -> torch.Tensor:
            return torch.randn(rows, *shape, generator=made)

        lengths = 3 + torch.arange(rows) % 5
        every = {
            "a": Features(pooled=one(6), maps={"s1": one(4, 8, 8), "s2": one(5, 4, 4), "s3": one(6, 2, 2)}),
            "b": Features(
                pooled=one(5),
                tokens=one(9, 5),
                grid=(3, 3),
                maps={"s1": one(3, 6, 6), "s2": one(2, 3, 3), "s3": one(3, 3, 3)},
            ),
            "c": Features(pooled=one(4), tokens=one(7, 4), mask=torch.arange(7) < lengths[:, None]),
        }
        return {name: every[name] for name in names}

    return draw


@pytest.fixture
def combine(streams) -> Callable[..., Head]:
    """Build a head on streams, ``feature_fusion`` or ``two_stream``, always with the same random weights."""

    def build(type: str, *names: str, head: dict[str, Any], **config) -> Head:
        torch.manual_seed(0)
        return streams(*names).build(HeadSpec(type=type, name="kind", config={"head": head, **config}))

    return build


@pytest.fixture
def fuse(combine) -> Callable[..., Head]:
    """Build a ``feature_fusion`` on streams; a classifier is inside unless it is said."""
    kind = {"type": "classifier", "classes": ["x", "y", "z"]}
    return lambda *names, head=kind, **config: combine("feature_fusion", *names, head=head, **config)


@pytest.fixture
def fused() -> Callable[..., Features]:
    """Give the features that the head inside gets."""

    def run(head, features) -> Features:
        seen = []
        handle = head.inner.register_forward_pre_hook(lambda _, given: seen.append(given[0][FUSED]))
        head(features)
        handle.remove()
        return seen[0]

    return run


@pytest.fixture
def lacking() -> Callable[..., dict[str, Features]]:
    """Let samples lack a stream, ``stream=rows``; what stands in its place is NaN, so that it must not be read."""

    def lose(features: dict[str, Features], **absent: list[int]) -> dict[str, Features]:
        for name, rows in absent.items():
            one = features[name]
            one.present = torch.ones(len(one.pooled), dtype=torch.bool)
            one.present[rows] = False
            for tensor in (one.pooled, one.tokens, *one.maps.values()):
                if tensor is not None:
                    tensor[rows] = float("nan")
        return features

    return lose

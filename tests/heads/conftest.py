"""Heads on a backbone that exists as a spec only: features are drawn, so that every number can be had by hand."""

from collections.abc import Callable

import pytest
import torch

from zoo.contracts.features import Features
from zoo.contracts.head import Head, HeadContext
from zoo.registry import registry
from zoo.spec import BackboneSpec, HeadSpec, InputSpec, StageSpec

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

"""A provider of a network of two convolutions, whose costs can be counted by hand."""

import sys
import types

import pytest
import torch
from torch import nn

import zoo
from zoo.contracts.features import Features
from zoo.registry import Plugin, registry
from zoo.spec import BackboneSpec, InputSpec, StageSpec

SIDE, FIRST, SECOND = 8, 16, 32


class SmallBackbone(zoo.Backbone):
    """Two convolutions and the mean of what they give."""

    def extract(self, inputs, want):
        last = self.native(inputs["image"])
        maps = {"s1": last} if "s1" in want.maps else {}
        return Features(pooled=last.mean(dim=(2, 3)) if want.pooled else None, maps=maps)


class SmallProvider(zoo.Provider):
    library = "torch"

    def catalog(self):
        raise NotImplementedError

    def spec(self, reference):
        return BackboneSpec(
            reference=str(reference),
            provider="small",
            architecture="small",
            library="torch",
            library_version="2",
            modality="image",
            inputs=(InputSpec(name="image", kind="image", rank=4, channels=3, size=(SIDE, SIDE)),),
            pooled_dim=SECOND,
            stages=(
                StageSpec(name="stem"),
                StageSpec(name="s1", module="3", channels=SECOND, reduction=2),
                StageSpec(name="post"),
            ),
            capabilities=("maps", "pooled"),
            parameters=3 * FIRST * 9 + FIRST + FIRST * SECOND * 9 + SECOND,
            pooling="mean",
            preprocessing=zoo.Preprocessing(size=(SIDE, SIDE), resize=(SIDE,)),
        )

    def build(self, spec, *, weights):
        native = nn.Sequential(
            nn.Conv2d(3, FIRST, 3, padding=1), nn.ReLU(), nn.Conv2d(FIRST, SECOND, 3, stride=2, padding=1), nn.ReLU()
        )
        return SmallBackbone(spec, native, zoo.StageMap(native, {"s1": "3"}))


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Run on one thread, with a cache of the test's own and the plugin ``small``."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module = types.ModuleType("zoo_small")
    module.zoo_provider = zoo.hookimpl(lambda: SmallProvider())
    sys.modules["zoo_small"] = module
    registry().claims["small"] = (Plugin("small", "zoo_small", "zoo-small", "1.0"),)
    yield
    torch.set_num_threads(threads)
    registry().claims.pop("small", None)
    sys.modules.pop("zoo_small")


def small_spec(*heads):
    """Give the spec of a model on the small network, which is in no catalog."""
    from zoo.assembly import _with_needs
    from zoo.reference import Reference
    from zoo.spec import HeadSpec, ModelSpec, StreamSpec

    backbone = SmallProvider().spec(Reference.parse("small:small"))
    return _with_needs(
        ModelSpec(streams={"main": StreamSpec(backbone=backbone)}, heads=tuple(HeadSpec.of(head) for head in heads))
    )


@pytest.fixture
def small():
    """Build a model on the small network, always with the same weights."""
    from zoo.assembly import assemble

    def build(*heads):
        given = heads or ({"type": "classifier", "name": "kind", "classes": ["a", "b"]},)
        with torch.random.fork_rng():
            return assemble(small_spec(*given), weights=None, seed=0)

    return build

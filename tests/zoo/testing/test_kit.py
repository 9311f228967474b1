"""The conformance kit passes what is sound and names the rule that a faulty backbone, head or method breaks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
import torch
from torch import nn

import zoo
from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.features import Features
from zoo.contracts.head import Head
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.provider import Provider
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo.testing import check_backbone, check_head, check_method
from zoo_heads.classifier import Classifier

# --- backbones


class Toy(nn.Module):
    """Two convolutions with batch statistics."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.BatchNorm2d(8), nn.ReLU())


class ToyBackbone(Backbone):
    """The toy behind zoo's interface, with the fault that its options ask for."""

    def __init__(self, spec, native):
        super().__init__(spec, native, StageMap(native, {"s1": "body"}))
        self.fault = spec.construction["fault"]
        self.secret = torch.rand(8)

    def forward(self, inputs, want=None):
        if self.fault == "takes anything":
            return self.extract({"image": next(iter(inputs.values()))[:, :3]}, want or zoo.Want())
        return super().forward(inputs, want)

    def extract(self, inputs, want):
        native = self.native
        if self.fault == "drifting buffer":
            native.stem[1].running_mean.add_(1e-3)
        if self.fault == "frozen weight moves" and self.training:
            native.stem[0].weight.data.mul_(0.99)
        final = native.body(native.stem(inputs["image"]))
        pooled = final.mean(dim=(2, 3))
        if self.fault == "wrong width":
            pooled = pooled[:, :7]
        if self.fault == "not finite":
            pooled = pooled / 0
        if self.fault == "rank 4":
            pooled = pooled[..., None, None]
        if self.fault == "by chance":
            pooled = pooled + torch.rand(8)
        if self.fault == "hidden state":
            pooled = pooled + self.secret
        maps = {} if not want.maps and self.fault != "unasked map" else {"s1": final}
        if self.fault == "NHWC map":
            maps = {stage: found.permute(0, 2, 3, 1) for stage, found in maps.items()}
        if self.fault == "small map":
            maps = {stage: found[..., ::2, ::2] for stage, found in maps.items()}
        if self.fault == "a tuple":
            return pooled, maps
        return Features(pooled=pooled, maps=maps)


class ToyProvider(Provider):
    library = "torch"

    def catalog(self):
        return Catalog(library="torch", version="2", entries=(CatalogEntry(name="net"),))

    def spec(self, reference):
        fault = reference.options.get("fault")
        changes = {
            "wrong reference": {"reference": "toy:other"},
            "wrong provider": {"provider": "timm"},
            "misnamed stages": {"stages": (StageSpec(name="stem"), StageSpec(name="body"), StageSpec(name="post"))},
            "unknown capability": {"capabilities": ("maps", "pooled", "speed")},
            "unsorted capabilities": {"capabilities": ("pooled", "maps")},
            "promised maps": {"stages": tuple(StageSpec(name=name) for name in ("stem", "s1", "post"))},
            "miscounted": {"parameters": 1},
        }
        fields = {
            "reference": str(reference),
            "provider": "toy",
            "architecture": "net",
            "library": "torch",
            "library_version": "2",
            "modality": "image",
            "inputs": (InputSpec(name="image", kind="image", rank=4, channels=3, size=(32, 32), divisor=8),),
            "pooled_dim": 8,
            "stages": (
                StageSpec(name="stem"),
                StageSpec(name="s1", module="body", channels=8, reduction=8.0),
                StageSpec(name="post"),
            ),
            "capabilities": ("maps", "pooled"),
            "parameters": sum(p.numel() for p in Toy().parameters()),
            "pooling": "mean",
            "construction": {"fault": fault},
        }
        return BackboneSpec(**{**fields, **changes.get(fault, {})})

    def build(self, spec, *, weights):
        return ToyBackbone(spec, Toy())


@pytest.fixture
def toy(registry_with):
    registry_with("toy", zoo_provider=lambda: ToyProvider())


def test_a_sound_backbone_passes(toy):
    check_backbone("toy:net")


@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:test_vit"])
def test_our_own_backbones_pass(reference):
    check_backbone(reference)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("wrong width", "pooled must have the shape that the spec declares"),
        ("rank 4", "pooled must have the shape that the spec declares"),
        ("not finite", "must be finite"),
        ("by chance", "must be the same whether or not maps are wanted"),
        ("unasked map", "What is not wanted must not be given"),
        ("NHWC map", r"Map s1 must be \(B, C, H, W\)"),
        ("small map", "Map s1 must be 1/8"),
        ("a tuple", "extract must give Features, got tuple"),
        ("takes anything", "must raise ShapeError"),
        ("drifting buffer", "must"),
        ("frozen weight moves", "is in a frozen stage and must not change"),
        ("hidden state", "A backbone rebuilt from its spec must give equal features"),
        ("wrong reference", "must carry the resolved reference"),
        ("wrong provider", "provider must be 'toy'"),
        ("misnamed stages", "Stages must be stem, s1"),
        ("unknown capability", "Capabilities must be of"),
        ("unsorted capabilities", "Capabilities must be sorted"),
        ("promised maps", "Stages must have channels where maps are a capability"),
        ("miscounted", "The spec must count"),
    ],
)
def test_a_faulty_backbone_fails_by_the_rule_that_it_breaks(toy, fault, rule):
    with pytest.raises(AssertionError, match=rule):
        check_backbone(f"toy:net?fault={fault}")


# --- heads


class CountsMissing(Classifier):
    """Takes a missing label for the first class."""

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target.clamp(min=0))


class MetricsCountMissing(Classifier):
    def update(self, metrics, output, target):
        metrics.update(output, target.clamp(min=0))


class WithoutGradient(Classifier):
    """Has a parameter that nothing uses."""

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        self.idle = nn.Parameter(torch.zeros(1))


class NeverLearns(Classifier):
    def score(self, features):
        return super().score(features) * 0


class CutOff(Classifier):
    """Gives a loss without labels that is not connected to anything."""

    def loss(self, output, target):
        return super().loss(output, target) if bool((target >= 0).any()) else torch.zeros(())


class OneTooFew(Classifier):
    def decode(self, output):
        return super().decode(output)[1:]


class NoMissing(Classifier):
    def example_labels(self):
        return [label for label in super().example_labels() if label is not None]


class TwoOutputs(Classifier):
    def forward(self, features):
        outputs = super().forward(features)
        return {**outputs, "more": next(iter(outputs.values()))}


class OtherBest(Classifier):
    @property
    def best_metric(self):
        return "beauty", True


class Forgets(Classifier):
    """Keeps something that no bundle keeps."""

    made = count()

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        self.shift = float(next(self.made))

    def score(self, features):
        return super().score(features) + self.shift * torch.arange(len(self.config.classes))


class WholeLoss(Classifier):
    def loss(self, output, target):
        return super().loss(output, target).expand(2)


def install_head(registry_with, head: type[Head]) -> dict:
    registry_with("strange", **{head.__name__: head}, zoo_heads=lambda: {"strange": f"zoo_strange:{head.__name__}"})
    return {"type": "strange", "name": "kind", "classes": ["a", "b", "c"]}


def test_a_sound_head_passes(registry_with):
    check_head(install_head(registry_with, Classifier))


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        (CountsMissing, "a sample without a label must add nothing to the loss"),
        (MetricsCountMissing, "a sample without a label must add nothing to the metrics"),
        (WithoutGradient, "Every parameter of a head must get a gradient"),
        (NeverLearns, "Training must make the loss smaller"),
        (CutOff, "without any label the loss must be 0 and connected"),
        (OneTooFew, "decode must give one prediction a sample"),
        (NoMissing, "must have a missing label among them"),
        (TwoOutputs, "must give one output a task"),
        (OtherBest, "best_metric must be one of"),
        (Forgets, "must be bit-equal after saving and loading"),
        (WholeLoss, "the loss must be a finite scalar"),
    ],
)
def test_a_faulty_head_fails_by_the_rule_that_it_breaks(registry_with, head, rule):
    with pytest.raises(AssertionError, match=rule):
        check_head(install_head(registry_with, head))


# --- methods


@dataclass(frozen=True)
class Sound(Method):
    """Trains everything at one rate, but for the stem."""

    summary = "Everything but the stem"

    def plan(self, streams, *, epochs, lr):
        stages = [f"{stream}.{stage.name}" for stream, spec in streams.items() for stage in spec.stages]
        states = {stage: FROZEN if stage.endswith(".stem") else StageState(True, lr) for stage in stages}
        return Plan(tuple({**states, "heads": StageState(True, lr)} for _ in range(epochs)))


def changed(change):
    """Make a method whose plan is a sound one, changed."""

    @dataclass(frozen=True)
    class Faulty(Sound):
        def plan(self, streams, *, epochs, lr):
            plan = super().plan(streams, epochs=epochs, lr=lr)
            return change(plan)

    return Faulty


def without(stage):
    return lambda plan: Plan(tuple({k: v for k, v in states.items() if k != stage} for states in plan.epochs))


def having(state):
    return lambda plan: Plan(tuple({**states, "main.s2": state} for states in plan.epochs))


def by_chance(plan):
    state = StageState(True, torch.rand(()).item() + 1e-6)
    return Plan(tuple({**states, "heads": state} for states in plan.epochs))


@dataclass(frozen=True)
class Silent(Sound):
    summary = ""


def install_method(registry_with, method: type[Method]) -> str:
    registry_with("odd", Odd=method, zoo_methods=lambda: {"odd": "zoo_odd:Odd"})
    return "odd"


def test_a_sound_method_passes(registry_with):
    check_method(install_method(registry_with, Sound))


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (changed(without("main.s3")), "must name every stage"),
        (changed(without("heads")), "must name every stage"),
        (changed(lambda plan: Plan(plan.epochs[:-1])), "one entry an epoch"),
        (changed(by_chance), "must be the same when it is made again"),
        (changed(having(StageState(True, -1.0))), "must be 0 or more"),
        (changed(having(StageState(True, float("nan")))), "must be"),
        (changed(having(StageState(True, 0.0))), "must have a rate just if it trains"),
        (changed(having(StageState(False, 1e-3))), "must have a rate just if it trains"),
        (Silent, "one-line summary"),
    ],
    ids=["a stage", "the heads", "an epoch", "chance", "negative", "nan", "no rate", "idle rate", "silent"],
)
def test_a_faulty_method_fails_by_the_rule_that_it_breaks(registry_with, method, rule):
    with pytest.raises(AssertionError, match=rule):
        check_method(install_method(registry_with, method))

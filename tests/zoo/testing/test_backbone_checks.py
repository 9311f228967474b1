"""Every check of a backbone passes what is sound, and fails the one fault that it is there for."""

from __future__ import annotations

import copy
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import zoo
from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.features import Features, Want
from zoo.contracts.provider import Provider
from zoo.preprocessing import Preprocessing
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo.testing import CHECKS, backbone_checks, check_backbone

SIZE = 32
CAN = ("dynamic_size", "embed", "grad_checkpointing", "in_channels", "maps", "pooled", "tokens")


def block(width_in, width, stride):
    first = nn.Conv2d(width_in, width, stride, stride=stride)
    return nn.Sequential(first, nn.BatchNorm2d(width), nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU())


class Toy(nn.Module):
    """Three blocks with batch statistics, a last layer, and a table that only the constructor computes."""

    def __init__(self, channels=3):
        super().__init__()
        self.stem = block(channels, 4, 4)
        self.one = block(4, 6, 2)
        self.two = block(6, 8, 2)
        self.last = nn.Linear(8, 8)
        self.register_buffer("scale", torch.linspace(0.5, 1, 8), persistent=False)

    def forward(self, image):
        return self.last(self.two(self.one(self.stem(image))).mean(dim=(2, 3))) * self.scale


STAGES = (
    StageSpec(name="stem", module="stem", channels=4, reduction=4.0),
    StageSpec(name="s1", module="one", channels=6, reduction=8.0),
    StageSpec(name="s2", module="two", channels=8, reduction=16.0),
    StageSpec(name="post"),
)
PARTS = {"stem": "stem", "s1": "one", "s2": "two"}


class ToyBackbone(Backbone):
    """The toy behind zoo's interface; it keeps the whole contract."""

    def __init__(self, spec, native):
        super().__init__(spec, native, StageMap(native, {"s1": "one", "s2": "two"}))
        self.checkpointed = False

    def extract(self, inputs, want):
        found, x = {}, inputs["image"]
        for stage, part in PARTS.items():
            if getattr(self.native, part) is not None:
                found[stage] = x = self.step(part, x)
        features = Features(maps={name: found[name] for name in want.maps})
        if want.pooled:
            features.pooled = self.native.last(x.mean(dim=(2, 3))) * self.native.scale
        if want.embed:
            features.embed = nn.functional.normalize(self.native.last(x.mean(dim=(2, 3))), dim=1)
        if want.tokens:
            features.tokens = x.flatten(2).transpose(1, 2)
            features.prefix = features.tokens.mean(dim=1, keepdim=True)
            features.grid = tuple(x.shape[-2:])
        return features

    def step(self, part, x):
        if self.checkpointed and self.training:
            return checkpoint(getattr(self.native, part), x, use_reentrant=False)
        return getattr(self.native, part)(x)

    def cut(self, want):
        if not want.pooled and not want.embed:
            self.native.last = None
            if not want.tokens and "s2" not in want.maps:
                self.native.two = None
                if "s1" not in want.maps:
                    self.native.one = None
        return not want.pooled and not want.embed

    def set_grad_checkpointing(self, enable=True):
        self.checkpointed = enable
        return enable


class ToyProvider(Provider):
    """Gives toys, with a fault put in."""

    library = "torch"

    def __init__(self, backbone=ToyBackbone, native=Toy, change=None, **changes):
        self.backbone = backbone
        self.native = native
        self.change = change
        self.changes = changes

    def catalog(self):
        return Catalog(library="torch", version="2", entries=(CatalogEntry(name="net"),))

    def spec(self, reference):
        channels = reference.options.get("in_channels", 3)
        if not isinstance(channels, int):
            raise zoo.ConfigError(f"in_channels must be a number, got {channels!r}.")
        entry = InputSpec(
            name="image", kind="image", rank=4, channels=channels, size=(SIZE, SIZE), divisor=16, least=16
        )
        spec = BackboneSpec(
            reference=str(reference),
            provider="toy",
            architecture="net",
            library="torch",
            library_version="2",
            modality="image",
            inputs=(entry,),
            pooled_dim=8,
            token_dim=8,
            prefix_tokens=1,
            stages=STAGES,
            capabilities=CAN,
            parameters=sum(p.numel() for p in self.native(channels).parameters()),
            pooling="mean",
            preprocessing=Preprocessing(
                size=(SIZE, SIZE), resize=(SIZE,), mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels
            ),
            construction={"channels": channels},
        )
        return replace(self.change(spec) if self.change else spec, **self.changes)

    def build(self, spec, *, weights):
        if set(spec.construction) != {"channels"}:
            raise zoo.ConfigError("The spec holds what is never written.")
        return self.backbone(spec, self.native(spec.construction["channels"]))


@pytest.fixture
def install(registry_with):
    return lambda provider: registry_with("toy", zoo_provider=lambda: provider)


def outcomes(**asked):
    return {outcome.name: outcome for outcome in backbone_checks("toy:net", **asked)}


# --- what is sound

SKIPPED = {"mask", "fixed_size", "length"}


@pytest.mark.slow
def test_a_sound_backbone_passes_every_check(install):
    install(ToyProvider())
    found = outcomes()

    assert {name: one.reason for name, one in found.items() if one.result == "failed"} == {}
    assert {name for name, one in found.items() if one.result == "skipped"} == SKIPPED
    assert list(found) == list(CHECKS)
    assert len(CHECKS) >= 25
    check_backbone("toy:net", skip=["export", "compiled"])


class TextToy(nn.Module):
    def __init__(self, channels=None):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.mix = nn.Linear(8, 8)
        self.last = nn.Linear(8, 8)


class TextBackbone(Backbone):
    """Means over the real tokens."""

    def __init__(self, spec, native):
        super().__init__(spec, native, StageMap(native, {"s1": "mix"}))

    def extract(self, inputs, want):
        tokens = self.native.last(self.native.mix(self.native.embedding(inputs["ids"])).relu())
        mask = inputs.get("mask", torch.ones_like(inputs["ids"])).bool()
        weight = mask[..., None].to(tokens.dtype)
        return Features(
            pooled=(tokens * weight).sum(1) / weight.sum(1) if want.pooled else None,
            tokens=tokens if want.tokens else None,
            mask=mask,
        )


TEXT = {
    "modality": "text",
    "inputs": (
        InputSpec(name="ids", kind="tokens", rank=2, dtype="int64", length=20),
        InputSpec(name="mask", kind="mask", rank=2, dtype="int64", required=False),
    ),
    "prefix_tokens": 0,
    "stages": (StageSpec(name="stem"), StageSpec(name="s1", module="mix"), StageSpec(name="post")),
    "capabilities": ("mask", "pooled", "tokens"),
    "preprocessing": None,
}


def test_a_sound_text_backbone_passes_every_check(install):
    install(ToyProvider(TextBackbone, TextToy, **TEXT))
    found = outcomes(skip=["export", "compiled"])

    assert {name: one.reason for name, one in found.items() if one.result == "failed"} == {}
    for name in ("mask", "length", "tokens", "rebuild"):
        assert found[name].result == "passed", name
    assert found["preprocess"].result == "skipped"
    assert "brings no preprocessing" in found["preprocess"].reason


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:test_vit"])
def test_our_own_backbones_pass(reference):
    check_backbone(reference)


@pytest.mark.slow
def test_a_backbone_that_is_built_can_be_checked_and_is_left_as_it_is():
    net = Toy().train()
    backbone = zoo.wrap(net, inputs=torch.zeros(2, 3, SIZE, SIZE))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = {one.name: one for one in backbone_checks(backbone)}

    assert {name: one.reason for name, one in found.items() if one.result == "failed"} == {}
    assert found["bundle"].result == found["compiled"].result == "passed"
    assert {"seeds", "in_channels", "trim_gradients"} <= {n for n, one in found.items() if one.result == "skipped"}
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net.training


# --- what is not


def having(**members):
    """Make a faulty backbone: some members of its class are others."""
    return ToyProvider(type("Faulty", (ToyBackbone,), members))


def after(change):
    """Make a faulty backbone: its features are changed."""

    def extract(self, inputs, want):
        features = ToyBackbone.extract(self, inputs, want)
        return change(features, self, want) or features

    return having(extract=extract)


def within(change, *, by=ToyBackbone.extract):
    """Make a faulty backbone: something happens before each pass; an image may be given back."""

    def extract(self, inputs, want):
        found = change(self, inputs["image"])
        return by(self, inputs if found is None else {"image": found}, want)

    return having(extract=extract)


def changed(features, **changes):
    for name, value in changes.items():
        if getattr(features, name) is not None:
            setattr(features, name, value(getattr(features, name)))


def pooled(change):
    return after(lambda features, self, want: changed(features, pooled=change))


def maps(change):
    return after(lambda f, self, want: changed(f, maps=lambda found: {n: change(n, map_) for n, map_ in found.items()}))


def spec(**changes):
    return ToyProvider(**changes)


def entry(**changes):
    return ToyProvider(change=lambda spec: replace(spec, inputs=(replace(spec.inputs[0], **changes),)))


def without(*names):
    return {"capabilities": tuple(name for name in CAN if name not in names)}


class Idle(Toy):
    def __init__(self, channels=3):
        super().__init__(channels)
        self.idle = nn.Parameter(torch.zeros(2))


class ByChance(Toy):
    def __init__(self, channels=3):
        super().__init__(channels)
        self.register_buffer("scale", torch.rand(8), persistent=False)


class Crossed(ToyBackbone):
    def __init__(self, spec, native):
        super().__init__(spec, native)
        self._stages = StageMap(native, {"s1": "one", "s2": "two"}, moved={"one": "s2", "two": "s1"})


class Secret(ToyBackbone):
    def __init__(self, spec, native):
        super().__init__(spec, native)
        self.secret = torch.rand(8)

    def extract(self, inputs, want):
        features = super().extract(inputs, want)
        features.pooled = None if features.pooled is None else features.pooled + self.secret
        return features


class Locked(ToyBackbone):
    def __init__(self, spec, native):
        super().__init__(spec, native)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return type(self)(self.spec, copy.deepcopy(self.native, memo))


class Sharing(ToyBackbone):
    def __deepcopy__(self, memo):
        return type(self)(self.spec, self.native).train(self.training)


class Forgetful(ToyBackbone):
    """Is another one when a bundle is read."""

    def take_files(self, files):
        self.native.scale.mul_(2)


class Prefixed(ToyBackbone):
    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        return {key.replace("native.stem.", "native.first."): tensor for key, tensor in found.items()}

    def load_state_dict(self, state, strict=True, assign=False):
        renamed = {key.replace("native.first.", "native.stem."): tensor for key, tensor in state.items()}
        return super().load_state_dict(renamed, strict, assign)


class Anything(ToyBackbone):
    """Takes and gives whatever it is asked."""

    def forward(self, inputs, want=None):
        image = next(iter(inputs.values())) if inputs else torch.zeros(1, 3, SIZE, SIZE)
        image = (image if image.ndim == 4 else image[None])[:, :3].float()
        want = want or Want()
        return self.extract({"image": image}, replace(want, maps=tuple(name for name in want.maps if name in PARTS)))


class Anyway(ToyBackbone):
    """Gives tokens and embeddings that nobody declared."""

    def forward(self, inputs, want=None):
        if want is not None and (want.tokens or want.embed):
            return self.extract(inputs, want)
        return super().forward(inputs, want)


class Remembering(ToyBackbone):
    """Fits itself to the smallest picture that it saw."""

    def extract(self, inputs, want):
        self.least = min(getattr(self, "least", 32), inputs["image"].shape[-1])
        return super().extract({"image": inputs["image"] * self.least}, want)


class Trained(ToyBackbone):
    """Learns although it is frozen."""

    def extract(self, inputs, want):
        if self.training:
            self.native.stem[0].weight.data.mul_(0.99)
        return super().extract(inputs, want)


class Seeding(ToyProvider):
    def build(self, spec, *, weights):
        torch.manual_seed(3)
        return super().build(spec, weights=weights)


class Unseeded(ToyProvider):
    def build(self, spec, *, weights):
        made = super().build(spec, weights=weights)
        torch.seed()
        nn.init.normal_(made.native.last.weight)
        return made


class TakesAll(ToyProvider):
    def build(self, spec, *, weights):
        return self.backbone(spec, self.native(spec.construction["channels"]))


class FailsOnAll(ToyProvider):
    def build(self, spec, *, weights):
        return self.backbone(spec, self.native(**spec.construction))


class ThreeOnly(ToyProvider):
    def spec(self, reference):
        if reference.options:
            raise zoo.UnknownName(f"{reference} has no options.")
        return super().spec(reference)


class OtherOnRebuild(ToyProvider):
    """Builds something else after the first time."""

    built = False

    def build(self, spec, *, weights):
        made = super().build(spec, weights=weights)
        if self.built:
            made.native.last.register_parameter("bias", None)
        self.built = True
        return made


def drift(self, image):
    self.native.stem[1].running_mean.add_(1e-2)


def fail_unless(holds, text):
    def look(self, image):
        if not holds(image):
            raise RuntimeError(text)

    return within(look)


def trims(change):
    """Make a faulty backbone: trim does more, or something else."""

    def cut(self, want):
        return change(self, want) is None and ToyBackbone.cut(self, want)

    return having(cut=cut)


def prepares(change):
    return having(preprocess=lambda self, sample: change(self.spec.preprocessing.apply(sample)))


def in_worker(prepared):
    return prepared + 1 if torch.utils.data.get_worker_info() is not None else prepared


def no_grid(features, self, want):
    features.grid = None


def no_slope(features, self, want):
    changed(features, pooled=lambda p: p * 0 if self.training else p)


def all_maps(features, self, want):
    features.maps = {name: torch.zeros(2, 4, 8, 8) for name in PARTS}


def a_tuple(features, self, want):
    return features.pooled, features.maps


def more_for_maps(features, self, want):
    if want.maps:
        changed(features, pooled=lambda p: p + 1)


def from_later(features, self, want):
    if "s1" in features.maps:
        features.maps["s1"] = features.maps["s1"] + self.native.two[0].weight.mean()


def graph_break(self, image):
    if float(image.flatten()[0]) > 1e9:
        print("a branch on a value")


def no_export(self, image):
    return torch.from_numpy(image.detach().numpy().copy())


def counted(self, image):
    return image * (1 + int(image.shape[0]) // 10**6)


def stage_of(name, found):
    return having(stage_of=lambda self, path: found if path.startswith(name) else ToyBackbone.stage_of(self, path))


FAULTS = {
    "spec_json": [(spec(modality="pictures"), "It raised ConfigError"), (spec(pooled_dim=8.5), "It raised")],
    "spec_reference": [
        (spec(reference="toy:other"), "must carry the resolved reference"),
        (spec(provider="torchvision"), "provider must be 'toy'"),
    ],
    "stage_names": [(spec(stages=(STAGES[0], replace(STAGES[1], name="body"), STAGES[3])), "Stages must be stem, s1")],
    "capabilities": [
        (spec(capabilities=(*CAN, "velocity")), "Capabilities must be of"),
        (spec(capabilities=tuple(reversed(CAN))), "Capabilities must be sorted"),
        (spec(stages=tuple(replace(stage, channels=None) for stage in STAGES)), "Stages must have channels"),
        (spec(token_dim=None), "token_dim must be given"),
        (spec(capabilities=tuple(sorted([*CAN, "mask"]))), "an input of the kind 'mask'"),
        (entry(fixed_size=True), "fixed_size must be False"),
    ],
    "parameter_count": [(spec(parameters=1), "The spec must count")],
    "bad_construction": [
        (TakesAll(), "must raise ConfigError, and nothing was raised"),
        (FailsOnAll(), "must raise ConfigError, got TypeError"),
    ],
    "in_channels": [
        (spec(**without("in_channels")), "must be a capability"),
        (ThreeOnly(), "must be taken, got"),
        (ToyProvider(native=lambda channels: Toy(3)), "It raised RuntimeError"),
        (entry(channels=3), "must have 2 channels"),
    ],
    "pooled": [
        (pooled(lambda p: p[:, :7]), "must have the shape that the spec declares"),
        (pooled(lambda p: p[..., None, None]), "must have the shape that the spec declares"),
        (pooled(lambda p: p / 0), "must be finite"),
        (after(a_tuple), "extract must give Features, got tuple"),
    ],
    "pooled_alone": [(after(more_for_maps), "the same whether or not maps")],
    "nothing_unwanted": [
        (after(all_maps), "What is not wanted must not be given"),
        (within(lambda s, i: None, by=lambda s, i, w: ToyBackbone.extract(s, i, replace(w, tokens=True))), "tokens"),
        (within(lambda s, i: None, by=lambda s, i, w: ToyBackbone.extract(s, i, replace(w, maps=()))), "must be given"),
    ],
    "undeclared": [
        (ToyProvider(Anything), "A map that is not there must raise CapabilityError"),
        (ToyProvider(Anyway, token_dim=None, **without("tokens")), "Tokens that are not declared"),
        (ToyProvider(Anyway, **without("embed")), "An embedding that is not declared"),
    ],
    "maps": [
        (maps(lambda name, m: m.permute(0, 2, 3, 1)), r"Map stem must be \(B, C, H, W\)"),
        (maps(lambda name, m: m[..., ::2, ::2] if name == "s1" else m), "Map s1 must be 1/8"),
        (maps(lambda name, m: m[:, 1:] if name == "s2" else m), "Map s2 must be .* with 8 channels"),
    ],
    "tokens": [
        (after(lambda f, s, w: changed(f, tokens=lambda t: t[..., :5])), "tokens must have the shape"),
        (after(lambda f, s, w: changed(f, grid=lambda g: (g[0] + 1, g[1]))), "Tokens must fill the grid"),
        (after(no_grid), "grid must be given"),
        (after(lambda f, s, w: changed(f, prefix=lambda p: None)), "There must be 1 prefix tokens, got 0"),
    ],
    "embed": [
        (after(lambda f, s, w: changed(f, embed=lambda e: 2 * e)), "must be normalised"),
        (after(lambda f, s, w: changed(f, embed=lambda e: None)), r"embed must be \(B, E\), got None"),
        (after(lambda f, s, w: changed(f, embed=lambda e: e[0])), r"embed must be \(B, E\)"),
    ],
    "determinism": [
        (pooled(lambda p: p + torch.rand(8)), "pooled must be the same in eval mode"),
        (within(drift), "must be the same in eval mode"),
    ],
    "nothing_left": [
        (ToyProvider(Remembering), r"must be the same after a pass over \(1, 3, 16, 16\)"),
        (within(drift), r"must be the same after a pass over \(1, 3, 32, 32\)"),
    ],
    "batch_independence": [
        (pooled(lambda p: p - p.mean(0)), "Row 0 of pooled"),
        (maps(lambda name, m: m + m.mean()), "Row 0 of the map"),
    ],
    "mode": [
        (within(lambda self, image: self.native.one.train(not self.training) and None), "must leave the training mode"),
        (having(train=lambda self, mode=True: _grow(self, mode)), "must be the same after .train"),
    ],
    "preprocess": [
        (prepares(lambda tensor: tensor[:, :-16]), r"must be \(3, 32, 32\)"),
        (prepares(lambda tensor: tensor[None]), "without the batch dimension"),
        (prepares(lambda tensor: tensor / 0), "must give a finite pooled vector"),
        (prepares(lambda tensor: {"picture": tensor}), "must give the main input 'image'"),
    ],
    "wrong_rank": [(ToyProvider(Anything), "must raise ShapeError, and nothing was raised")],
    "wrong_channels": [(ToyProvider(Anything), "must raise ShapeError, and nothing was raised")],
    "wrong_dtype": [(ToyProvider(Anything), "must raise ShapeError, and nothing was raised")],
    "unknown_input": [(ToyProvider(Anything), "must raise ShapeError, and nothing was raised")],
    "missing_input": [(ToyProvider(Anything), "must raise ShapeError, and nothing was raised")],
    "divisor": [(ToyProvider(Anything), "must raise ShapeError")],
    "fixed_size": [
        (
            ToyProvider(Anything, change=lambda s: replace(s, inputs=(replace(s.inputs[0], fixed_size=True),))),
            "must raise ShapeError",
        )
    ],
    "other_size": [
        (
            fail_unless(lambda image: image.shape[-1] == 32, "the library fails"),
            "RuntimeError: the library fails",
        ),
        (after(lambda f, s, w: changed(f, pooled=lambda p: p if len(p) > 1 else p[:, :7])), "pooled must be"),
    ],
    "small_size": [
        (fail_unless(lambda image: image.shape[-1] >= 32, "kernel too large"), "must be taken, or 'least' be higher"),
        (entry(least=8, divisor=8), "or 'least' be higher"),
        (
            ToyProvider(Anything, change=lambda s: replace(s, inputs=(replace(s.inputs[0], least=32),))),
            "too small must raise ShapeError",
        ),
    ],
    "stages_total": [
        (stage_of("last", "head"), "must be one of the spec's, got 'head'"),
        (having(stage_of=lambda self, path: {}[path]), "must be one of the spec's, got"),
        (stage_of("no_such", "post"), "must raise UnknownName"),
        (spec(stages=(*STAGES[:2], replace(STAGES[2], module="three"), STAGES[3])), "must end in a module"),
    ],
    "stage_order": [(ToyProvider(Crossed), "must not run after the stage")],
    "map_gradients": [
        (after(from_later), "must depend on no later stage"),
        (maps(lambda name, m: m.detach()), "must depend on the parameters of its stage"),
    ],
    "freezing": [
        (ToyProvider(Trained), "is in a frozen stage and must not change"),
        (within(drift), "is in a frozen stage and must not change"),
        (
            after(lambda f, s, w: changed(f, pooled=lambda p: p * 0 if s.training else p)),
            "must change the stages that are not frozen",
        ),
    ],
    "gradients": [(ToyProvider(native=Idle), r"1 get none: \['native.idle'\]")],
    "trim_gradients": [
        (ToyProvider(native=Idle), "Trimmed for the map stem, every parameter must get a gradient"),
        (trims(lambda self, want: True if want.tokens else None), "leaves all for the tokens"),
    ],
    "trim": [
        (trims(lambda self, want: setattr(self.native, "last", nn.Identity())), "pooled must be bit-equal"),
        (trims(lambda self, want: setattr(self.native, "renamed", self.native.last)), "must have no new keys"),
        (trims(lambda self, want: _double(self.native.stem[0].weight)), "must stay as it is"),
        (having(cut=lambda self, want: ToyBackbone.cut(self, want) and False), "cut must give True where tensors go"),
    ],
    "grad_checkpointing": [
        (spec(**without("grad_checkpointing")), r"must give False, as declared, got True"),
        (having(set_grad_checkpointing=lambda self, enable=True: False), "must give True, as declared, got False"),
        (having(set_grad_checkpointing=lambda self, enable=True: enable), "fewer tensors must be kept"),
        (having(set_grad_checkpointing=lambda self, enable=True: True), r"set_grad_checkpointing\(False\)"),
        (having(step=lambda self, part, x: _cut(self, part, x)), "gradient"),
    ],
    "state_keys": [(ToyProvider(Prefixed), "must stand under 'native.'")],
    "rebuild": [
        (ToyProvider(Secret), "A backbone rebuilt from its spec must give equal features"),
        (ToyProvider(native=ByChance), "The buffer native.scale of a rebuilt backbone must be equal"),
        (OtherOnRebuild(), "must have the same keys; .*bias"),
    ],
    "seeds": [(Seeding(), "Other seeds must give other weights"), (Unseeded(), "must be the same with the same seed")],
    "deepcopy": [(ToyProvider(Sharing), "must not change with the original")],
    "pickling": [(ToyProvider(Locked), "must go through pickling")],
    "worker": [(prepares(in_worker), "A worker must prepare image as this process does")],
    "bundle": [(ToyProvider(Forgetful), "out of a bundle must give equal features")],
    "channels_last": [
        (
            within(lambda s, i: i if i.is_contiguous() else torch.zeros_like(i)),
            "must be the same with channels last",
        )
    ],
    "half_precision": [
        (pooled(lambda p: p.float()), "pooled must be bfloat16 where the weights are, got float32"),
        (within(lambda self, image: image.float()), "It must run in bfloat16, got RuntimeError"),
    ],
    "export": [
        (within(no_export), "can be exported for a batch of any size, but not as a backbone"),
        (within(counted), "can be exported for a batch of any size, but not as a backbone"),
    ],
    "compiled": [(within(graph_break), "compiles to one graph alone, but not as a backbone")],
}


def _double(parameter):
    parameter.data.mul_(2)


def _grow(self, mode):
    if mode:
        self.native.scale.mul_(2)
    return nn.Module.train(self, mode)


def _cut(self, part, x):
    found = ToyBackbone.step(self, part, x)
    return found.detach() if self.checkpointed and part == "one" else found


CASES = [(name, fault, text) for name, faults in FAULTS.items() for fault, text in faults]


@pytest.mark.parametrize(("name", "fault", "text"), CASES, ids=[f"{name}: {text}"[:60] for name, _, text in CASES])
def test_a_fault_is_found_by_the_check_that_is_there_for_it(install, name, fault, text):
    install(fault)

    with pytest.raises(AssertionError, match=f"toy:net fails {name}: (?s:.)*{text}"):
        check_backbone("toy:net", only=name)


class MeanOfAll(TextBackbone):
    """Lets padding count."""

    def extract(self, inputs, want):
        features = super().extract(inputs, want)
        if features.tokens is None and want.pooled:
            features.pooled = super().extract(inputs, Want(tokens=True)).tokens.mean(1)
        return features


class LosesMask(TextBackbone):
    def extract(self, inputs, want):
        features = super().extract(inputs, want)
        features.mask = None
        return features


class CountsPlaces(TextBackbone):
    """Lets the length of the row count, though not what stands there."""

    def extract(self, inputs, want):
        features = super().extract(inputs, want)
        features.pooled = None if features.pooled is None else features.pooled * inputs["ids"].shape[1]
        return features


class TakesAnyLength(TextBackbone):
    def forward(self, inputs, want=None):
        return self.extract(dict(inputs), want or Want())


@pytest.mark.parametrize(
    ("name", "fault", "text"),
    [
        ("mask", MeanOfAll, "What the mask leaves out must not change the pooled vector"),
        ("mask", LosesMask, "The mask must be carried"),
        ("mask", CountsPlaces, "Padding that is masked must not change"),
        ("length", TakesAnyLength, "longer than 20 must raise ShapeError"),
    ],
)
def test_a_fault_of_a_text_backbone_is_found(install, name, fault, text):
    install(ToyProvider(fault, TextToy, **TEXT))

    with pytest.raises(AssertionError, match=text):
        check_backbone("toy:net", only=name)


def test_every_check_has_a_fault():
    assert set(CHECKS) == {*FAULTS, "mask", "length"}


def test_every_check_has_a_name_and_one_sentence():
    for name, one in CHECKS.items():
        assert one.name == name
        assert one.summary.endswith(".")
        assert "\n" not in one.summary


def test_a_name_that_is_no_check_is_told_with_the_nearest():
    with pytest.raises(zoo.UnknownName, match="no check 'pool'; the nearest are pooled"):
        check_backbone("timm:test_resnet", only="pool")
    with pytest.raises(zoo.UnknownName, match="no check 'compile'"):
        check_backbone("timm:test_resnet", skip=["compile"])


def test_the_checks_go_on_after_a_failure(install):
    install(spec(parameters=1))
    found = outcomes(only=["spec_json", "parameter_count", "pooled"])

    assert [(one.name, one.result) for one in found.values()] == [
        ("spec_json", "passed"),
        ("parameter_count", "failed"),
        ("pooled", "passed"),
    ]
    assert all(one.seconds >= 0 for one in found.values())


def test_a_backbone_that_does_not_exist_is_no_failure_of_a_check():
    with pytest.raises(zoo.UnknownName):
        check_backbone("timm:no_such_net")


@pytest.mark.slow
def test_no_check_touches_the_global_generator(install):
    install(ToyProvider())
    before = torch.get_rng_state()
    outcomes(skip=["export", "compiled"])

    assert torch.equal(before, torch.get_rng_state())


def test_the_page_of_the_kit_lists_every_check_with_what_must_hold():
    text = (Path(__file__).parents[3] / "docs/reference/testing.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)` \| (.+) \|$", text.partition("## The checks")[2], re.MULTILINE)

    assert told == [(name, one.summary) for name, one in CHECKS.items()]

"""Feature fusion: what holds of every method, the head inside, what is refused, and whole models."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.contracts.head import Needs, Task
from zoo.errors import CapabilityError, ConfigError, DataError, UnknownName
from zoo.registry import registry
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.fusion_plan import METHODS

KIND = {"type": "classifier", "classes": ["x", "y", "z"]}
POOL = {"type": "attention_pool", "classes": ["x", "y", "z"], "heads": 2}
AGE = {"type": "regression", "name": "age"}
NAMES = ("a", "b", "c")
PIXELS = {"type": "pixels", "classes": ["x", "y"]}


def rows_of(features, rows):
    """Keep some samples."""

    def cut(one):
        parts = {f.name: getattr(one, f.name) for f in dataclasses.fields(one)}
        for name, value in parts.items():
            if isinstance(value, torch.Tensor):
                parts[name] = value[rows]
        return type(one)(**{**parts, "maps": {name: value[rows] for name, value in one.maps.items()}})

    return {name: cut(one) for name, one in features.items()}


# --- every method


SETTINGS = [
    *({"method": method} for method in ("concat", "sum", "gated", "bilinear", "attention")),
    *({"method": "maps", "maps": maps} for maps in ("sum", "concat", "attention")),
]


def inner_of(method):
    return {"attention": POOL, "maps": PIXELS}.get(method, KIND)


@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: "-".join(config.values()))
def test_every_parameter_gets_a_gradient_and_a_batch_of_one_is_what_it_is_among_others(
    fuse, draw_streams, config, lacking
):
    head = fuse("a", "b", head=inner_of(config["method"]), missing="mask", **config)
    features = lacking(draw_streams(4, "a", "b"), a=[2])

    output = head(features)["kind"]
    alone = torch.cat([head(rows_of(features, slice(row, row + 1)))["kind"] for row in range(4)])
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()

    torch.testing.assert_close(alone, output)
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: "-".join(config.values()))
def test_the_fused_stream_is_what_its_description_says(fuse, draw_streams, config, streams):
    head = fuse("a", "b", head=inner_of(config["method"]), **config)
    kind = METHODS[config["method"]]
    settings = head.config.settings()
    told = kind.describe(streams("a", "b").streams, settings)

    asked = Needs(pooled=True, tokens="tokens" in kind.gives, reductions=(8, 16) if "maps" in kind.gives else ())
    given = kind(streams("a", "b").streams, settings, asked)(draw_streams(2, "a", "b"), None)

    assert set(kind.gives) <= set(told.capabilities)
    assert given.pooled.shape == (2, told.pooled_dim)
    assert (told.token_dim is None) == (given.tokens is None)
    if given.tokens is not None:
        assert given.tokens.shape[2] == told.token_dim
    assert {name: one.shape[1] for name, one in given.maps.items()} == {one.name: one.channels for one in told.maps}
    assert [stage.reduction for stage in told.maps] == ([8.0, 16.0] if given.maps else [])
    assert (told.preprocessing, told.weights, told.license) == (None, None, None)


@pytest.mark.parametrize("method", ["concat", "attention", "maps"])
def test_without_mask_a_sample_that_lacks_a_stream_is_refused(fuse, draw_streams, method, lacking):
    head = fuse("a", "b", method=method)

    assert head.may_miss() == frozenset()
    with pytest.raises(DataError, match=r"'kind' \(feature_fusion\) got a sample without 'b'; set missing='mask'"):
        head(lacking(draw_streams(2, "a", "b"), b=[0]))


# --- the head inside


def test_tasks_losses_and_classes_are_those_of_the_head_inside(fuse, draw_streams, streams):
    both = {"type": "multi_task", "heads": [{"name": "sort", **KIND}, AGE], "weights": {"age": 0.5}}
    head, features = fuse("a", "b", head=both, method="gated"), draw_streams(3, "a", "b")
    outputs = head(features)
    targets = {name: task.encode(labels) for (name, task), labels in zip(
        head.tasks().items(), [["x", None, "z"], [1.0, 2.0, None]], strict=True
    )}  # fmt: skip

    losses = head.losses(outputs, targets)

    assert list(outputs) == list(head.tasks()) == ["sort", "age"]
    assert all(isinstance(task, Task) for task in head.tasks().values())
    torch.testing.assert_close(losses["sort"], F.cross_entropy(outputs["sort"][[0, 2]], targets["sort"][[0, 2]]))
    assert losses["age"].item() == pytest.approx(
        0.5 * ((outputs["age"][:2] - torch.tensor([1.0, 2.0])) ** 2).mean().item()
    )


def test_completing_fills_the_classes_of_the_heads_inside(streams):
    inner = {"type": "multi_task", "heads": [{"type": "classifier", "name": "sort"}, AGE]}
    spec = HeadSpec(type="feature_fusion", name="all", config={"head": inner})

    done = registry().head_class("feature_fusion").complete(spec, {"sort": ("b", "a"), "age": (1.0,)}, streams())

    assert done.config["head"]["heads"][0]["classes"] == ["a", "b"]
    assert list(streams("a", "b").build(done).tasks()) == ["sort", "age"]


def test_streams_that_are_not_named_are_not_read(fuse, draw_streams, streams, fused):
    head = fuse(*NAMES, streams=["c", "a"])
    features = draw_streams(2, *NAMES)

    found = fused(head, {name: features[name] for name in ("a", "c")})

    torch.testing.assert_close(found.pooled, torch.cat([features["c"].pooled, features["a"].pooled], dim=1))
    assert set(streams(*NAMES).needs(head.spec)) == {"a", "c"}


def test_a_copy_of_the_head_has_parts_of_its_own(fuse, draw_streams):
    head, features = fuse("a", "b", method="gated"), draw_streams(2, "a", "b")
    twin, before = copy.deepcopy(head), head(features)["kind"]
    with torch.no_grad():
        head.fuser.gate.weight.add_(1)

    assert torch.equal(twin(features)["kind"], before)
    assert not torch.equal(head(features)["kind"], before)


# --- what is refused


@pytest.mark.parametrize(
    ("names", "config", "error", "sentence"),
    [
        (("a",), {}, ConfigError, r"'kind' \(feature_fusion\) fuses two streams or more, got a; build the model"),
        (NAMES, {"streams": []}, ConfigError, "fuses two streams or more, got none"),
        (
            NAMES,
            {"streams": ["a", "bb"]},
            UnknownName,
            r"reads the stream 'bb'; the model has a, b, c\. Did you mean 'b'\?",
        ),
        (
            NAMES,
            {"method": "concat", "dim": 8},
            ConfigError,
            "dim is for the method .*gated.* and the method is concat",
        ),
        (NAMES, {"method": "sum", "maps": "sum"}, ConfigError, "maps is for the method maps, and the method is sum"),
        (NAMES, {"attention_heads": 2}, ConfigError, "attention_heads is for the method attention, and"),
        (NAMES, {"method": "sum", "dim": 0}, ConfigError, "dim must be 1 or more, got 0"),
        (
            NAMES,
            {"method": "attention", "dim": 6},
            ConfigError,
            "dim must be a multiple of the 4 attention_heads, got 6",
        ),
        (NAMES, {"method": "mean"}, ConfigError, "method: Input should be 'concat'"),
        (NAMES, {"head": {**KIND, "stream": "a"}}, ConfigError, "'classifier' inside it names the stream 'a'; leave"),
        (
            NAMES,
            {"head": {"type": "multi_task", "heads": [{"name": "sort", **KIND, "stream": "b"}]}},
            ConfigError,
            "the head 'sort' inside it names the stream 'b'; leave that out",
        ),
        (
            NAMES,
            {"head": POOL, "method": "gated"},
            CapabilityError,
            r"'kind' \(attention_pool\) inside it reads tokens, and fusion by gated gives pooled; methods of "
            "feature_fusion that give it: attention",
        ),
        (("a", "b"), {"head": PIXELS}, CapabilityError, "reads maps, and fusion by concat .* that give it: maps"),
        (
            ("a", "b"),
            {"head": {**PIXELS, "hidden": 4}, "method": "maps"},
            CapabilityError,
            r"a map at reduction 4 of every stream; 'b' \(none:five\) has 8, 16",
        ),
        (
            NAMES,
            {"method": "maps"},
            CapabilityError,
            "a reduction that all streams have: a has 4, 8, 16; .* c has none",
        ),
        (NAMES, {"head": {"classes": ["x"]}}, ConfigError, "a dict with 'type'"),
        (NAMES, {"head": {"type": "clasifier"}}, UnknownName, "No head is called 'clasifier'"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(fuse, names, config, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        fuse(*names, **config)

    assert "\n" not in str(caught.value)


# --- whole models


@pytest.mark.slow
def test_a_backbone_without_what_the_method_reads_is_named_before_any_weights_load():
    backbones = {"a": "timm:test_resnet", "b": "hf:clip#text"}
    head = zoo.head("feature_fusion", head=KIND, method="maps")

    with pytest.raises(CapabilityError, match="a reduction that all streams have: a has 2, 4, 8, 16, 32; b has none"):
        zoo.build(backbones, head)


@pytest.mark.slow
@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: "-".join(config.values()))
def test_two_backbones_on_one_picture_are_the_same_after_saving_and_loading(config, tmp_path):
    backbones = {"a": "timm:test_resnet", "b": "timm:test_vit"}
    head = zoo.head("feature_fusion", name="kind", head=KIND, **config)
    model = zoo.build(backbones, head, inputs="image", weights=None, seed=0)
    picture = torch.randn(2, 3, 160, 160)

    target = {"kind": model.task("kind").encode(["x", "z"])}
    sum(model.losses(model(picture), target).values()).backward()
    model.save(tmp_path / "bundle")
    again = zoo.load(tmp_path / "bundle")

    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        output = model(picture)["kind"]
        assert torch.equal(output, again(picture)["kind"])
        torch.testing.assert_close(model(picture[:1])["kind"], output[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [{"method": "gated"}, {"method": "attention", "missing": "mask"}], ids=["gated", "attention"]
)
def test_fused_features_under_several_tasks_conform(config):
    tasks = {"type": "multi_task", "heads": [{"name": "sort", **KIND}, AGE]}
    head = {"type": "feature_fusion", "name": "all", "head": tasks, "dim": 16, **config}

    check_head(head, {"a": "timm:test_resnet", "b": "timm:test_vit"})


@pytest.mark.slow
def test_attention_pooling_reads_the_tokens_of_all_streams():
    head = {"type": "feature_fusion", "name": "kind", "head": POOL, "method": "attention", "dim": 16}

    check_head(head, {"a": "timm:test_resnet", "b": "timm:test_vit"})


@pytest.mark.slow
def test_tasks_inside_are_balanced_by_what_the_fuser_shares_even_on_frozen_backbones():
    tasks = {"type": "multi_task", "heads": [{"name": "sort", **KIND}, AGE], "balance": "gradnorm"}
    head = {"type": "feature_fusion", "name": "all", "head": tasks, "method": "sum", "dim": 8}
    model = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, head, inputs="image", weights=None, seed=0)
    model.freeze().train()
    targets = {"sort": torch.tensor([0, 2]), "age": torch.tensor([1.0, 50.0])}

    losses = model.losses(model(torch.randn(2, 3, 160, 160)), targets)
    sum(losses.values()).backward()

    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.heads.parameters())

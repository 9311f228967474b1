"""Streams fused by their scores or their pooled vectors: beside plain tensor code, and inside whole models."""

import copy

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import CapabilityError, ConfigError, UnknownName
from zoo.registry import registry
from zoo.spec import HeadSpec
from zoo.testing import check_head

KIND = {"type": "classifier", "classes": ["x", "y", "z"]}
TAGS = {"type": "classifier", "classes": ["x", "y", "z"], "multi_label": True}
AGE = {"type": "regression", "standardize": True}
NAMES = ("a", "b", "c")


@pytest.fixture
def fuse(combine):
    """Build a head on streams, by default a classifier on all three."""
    return lambda *names, head=KIND, **config: combine("two_stream", *(names or NAMES), head=head, **config)


def own(head, features):
    """Score each stream with its own linear layer, by hand."""
    return {
        name: features[name].pooled @ part.layers[0].weight.T + part.layers[0].bias for name, part in head.own.items()
    }


# --- late fusion


def test_the_softmax_of_what_is_fused_is_the_mean_of_the_streams_softmaxes(fuse, draw_streams):
    head, features = fuse(), draw_streams(4, *NAMES)

    outputs = head(features)

    alone = own(head, features)
    expected = sum(scores.softmax(dim=1) for scores in alone.values()) / 3
    assert list(outputs) == ["kind", "kind-a", "kind-b", "kind-c"]
    torch.testing.assert_close(outputs["kind"].softmax(dim=1), expected)
    for name in NAMES:
        torch.testing.assert_close(outputs[f"kind-{name}"], alone[name])
    assert [one.label for one in head.tasks()["kind"].decode(outputs["kind"])] == [
        KIND["classes"][i] for i in expected.argmax(dim=1)
    ]


def test_given_weights_weigh_the_probabilities_and_are_scaled_to_sum_to_one(fuse, draw_streams):
    head = fuse("a", "b", fusion="weighted", weights={"b": 3.0, "a": 1.0})
    features = draw_streams(4, "a", "b")

    output = head(features)["kind"]

    alone = own(head, features)
    expected = 0.25 * alone["a"].softmax(dim=1) + 0.75 * alone["b"].softmax(dim=1)
    torch.testing.assert_close(output.softmax(dim=1), expected)


def test_learnt_weights_start_equal_and_are_a_softmax_that_the_loss_trains(fuse, draw_streams):
    head, features = fuse(fusion="learnt"), draw_streams(6, *NAMES)
    mean = fuse(fusion="mean")
    mean.own.load_state_dict(head.own.state_dict())
    torch.testing.assert_close(head(features)["kind"], mean(features)["kind"])

    with torch.no_grad():
        head.shares.copy_(torch.tensor([0.3, -1.0, 2.0]))
    outputs = head(features)
    target = {"kind": head.tasks()["kind"].encode(list("xyzxyz"))}
    sum(head.losses(outputs, target).values()).backward()

    shares = torch.tensor([0.3, -1.0, 2.0]).softmax(dim=0)
    expected = sum(w * scores.softmax(dim=1) for w, scores in zip(shares, own(head, features).values(), strict=True))
    torch.testing.assert_close(outputs["kind"].softmax(dim=1), expected)
    assert isinstance(head.shares, nn.Parameter)
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_the_mean_of_logits_is_taken_where_it_is_asked_for(fuse, draw_streams):
    head, features = fuse(of="logits"), draw_streams(4, *NAMES)

    torch.testing.assert_close(head(features)["kind"], sum(own(head, features).values()) / 3)


def test_with_several_labels_the_sigmoid_of_what_is_fused_is_the_mean_of_the_sigmoids(fuse, draw_streams):
    head, features = fuse("a", "b", head=TAGS), draw_streams(4, "a", "b")

    alone = own(head, features)
    expected = (alone["a"].sigmoid() + alone["b"].sigmoid()) / 2
    torch.testing.assert_close(head(features)["kind"].sigmoid(), expected)


def test_numbers_are_averaged_in_the_unit_of_the_labels(fuse, draw_streams):
    head, features = fuse("a", "b", head=AGE), draw_streams(4, "a", "b")
    for task in head.tasks().values():
        task.prepare([10.0, 30.0, None])

    outputs = head(features)

    standard = sum(own(head, features).values()).squeeze(1) / 2
    torch.testing.assert_close(outputs["kind"], standard * 10 + 20)
    loss = head.losses(outputs, {"kind": torch.tensor([20.0, float("nan"), 10.0, 20.0])})["kind"]
    known = outputs["kind"][[0, 2, 3]]
    assert loss.item() == pytest.approx((((known - torch.tensor([20.0, 10.0, 20.0])) / 10) ** 2).mean().item())


def test_extreme_scores_neither_overflow_nor_lose_their_gradient(fuse):
    from zoo_heads.late_fusion import fuse_scores

    for activation in ("softmax", "sigmoid"):
        scores = [torch.tensor([[1e4, -1e4]], requires_grad=True), torch.tensor([[-1e4, 1e4]], requires_grad=True)]
        fused = fuse_scores(scores, torch.zeros(2), None, activation)
        fused.sum().backward()

        chance = fused.softmax(dim=1) if activation == "softmax" else fused.sigmoid()
        torch.testing.assert_close(chance, torch.tensor([[0.5, 0.5]]))
        assert all(torch.isfinite(one.grad).all() for one in scores)


# --- the streams' own tasks


def test_each_stream_is_a_task_with_its_own_loss_of_the_same_labels(fuse, draw_streams):
    head, features = fuse("a", "b", head={**KIND, "weight": 0.0, "target": "species"}, stream_weight=2.0), None
    features = draw_streams(3, "a", "b")
    tasks = head.tasks()
    target = tasks["kind"].encode(["x", None, "z"])

    outputs = head(features)
    losses = head.losses(outputs, dict.fromkeys(tasks, target))

    assert [task.target for task in tasks.values()] == ["species"] * 3
    assert losses["kind"].item() == 0
    for name, scores in own(head, features).items():
        expected = 2 * nn.functional.cross_entropy(scores[[0, 2]], target[[0, 2]])
        torch.testing.assert_close(losses[f"kind-{name}"], expected)
        assert set(tasks[f"kind-{name}"].metrics()) == set(tasks["kind"].metrics())


def test_by_default_the_streams_own_losses_weigh_nothing(fuse, draw_streams):
    head = fuse("a", "b")
    outputs, target = head(draw_streams(3, "a", "b")), head.tasks()["kind"].encode(["x", "y", "z"])

    losses = head.losses(outputs, dict.fromkeys(head.tasks(), target))

    expected = nn.functional.nll_loss(outputs["kind"].softmax(dim=1).log(), target)
    torch.testing.assert_close(losses["kind"], expected)
    assert losses["kind-a"].item() == losses["kind-b"].item() == 0


def test_balanced_class_weights_are_learnt_for_all_and_stored_once_a_stream(fuse):
    head = fuse("a", "b", head={**KIND, "class_weights": "balanced"})

    for task in head.tasks().values():
        task.prepare(["x"] * 6 + ["y"] * 2 + ["z"])

    weights = [value for name, value in head.state_dict().items() if name.endswith("class_weights")]
    assert len(weights) == 2
    assert all(one.tolist() == pytest.approx([0.5, 1.5, 3.0]) for one in weights)
    logits = torch.zeros(2, 3)
    loss = head.tasks()["kind"].loss(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, torch.tensor([0, 2]), weight=weights[0]))


def test_a_copy_of_the_head_speaks_through_its_own_parts(fuse, draw_streams, lacking):
    head = fuse("a", "b", missing="mask")
    twin = copy.deepcopy(head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()

    features = lacking(draw_streams(3, "a", "b"), b=[1])
    assert not head(features)["kind-a"].any()
    assert twin(features)["kind-a"].all()
    assert twin.tasks()["kind"].speaker is twin.own["a"]


# --- mid fusion


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_mid_fusion_puts_one_head_on_the_fused_vectors(fuse, draw_streams, fusion):
    config = {"dim": 7} if fusion == "sum" else {}
    head, features = fuse(fusion=fusion, **config), draw_streams(4, *NAMES)

    outputs = head(features)

    vectors = [features[name].pooled for name in NAMES]
    if fusion == "concat":
        fused = torch.cat(vectors, dim=1)
    else:
        fused = sum(
            x @ layer.weight.T + layer.bias for x, layer in zip(vectors, head.fuser.project.values(), strict=True)
        )
    assert list(outputs) == ["kind"]
    layer = head.inner.layers[0]
    torch.testing.assert_close(outputs["kind"], fused @ layer.weight.T + layer.bias)


def test_with_mid_fusion_a_stream_learns_by_itself_only_if_its_loss_weighs_something(fuse, draw_streams):
    head, features = fuse("a", "b", fusion="concat", stream_weight=0.5), draw_streams(3, "a", "b")
    target = head.tasks()["kind"].encode(["x", "y", "z"])

    outputs = head(features)
    losses = head.losses(outputs, dict.fromkeys(head.tasks(), target))

    assert list(outputs) == ["kind", "kind-a", "kind-b"]
    torch.testing.assert_close(losses["kind-b"], 0.5 * nn.functional.cross_entropy(own(head, features)["b"], target))
    assert list(fuse("a", "b", fusion="concat").tasks()) == ["kind"]


# --- what is refused


@pytest.mark.parametrize(
    ("names", "config", "error", "sentence"),
    [
        (
            ("a",),
            {},
            ConfigError,
            r"'kind' \(two_stream\) fuses two streams or more, got a; build the model with several",
        ),
        (NAMES, {"streams": ["a"]}, ConfigError, "fuses two streams or more, got a"),
        (NAMES, {"streams": ["a", "a"]}, ConfigError, "names the stream 'a' twice"),
        (NAMES, {"streams": ["a", "d"]}, UnknownName, "reads the stream 'd'; the model has a, b, c"),
        (NAMES, {"fusion": "weighted"}, ConfigError, "weights must give each stream its weight"),
        (
            NAMES,
            {"fusion": "weighted", "weights": {"a": 1, "b": 1}},
            ConfigError,
            "must have one weight for each of the streams a, b, c, got a, b",
        ),
        (NAMES, {"fusion": "weighted", "weights": {"a": 0, "b": 1, "c": 1}}, ConfigError, "weights must be above 0"),
        (NAMES, {"weights": {"a": 1}}, ConfigError, "weights is for the fusion weighted, and the fusion is mean"),
        (NAMES, {"fusion": "concat", "of": "logits"}, ConfigError, "of is for the fusion mean, weighted, learnt, and"),
        (NAMES, {"dim": 8}, ConfigError, "dim is for the fusion sum"),
        (NAMES, {"fusion": "sum", "dim": 0}, ConfigError, "dim must be 1 or more"),
        (NAMES, {"stream_weight": -1.0}, ConfigError, "stream_weight must be 0 or more"),
        (NAMES, {"fusion": "max"}, ConfigError, "fusion: Input should be 'mean'"),
        (
            NAMES,
            {"head": AGE, "of": "probabilities"},
            ConfigError,
            "'regression' has no probabilities to average; set of=",
        ),
        (NAMES, {"head": {**KIND, "stream": "a"}}, ConfigError, "the head 'classifier' inside it names the stream 'a'"),
        (
            NAMES,
            {"head": {"type": "multi_task", "heads": [{"name": "k", **KIND}]}},
            ConfigError,
            "takes the head of one task, got 'multi_task'; put a two_stream for each task into multi_task",
        ),
        (
            NAMES,
            {"head": {"type": "attention_pool", "classes": ["x", "y"]}, "fusion": "sum"},
            CapabilityError,
            r"'kind' \(attention_pool\) inside it reads tokens, and fusion by sum gives pooled",
        ),
        (NAMES, {"head": {**KIND, "name": "k" * 64}}, ConfigError, "name must be 1 to 64 letters"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(fuse, names, config, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        fuse(*names, **config)

    assert "\n" not in str(caught.value)


def test_completing_fills_the_classes_of_the_head_inside(streams):
    spec = HeadSpec(type="two_stream", name="kind", config={"head": {"type": "classifier"}})

    done = registry().head_class("two_stream").complete(spec, {"kind": ("b", "a", None)}, streams())

    assert done.config["head"] == {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    assert list(streams("a", "b").build(done).tasks()) == ["kind", "kind-a", "kind-b"]


def test_each_stream_is_asked_for_what_the_head_inside_reads(streams):
    tokens = HeadSpec(
        type="two_stream", name="kind", config={"head": {"type": "attention_pool", "classes": ["x", "y"]}}
    )
    needs = streams("b", "c").needs(tokens)

    assert set(needs) == {"b", "c"}
    assert all(one.tokens and not one.pooled for one in needs.values())


# --- whole models


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"fusion": "learnt", "stream_weight": 1.0, "missing": "mask"},
        {"fusion": "sum", "dim": 16, "stream_weight": 1.0},
    ],
    ids=["mean", "learnt", "sum"],
)
def test_a_model_trains_every_parameter_and_is_the_same_after_saving_and_loading(config, tmp_path):
    backbones = {"rgb": "timm:test_resnet", "flow": "timm:test_vit?in_channels=2"}
    head = zoo.head("two_stream", name="kind", head=KIND, **config)
    model = zoo.build(backbones, head, weights=None, seed=0)
    inputs = {"rgb": torch.randn(2, 3, 160, 160), "flow": torch.randn(2, 2, 160, 160)}
    target = model.task("kind").encode(["x", "y"])

    losses = model.losses(model(inputs), dict.fromkeys(model.tasks(), target))
    sum(losses.values()).backward()
    model.save(tmp_path / "bundle")
    again = zoo.load(tmp_path / "bundle")

    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        outputs, found = model(inputs), again(inputs)
        one = model({name: tensor[:1] for name, tensor in inputs.items()})
    assert list(outputs) == list(found) == ["kind", "kind-rgb", "kind-flow"]
    for name, output in outputs.items():
        assert torch.equal(output, found[name])
        torch.testing.assert_close(one[name], output[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"head": KIND, "fusion": "learnt", "missing": "mask", "stream_weight": 1.0},
        {"head": {"type": "regression", "standardize": False}, "fusion": "weighted", "weights": {"rgb": 1, "flow": 2}},
        {"head": TAGS, "fusion": "concat"},
    ],
    ids=["learnt", "weighted", "concat"],
)
def test_heads_on_two_streams_conform(config):
    check_head({"type": "two_stream", "name": "kind", **config}, {"rgb": "timm:test_resnet", "flow": "timm:test_vit"})

"""Several tasks on one backbone pass: the parts must be what they are alone, and their sum the whole."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.registry import registry
from zoo.spec import HeadSpec
from zoo.testing import check_head

KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b", "c"]}
TAGS = {"type": "classifier", "name": "tags", "classes": ["x", "y"], "multi_label": True}
AGE = {"type": "regression", "name": "age"}
LABELS = {"kind": ["a", "c", None, "b"], "tags": [("x",), None, (), ("x", "y")], "age": [1.0, None, 3.0, -2.0]}


def targets_of(head, labels=LABELS):
    return {name: task.encode(labels[name]) for name, task in head.tasks().items()}


def test_the_loss_of_each_task_is_what_it_is_alone(make, features):
    head, given = make("multi_task", "all", heads=[KIND, TAGS, AGE]), features(4)
    outputs, targets = head(given), targets_of(head)

    losses = head.losses(outputs, targets)

    assert list(losses) == list(outputs) == ["kind", "tags", "age"]
    for name, task in head.tasks().items():
        assert losses[name].item() == task.loss(task.score(given["main"]), targets[name]).item()


def test_fixed_weights_multiply_the_losses_on_top_of_a_tasks_own_weight(make, features):
    plain = make("multi_task", "all", heads=[KIND, AGE])
    weighted = make("multi_task", "all", heads=[KIND, {**AGE, "weight": 2.0}], weights={"age": 3.0})

    alone = plain.losses(plain(features(4)), targets_of(plain))
    found = weighted.losses(weighted(features(4)), targets_of(weighted))

    assert found["kind"].item() == pytest.approx(alone["kind"].item())
    assert found["age"].item() == pytest.approx(6 * alone["age"].item())


def test_a_weight_of_zero_leaves_a_task_without_gradient(make, features):
    head = make("multi_task", "all", heads=[KIND, AGE], weights={"age": 0.0})

    sum(head.losses(head(features(4)), targets_of(head)).values()).backward()

    assert all(not p.grad.any() for p in head.tasks()["age"].parameters())
    assert all(p.grad.any() for p in head.tasks()["kind"].parameters())


@pytest.mark.parametrize("how", ["no entry", "all missing"])
def test_a_task_without_targets_in_a_batch_gets_a_gradient_of_exactly_zero(make, features, how):
    head, given = make("multi_task", "all", heads=[KIND, TAGS, AGE]), features(4)
    targets = targets_of(head)
    if how == "no entry":
        del targets["tags"]
    else:
        targets["tags"] = head.tasks()["tags"].encode([None] * 4)

    losses = head.losses(head(given), targets)
    sum(losses.values()).backward()

    assert losses["tags"].item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in head.tasks()["tags"].parameters())
    assert all(p.grad.any() for name in ("kind", "age") for p in head.tasks()[name].parameters())


def test_missing_targets_of_one_task_leave_the_others_as_they_were(make, features):
    head, given = make("multi_task", "all", heads=[KIND, AGE]), features(4)
    gap = {**LABELS, "age": [None] * 4}

    full = head.losses(head(given), targets_of(head))["kind"]
    partial = head.losses(head(given), targets_of(head, gap))["kind"]

    assert torch.equal(full, partial)


def test_a_multi_task_head_may_stand_in_another(make, features):
    inner = {"type": "multi_task", "name": "inner", "heads": [TAGS, AGE], "weights": {"age": 2.0}}
    nested = make("multi_task", "all", heads=[KIND, inner], weights={"age": 5.0})
    flat = make("multi_task", "all", heads=[KIND, TAGS, AGE])

    found = nested.losses(nested(features(4)), targets_of(nested))
    alone = flat.losses(flat(features(4)), targets_of(flat))

    assert list(nested.tasks()) == ["kind", "tags", "age"]
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {"kind": alone["kind"].item(), "tags": alone["tags"].item(), "age": 10 * alone["age"].item()}
    )


def test_two_tasks_of_one_name_are_refused(make):
    with pytest.raises(ConfigError, match=r"The head 'all' \(multi_task\) has two tasks called 'kind'"):
        make("multi_task", "all", heads=[KIND, {**AGE, "name": "kind"}])


def test_two_heads_of_one_name_are_refused_even_if_their_tasks_differ(make):
    heads = [{"type": "multi_task", "heads": [one]} for one in (KIND, AGE)]

    with pytest.raises(ConfigError, match=r"The head 'all' \(multi_task\) has two heads called 'multi_task'"):
        make("multi_task", "all", heads=heads)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"heads": []}, "heads must be 1 or more"),
        ({}, "heads: Field required"),
        ({"heads": [KIND], "weights": {"kidn": 1.0}}, "weighs 'kidn'; its tasks are .*kind"),
        ({"heads": [KIND], "weights": {"kind": -1.0}}, "weights must be 0 or more"),
        ({"heads": [{"name": "kind"}]}, "a dict with 'type'"),
        ({"heads": ["classifier"]}, "heads"),
        ({"heads": [{**KIND, "classes": ["a"]}]}, r"'kind' \(classifier\): classes must be 2 or more"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(make, config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        make("multi_task", "all", **config)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ({"type": "regresion", "name": "age"}, "No head is called 'regresion'.*Did you mean 'regression'"),
        ({"type": "regression", "name": "age", "los": "mse"}, "has no option 'los'; it takes loss"),
    ],
)
def test_unknown_names_inside_are_found_as_well(make, inner, sentence):
    with pytest.raises(UnknownName, match=sentence):
        make("multi_task", "all", heads=[KIND, inner])


def test_completing_fills_the_classes_of_the_heads_inside(context):
    inner = {"type": "multi_task", "name": "inner", "heads": [{"type": "classifier", "name": "tags"}, AGE]}
    spec = HeadSpec(
        type="multi_task",
        name="all",
        config={"heads": [{"type": "classifier", "name": "kind"}, inner], "weights": None},
    )

    completed = (
        registry()
        .head_class("multi_task")
        .complete(spec, {"kind": ("b", "a"), "tags": (("y",), ("x",)), "age": (1.0, 2.0)}, context)
    )

    assert completed.config["heads"][0] == {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    assert completed.config["heads"][1]["heads"][0]["classes"] == ["x", "y"]
    assert completed.config["heads"][1]["heads"][0]["multi_label"] is True
    assert list(context.build(completed).tasks()) == ["kind", "tags", "age"]


def test_completing_finds_what_is_wrong_inside(context):
    spec = HeadSpec(type="multi_task", name="all", config={"heads": [{"type": "classifier", "name": "kind"}]})

    with pytest.raises(DataError, match="has 1 class"):
        registry().head_class("multi_task").complete(spec, {"kind": ("b", "b")}, context)


def test_all_tasks_share_one_pass_through_the_backbone():
    model = zoo.build("timm:test_resnet", zoo.head("multi_task", heads=[KIND, TAGS, AGE]), weights=None, seed=0)
    passes = []
    model.backbones["main"].native.conv1.register_forward_hook(lambda *_: passes.append(1))

    outputs = model(torch.zeros(2, 3, 32, 32))

    assert list(outputs) == ["kind", "tags", "age"]
    assert len(passes) == 1


@pytest.mark.slow
def test_a_multi_task_head_conforms():
    check_head({"type": "multi_task", "name": "all", "heads": [KIND, TAGS, AGE], "weights": {"age": 0.5}})

"""Balanced tasks and the choice by all of them, in ``zoo.fit`` and in a plain loop."""

import math
from dataclasses import dataclass

import pytest
import torch

import zoo
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo.training.judging.selection import baselines, combined
from zoo.training.planning.groups import parameter_groups, stage_of
from zoo.training.rows.batches import Collator, SampleRows
from zoo.training.rows.targets import columns_of, encode

BALANCES = ["uncertainty", "gradnorm", "pcgrad"]
HEADS = [{"type": "classifier", "name": "kind", "classes": ["a", "b"]}, {"type": "regression", "name": "y"}]
RUN = {"epochs": 1, "batch_size": 16, "device": "cpu", "warmup": 0.0, "validation": 0.0}


def several(model, **config):
    return model({"type": "multi_task", "name": "all", "heads": HEADS, **config})


def labelled(table, rows=16, gaps=False, **more):
    kinds = [None if gaps and n % 3 == 0 else "ab"[n % 2] for n in range(rows)]
    values = [None if gaps and n % 4 == 1 else float(5 * (n % 2) + n % 3) for n in range(rows)]
    return table(rows=rows, kind=("text", kinds), y=("number", values), **more)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["fixed", *BALANCES])
def test_a_plain_loop_takes_the_step_that_fit_takes(model, table, state, balance):
    data, trained, plain = labelled(table), several(model, balance=balance), several(model, balance=balance)
    torch.manual_seed(0)
    zoo.fit(trained, data, **RUN)

    columns = columns_of(plain, data)
    for name, task in plain.tasks().items():
        task.prepare(data.column(columns[name]).values)
    rows = SampleRows(plain, data, encode(plain, data, columns))
    batch = Collator(plain.preparers())([rows[n] for n in range(16)])
    method = registry().method_class("fine_tuning").with_settings("fine_tuning", {})
    streams = {"main": plain.spec.streams["main"].backbone}
    groups = parameter_groups(plain, method.plan(streams, epochs=1, lr=1e-3), weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups)
    plain.train()
    sum(plain.losses(plain(batch["inputs"]), batch["targets"]).values()).backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    optimizer.step()

    torch.testing.assert_close(state(trained), state(plain), rtol=1e-4, atol=2e-5)
    untouched = state(several(model, balance=balance))
    assert not any(torch.equal(value, untouched[key]) for key, value in state(plain).items() if "balancing" in key)


@pytest.mark.slow
@pytest.mark.parametrize("balance", BALANCES)
def test_labels_with_gaps_in_bf16_train_every_parameter(model, table, state, balance):
    one = several(model, balance=balance)
    before = state(one)

    history = zoo.fit(one, labelled(table, rows=24, gaps=True), **{**RUN, "batch_size": 4}, precision="bf16")

    after = state(one)
    assert history.precision == "bf16"
    assert math.isfinite(history.epochs[0].train_loss)
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    assert [key for key, _ in one.named_parameters() if torch.equal(before[key], after[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize(("balance", "keys"), [("uncertainty", {"slow"}), ("gradnorm", {"slow", "first"})])
def test_what_is_learnt_of_the_tasks_is_in_the_bundle(model, table, tmp_path, balance, keys):
    one = several(model, balance=balance)
    zoo.fit(one, labelled(table), **{**RUN, "epochs": 2})

    again = zoo.load(one.save(tmp_path / "bundle"))

    prefix = "heads.all.balancing."
    kept = {key: value for key, value in again.state_dict().items() if key.startswith(prefix)}
    assert {key.removeprefix(prefix) for key in kept} == keys
    assert all(torch.equal(value, one.state_dict()[key]) and value.any() for key, value in kept.items())
    assert again.heads["all"].task_weights() == one.heads["all"].task_weights() != {"kind": 1.0, "y": 1.0}


@pytest.mark.parametrize("balance", ["uncertainty", "gradnorm"])
def test_the_weights_are_of_the_heads_group_without_decay(model, balance):
    one = several(model, balance=balance)
    method = registry().method_class("fine_tuning").with_settings("fine_tuning", {})
    plan = method.plan({"main": one.spec.streams["main"].backbone}, epochs=1, lr=1e-3)
    slow = one.heads["all"].balancing.slow

    groups = [
        group
        for group in parameter_groups(one, plan, weight_decay=0.1)
        if any(parameter is slow for parameter in group["params"])
    ]

    assert [(group["stage"], group["weight_decay"], group["lr"]) for group in groups] == [("heads", 0.0, 1e-3)]


@pytest.mark.parametrize("balance", ["uncertainty", "gradnorm"])
def test_losses_are_balanced_in_training_only(model, balance):
    one, plain = several(model, balance=balance), several(model)
    with torch.no_grad():
        one.heads["all"].balancing.slow.copy_(torch.tensor([0.02, -0.03]))
    outputs = {"kind": torch.randn(4, 2, requires_grad=True), "y": torch.randn(4, requires_grad=True)}
    targets = {"kind": torch.tensor([0, 1, 1, 0]), "y": torch.randn(4)}
    expected = plain.losses(outputs, targets)

    assert one.eval().losses(outputs, targets) == expected
    with torch.no_grad():
        assert one.train().losses(outputs, targets) == expected
    assert one.losses(one(torch.randn(4, 3, 32, 32)), targets) != plain.losses(one(torch.randn(4, 3, 32, 32)), targets)


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_a_backbone_that_never_trains_leaves_nothing_to_balance_by(model, table, balance):
    with pytest.raises(ConfigError, match=r"The head 'all' .* balances its tasks by parameters that they share"):
        zoo.fit(several(model, balance=balance), labelled(table), **RUN, method="feature_extraction")


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_a_plain_loop_over_a_frozen_backbone_is_told_so_too(model, balance):
    one = several(model, balance=balance).freeze().train()
    outputs = one(torch.randn(2, 3, 32, 32))

    with pytest.raises(ConfigError, match="none that they share trains"):
        one.losses(outputs, {"kind": torch.tensor([0, 1]), "y": torch.randn(2)})


def test_uncertainty_needs_no_backbone_that_trains(model, table, state):
    one = several(model, balance="uncertainty")

    history = zoo.fit(one, labelled(table), **RUN, method="feature_extraction")

    assert history.cached_features
    assert state(one, "heads.all.balancing")["heads.all.balancing.slow"].all()


@dataclass(frozen=True)
class Late(Method):
    """Trains the heads, and the last stage in the second epoch."""

    summary = "Heads first"

    def plan(self, streams, *, epochs, lr):
        frozen = {f"{name}.{stage.name}": FROZEN for name, spec in streams.items() for stage in spec.stages}
        trained = StageState(trainable=True, lr=lr)
        awake = {"main.s4": trained}
        return Plan(tuple({**frozen, "heads": trained, **(awake if epoch else {})} for epoch in range(epochs)))


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_tasks_are_balanced_from_the_epoch_on_in_which_something_shared_trains(
    registry_with, model, table, state, balance
):
    registry_with("late", Late=Late, zoo_methods=lambda: {"late": "zoo_late:Late"})
    one, two = several(model, balance=balance), several(model, balance=balance)

    zoo.fit(one, labelled(table), **RUN | {"epochs": 2}, method="late")

    changed = {stage_of(one, key) for key, value in state(one).items() if not torch.equal(value, state(two)[key])}
    assert changed == {"heads", "main.s4"}
    if balance == "gradnorm":
        assert one.heads["all"].balancing.slow.all()


@pytest.mark.parametrize("balance", BALANCES)
def test_tasks_on_fused_streams_share_the_fusion_where_the_backbones_rest(balance):
    inner = {"type": "multi_task", "name": "all", "heads": HEADS, "balance": balance}
    head = zoo.head("feature_fusion", name="fused", head=inner, method="sum", dim=8)
    backbones = {"a": "timm:test_resnet", "b": "timm:test_vit"}
    one = zoo.build(backbones, head, inputs="image", weights=None, seed=0).freeze().train()
    targets = {"kind": torch.tensor([0, 1]), "y": torch.tensor([5.0, -1.0])}

    losses = one.losses(one(torch.randn(2, 3, 160, 160)), targets)
    sum(losses.values()).backward()

    trained = [name for name, parameter in one.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("heads.fused.") for name in trained)
    assert all(parameter.grad is not None for name, parameter in one.named_parameters() if name in trained)
    if balance != "pcgrad":
        assert one.heads["fused"].inner.balancing.slow.grad.all()


# --- the choice by all tasks


def test_the_score_of_several_tasks_is_the_mean_of_their_own():
    tasks = zoo.build("timm:test_resnet", HEADS, weights=None).tasks()
    metrics = {"kind": {"accuracy": 0.1, "balanced_accuracy": 0.9}, "y": {"mae": 0.5, "rmse": 7.0}}

    assert combined(tasks, metrics, {"y": 2.0}) == pytest.approx((0.9 + 0.75) / 2)
    assert combined(tasks, metrics, {"y": 0.25}) == pytest.approx((0.9 + 0.0) / 2)
    assert combined(tasks, metrics, {"y": 0.0}) == pytest.approx(0.9)
    assert combined(tasks, {"kind": metrics["kind"]}, {}) == pytest.approx(0.9)
    assert math.isnan(combined(tasks, {}, {}))
    assert math.isnan(combined(tasks, {**metrics, "y": {"mae": math.nan}}, {"y": 2.0}))


@pytest.mark.slow
def test_the_best_epoch_of_all_tasks_is_that_of_the_highest_mean(model, table):
    split = ["train"] * 24 + ["validation"] * 16
    data = labelled(table, rows=40, gaps=True, apart=0.4, split=split)

    run = {**RUN, "epochs": 6, "method": "feature_extraction", "lr": 0.02}
    history = zoo.fit(several(model), data, **run, select="tasks")

    values = data.column("y").values
    mean = sum(known := [value for value in values[:24] if value is not None]) / len(known)
    held_out = [value for value in values[24:] if value is not None]
    mae = sum(abs(value - mean) for value in held_out) / len(held_out)
    scores = [
        (row.validation["kind"]["balanced_accuracy"] + max(0, 1 - row.validation["y"]["mae"] / mae)) / 2
        for row in history.epochs
    ]
    assert history.select == "tasks"
    assert history.baselines == pytest.approx({"y": mae})
    assert len(set(scores)) > 2
    assert history.best_epoch == 1 + max(range(6), key=lambda e: (scores[e], -history.epochs[e].validation_loss))
    for task, metrics in history.epochs[history.best_epoch - 1].validation.items():
        assert history.validation[task] == pytest.approx(metrics, rel=1e-5)  # weights are written back, with rounding


def test_without_validation_rows_there_is_nothing_to_compare_with(model, table):
    history = zoo.fit(several(model), labelled(table), **RUN, select="tasks")

    assert (history.select, history.baselines) == (None, {})


def test_a_task_that_gives_no_constant_cannot_decide_with_others(model, table, monkeypatch):
    kind = registry().head_class("regression")
    monkeypatch.delattr(kind, "constant")

    with pytest.raises(ConfigError, match=r"needs a constant to compare the mae of 'y' with.*such as 'y/mae'"):
        zoo.fit(several(model), labelled(table), **RUN, select="tasks")


def test_the_constant_of_ranks_is_the_median_rank_of_the_training_rows():
    head = {"type": "ordinal", "name": "grade", "classes": ["low", "mid", "high"]}
    tasks = zoo.build("timm:test_resnet", head, weights=None).tasks()
    train, held_out = torch.tensor([0, 0, 1, 1, 1, -100, 2]), torch.tensor([0, 1, 2, 2, -100])

    found = baselines(tasks, {"grade": train}, {"grade": held_out})

    assert found == {"grade": 0.75}


def test_a_task_without_labels_in_a_part_has_no_constant():
    tasks = zoo.build("timm:test_resnet", HEADS, weights=None).tasks()
    some, none = torch.tensor([1.0, 3.0]), torch.tensor([torch.nan])
    kinds = torch.tensor([0, 1])

    assert baselines(tasks, {"kind": kinds, "y": some}, {"kind": kinds, "y": none}) == {}
    assert baselines(tasks, {"kind": kinds, "y": none}, {"kind": kinds, "y": some}) == {}
    assert baselines(tasks, {"kind": kinds, "y": some}, {"kind": kinds, "y": some + 2}) == {"y": 2.0}

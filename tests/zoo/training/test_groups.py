"""The optimizer's groups and the schedule, against torch's own schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from zoo.contracts.method import FROZEN, Plan, StageState
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo.training.groups import parameter_groups, schedule, stage_of, trained_names

STAGES = ("stem", "s1", "s2", "s3", "s4", "post")


def plan(epochs=4, **lr):
    """Make a plan from rates by epoch: a number, or one an epoch; 0 is frozen, and a stage not named rests."""
    states = []
    for epoch in range(epochs):
        rates = {stage: 0.0 for stage in STAGES} | {"heads": 1e-2}
        rates |= {stage: rate[epoch] if isinstance(rate, tuple) else rate for stage, rate in lr.items()}
        named = {stage if stage == "heads" else f"main.{stage}": rate for stage, rate in rates.items()}
        states.append({stage: StageState(trainable=rate > 0, lr=rate) for stage, rate in named.items()})
    return Plan(tuple(states))


def rates(factor, steps, lr=1.0):
    """Run torch's LambdaLR and give the rate of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    return run(optimizer, LambdaLR(optimizer, factor), steps)


def run(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def everything():
    return plan(**dict.fromkeys(STAGES, 1e-3))


# --- groups


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit"])
@pytest.mark.parametrize("method", ["fine_tuning", "feature_extraction"])
def test_every_parameter_that_trains_is_in_exactly_one_group(model, backbone, method):
    one = model(backbone=backbone)
    chosen = registry().method_class(method)()
    made = chosen.plan({"main": one.spec.streams["main"].backbone}, epochs=3, lr=1e-3)

    groups = parameter_groups(one, made, weight_decay=0.1)

    grouped = [id(p) for group in groups for p in group["params"]]
    expected = one.parameters() if method == "fine_tuning" else one.heads.parameters()
    assert sorted(grouped) == sorted(id(p) for p in expected)


def test_each_stage_has_its_real_learning_rate(model):
    groups = parameter_groups(model(), plan(s4=1e-3, s3=(0, 0, 1e-4, 5e-5)), weight_decay=0.1)

    optimizer = torch.optim.AdamW(groups)

    found = {(group["stage"], group["lr"]) for group in optimizer.param_groups}
    assert found == {("heads", 1e-2), ("main.s4", 1e-3), ("main.s3", 1e-4)}


def test_vectors_have_no_weight_decay_and_matrices_have(model):
    for group in parameter_groups(model(), everything(), weight_decay=0.1):
        ranks = {p.ndim > 1 for p in group["params"]}

        assert len(ranks) == 1
        assert group["weight_decay"] == (0.1 if ranks == {True} else 0.0)


def test_stages_that_a_later_epoch_unfreezes_have_their_groups_from_the_start(model):
    one = model()
    late = parameter_groups(one, plan(s4=(0, 0, 0, 1e-3)), weight_decay=0.1)
    early = parameter_groups(one, plan(s4=1e-3), weight_decay=0.1)

    assert [group["stage"] for group in late] == [group["stage"] for group in early]
    assert [len(group["params"]) for group in late] == [len(group["params"]) for group in early]


def test_a_plan_that_forgets_a_stage_is_refused(model):
    states = {stage: state for stage, state in everything().at(0).items() if stage != "main.s3"}

    with pytest.raises(ConfigError, match=r"does not say what main\.s3 does, to which backbones\.main\.native\.layer3"):
        parameter_groups(model(), Plan((states,)), weight_decay=0.1)


def test_a_plan_that_trains_nothing_is_refused(model):
    nothing = Plan(({stage: FROZEN for stage in everything().stages()},))

    with pytest.raises(ConfigError, match="trains nothing of this model"):
        parameter_groups(model(), nothing, weight_decay=0.1)


def test_every_tensor_of_a_model_has_a_stage(model):
    one = model()
    stages = {stage_of(one, name) for name in one.state_dict()}

    assert stages <= {f"main.{stage}" for stage in STAGES} | {"heads"}
    assert stage_of(one, "backbones.main.native.layer3.0.bn1.running_var") == "main.s3"
    assert stage_of(one, "heads.kind.layers.1.weight") == "heads"


def test_what_training_may_change_is_all_but_the_stages_that_stay_frozen(model):
    one = model()

    names = trained_names(one, plan(s4=(0, 0, 0, 1e-3)))

    assert {stage_of(one, name) for name in names} == {"heads", "main.s4"}
    assert any("running_mean" in name for name in names)


# --- the schedule


def test_without_warm_up_the_schedule_is_torchs_cosine_to_zero():
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = run(optimizer, CosineAnnealingLR(optimizer, T_max=steps), steps)

    factor = schedule(plan(), "heads", steps=steps, warmup=0.0)

    assert rates(factor, steps) == pytest.approx(expected)
    assert factor(steps) == pytest.approx(0)


def test_with_warm_up_the_schedule_is_torchs_linear_rise_and_cosine():
    steps, rising = 40, 10
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = LinearLR(optimizer, start_factor=1 / rising, total_iters=rising - 1)
    fall = CosineAnnealingLR(optimizer, T_max=steps - rising)
    expected = run(optimizer, SequentialLR(optimizer, [rise, fall], milestones=[rising]), steps)

    found = rates(schedule(plan(), "heads", steps=steps, warmup=0.25), steps)

    assert found == pytest.approx(expected)
    assert found[0] == pytest.approx(0.1)
    assert max(found) == found[rising] == 1


def test_a_stage_has_rate_zero_in_the_epochs_in_which_it_is_frozen():
    made = plan(s4=(0, 1e-3, 0, 5e-4))
    factor = schedule(made, "main.s4", steps=40, warmup=0.0)

    found = [factor(step) for step in range(40)]

    cosine = [(1 + math.cos(math.pi * step / 40)) / 2 for step in range(40)]
    share = [0.0] * 10 + [1.0] * 10 + [0.0] * 10 + [0.5] * 10
    assert found == pytest.approx([a * b for a, b in zip(cosine, share, strict=True)])


def test_the_schedule_is_a_pure_function_of_the_step():
    factor = schedule(plan(s4=(0, 1e-3, 0, 5e-4)), "main.s4", steps=40, warmup=0.1)
    forwards = [factor(step) for step in range(40)]

    backwards = [factor(step) for step in reversed(range(40))]

    assert backwards[::-1] == forwards


@pytest.mark.parametrize(("epochs", "per_epoch"), [(3, 1), (7, 3), (10, 49), (100, 11)])
def test_an_epochs_first_step_has_that_epochs_rate(epochs, per_epoch):
    made = plan(epochs, s4=tuple(float(epoch % 2) for epoch in range(epochs)))
    factor = schedule(made, "main.s4", steps=epochs * per_epoch, warmup=0.0)

    for epoch in range(epochs):
        for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            assert (factor(step) > 0) == (epoch % 2 == 1)


def test_a_single_step_is_not_wasted():
    assert schedule(plan(1), "heads", steps=1, warmup=0.05)(0) == 1.0

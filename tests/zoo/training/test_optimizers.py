"""Every optimizer of torch either trains or is refused, and each group has its closed-form rate at every step."""

import inspect
import json
import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import zoo
from zoo.errors import ConfigError, UnknownName
from zoo.training import engine
from zoo.training.planning.optimizers import REFUSED, check_optimizer, make_optimizer, optimizers

RUN = {"epochs": 2, "batch_size": 8, "device": "cpu", "validation": 0, "warmup": 0.0}
EVERY = sorted(
    name
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
)

QUICK = ("Adam", "SGD", "LBFGS")


@pytest.fixture
def steps(monkeypatch):
    """Note the rates of all groups right before each step of the optimizer, and the optimizer."""
    seen = []
    make = engine.make_optimizer

    def spy(*given):
        made = make(*given)
        made.register_step_pre_hook(
            lambda *_: seen.append([(g["stage"], g["part"], g["lr"]) for g in made.param_groups])
        )
        return made

    monkeypatch.setattr(engine, "make_optimizer", spy)
    return seen


def test_every_optimizer_of_torch_is_known_or_refused():
    assert sorted([*optimizers(), *REFUSED]) == EVERY


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EVERY])
def test_every_optimizer_of_torch_trains_or_says_why_not(model, table, state, name):
    one = model()
    before = state(one)
    decay = 0.01 if "weight_decay" in inspect.signature(getattr(torch.optim, name)).parameters else 0.0
    run = {**RUN, "epochs": 1, "optimizer": name.lower(), "weight_decay": decay, "lr": 0.1}

    if name in REFUSED:
        with pytest.raises(ConfigError, match=f"{name} cannot train here: it .*; take another, such as adamw"):
            zoo.fit(one, table(rows=16), **run)
        return
    history = zoo.fit(one, table(rows=16), **run)

    assert all(math.isfinite(row.train_loss) for row in history.epochs)
    changed = [key for key, _ in one.named_parameters() if not torch.equal(before[key], one.state_dict()[key])]
    assert len(changed) >= 0.85 * len(list(one.named_parameters()))  # the step of some is below the last bit
    assert history.settings["optimizer"] == name.lower()


@pytest.mark.parametrize(
    ("optimizer", "settings", "decay", "error", "sentence"),
    [
        ("adamv", {}, 0.0, UnknownName, r"torch\.optim has no optimizer 'adamv'; it has adam"),
        ("lbfgs", {}, 0.0, ConfigError, "LBFGS cannot train here: it evaluates the loss several times"),
        ("SparseAdam", {}, 0.0, ConfigError, "SparseAdam cannot train here: it takes sparse gradients"),
        ("muon", {}, 0.0, ConfigError, "Muon cannot train here: it takes matrices only"),
        ("sgd", {"momentun": 0.9}, 0.0, UnknownName, "The optimizer SGD has no option 'momentun'; it takes momentum"),
        ("sgd", {"momentum": -1}, 0.0, ConfigError, "The optimizer SGD cannot use .*momentum"),
        ("adamw", {"betas": [0.9, 2.0]}, 0.0, ConfigError, "The optimizer AdamW cannot use .*beta"),
        ("adamw", {"lr": 1.0}, 0.0, ConfigError, r"lr is no setting of the optimizer here; zoo\.fit has a keyword"),
        ("rprop", {}, 0.01, ConfigError, r"Rprop has no weight decay; set weight_decay=0, got 0\.01"),
        (3, {}, 0.0, ConfigError, "optimizer must be a name or a function of groups, got 3"),
        (torch.optim.SGD, {"momentum": 0.9}, 0.0, ConfigError, "leave optimizer_settings out"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_one_sentence(optimizer, settings, decay, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        check_optimizer(optimizer, settings, weight_decay=decay)

    assert "\n" not in str(caught.value)


def test_settings_that_came_as_json_are_taken():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": 1e-3, "weight_decay": 0.0, "stage": "heads"}]

    made = make_optimizer("AdamW", groups, {"betas": [0.5, 0.9], "amsgrad": True})

    assert isinstance(made, torch.optim.AdamW)
    assert (made.param_groups[0]["betas"], made.param_groups[0]["amsgrad"]) == ((0.5, 0.9), True)
    assert "initial_lr" not in groups[0]


def test_an_optimizer_can_be_made_by_a_function(model, table, steps):
    history = zoo.fit(
        model(), table(rows=16), **RUN, optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.9), method="partial"
    )

    assert len(steps) == 4
    assert {stage for stage, _, _ in steps[0]} == {"main.s4", "heads"}
    assert "lambda" in history.settings["optimizer"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda groups: groups, "optimizer must give an optimizer of torch, got list"),
        (lambda groups: torch.optim.SGD(groups[:-1]), "must have each parameter that trains in exactly one group"),
        (lambda groups: torch.optim.LBFGS(groups[0]["params"]), "LBFGS cannot train here"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(model, table, make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        zoo.fit(model(), table(rows=16), **RUN, optimizer=make)


# --- every group at every step, beside the closed form


def cosine(step, steps):
    return (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.slow
def test_gradual_unfreezing_has_the_rates_of_ulmfit_at_every_step(model, table, steps):
    zoo.fit(model(), table(rows=16), **{**RUN, "epochs": 7}, method="gradual_unfreezing", lr=0.01)

    order = ["heads", "main.s4", "main.s3", "main.s2", "main.s1", "main.stem"]
    assert len(steps) == 14
    for number, groups in enumerate(steps):
        for stage, _, lr in groups:
            depth = order.index(stage)
            expected = 0.01 / 2.6**depth * cosine(number, 14) if number // 2 >= depth else 0.0
            assert lr == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_fine_tuning_after_a_probe_begins_its_schedule_anew(model, table, steps):
    run = {**RUN, "epochs": 4, "schedule": "linear"}
    zoo.fit(model(), table(rows=16), **run, method="linear_probe_then_finetune", lr=0.01)

    heads = [next(lr for stage, _, lr in groups if stage == "heads") for groups in steps]
    stem = [next(lr for stage, _, lr in groups if stage == "main.stem") for groups in steps]
    fall = [1, 0.75, 0.5, 0.25]
    assert heads == pytest.approx([0.01 * f for f in fall] + [0.001 * f for f in fall])
    assert stem == pytest.approx([0.0] * 4 + [0.001 * f for f in fall])


@pytest.mark.slow
def test_discriminative_rates_are_in_the_optimizer_block_by_block(model, table, monkeypatch):
    rates = {}
    make = engine.make_optimizer

    def note(optimizer, *_):
        rates.update({id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]})

    def spy(*given):
        made = make(*given)
        made.register_step_pre_hook(note)
        return made

    monkeypatch.setattr(engine, "make_optimizer", spy)
    one = model(backbone="timm:test_vit?img_size=32")
    run = {**RUN, "epochs": 1, "schedule": "constant"}
    zoo.fit(one, table(rows=16), **run, method="discriminative", decay=0.5, lr=1.0)

    native = one.backbones["main"].native
    found = [rates[id(native.blocks[at].mlp.fc1.weight)] for at in range(6)]
    assert found == pytest.approx([0.5**depth for depth in (6, 5, 4, 3, 2, 1)])
    assert rates[id(native.norm.weight)] == 0.5
    assert rates[id(native.patch_embed.proj.weight)] == pytest.approx(0.5**7)


def test_discriminative_rates_are_those_of_timms_layer_decay(model):
    one = model(backbone="timm:test_vit")
    backbone = one.backbones["main"]
    whole = timm.create_model("test_vit", num_classes=2)
    groups = param_groups_layer_decay(whole, layer_decay=0.65)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}

    rows = {row.name: row.cells[0] for row in zoo.plan(one, method="discriminative", decay=0.65, lr=1.0).rows}

    for stage in [stage.name for stage in backbone.spec.stages]:
        names = [name for name, _ in backbone.native.named_parameters() if backbone.stage_of(name) == stage]
        theirs = [scale[id(whole.get_parameter(name))] for name in names]
        assert (rows[f"main.{stage}"].lowest, rows[f"main.{stage}"].lr) == pytest.approx((min(theirs), max(theirs)))
    assert rows["heads"].lr == scale[id(whole.head.weight)] == 1


def test_a_scheduler_of_torch_goes_with_a_method_of_steady_rates(model, table, steps):
    zoo.fit(
        model(), table(rows=16), **{**RUN, "warmup": None}, method="partial", lr=0.01,
        schedule=lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, steps // 2, gamma=0.5),
    )  # fmt: skip

    heads = [next(lr for stage, _, lr in groups if stage == "heads") for groups in steps]
    assert heads == pytest.approx([0.01, 0.01, 0.005, 0.005])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("linear_probe_then_finetune", "begins its schedule anew, which a function cannot know"),
        ("bitfit", None),
    ],
)
def test_a_scheduler_of_torch_is_refused_where_it_could_not_follow(model, table, method, sentence):
    run = {**RUN, "warmup": None, "schedule": lambda o, steps: torch.optim.lr_scheduler.ConstantLR(o)}

    if sentence is None:
        assert zoo.fit(model(), table(rows=16), **run, method=method).epochs
        return
    with pytest.raises(ConfigError, match=sentence):
        zoo.fit(model(), "no such data", **run, method=method)


# --- clipping and accumulation


def weights_after(model, table, **run):
    one = model(backbone="timm:test_vit?img_size=32")
    zoo.fit(one, table(rows=18), **{**RUN, "optimizer": "sgd", "lr": 0.1, "clip": 0.0, "weight_decay": 0, **run})
    return torch.cat([p.detach().flatten() for p in one.parameters()])


@pytest.mark.slow
def test_accumulated_batches_make_the_step_of_one_large_batch(model, table):
    large = weights_after(model, table, batch_size=6)

    small = weights_after(model, table, batch_size=3, accumulate=2)
    other = weights_after(model, table, batch_size=3)

    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, large, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_last_step_of_an_epoch_takes_what_is_left_and_the_schedule_counts_steps(model, table, steps):
    zoo.fit(model(), table(rows=10), **{**RUN, "batch_size": 2, "accumulate": 2, "schedule": "linear"}, lr=0.01)

    heads = [next(lr for stage, _, lr in groups if stage == "heads") for groups in steps]
    assert heads == pytest.approx([0.01 * (1 - step / 6) for step in range(6)])  # 5 batches are 3 steps an epoch


@pytest.mark.slow
def test_the_norm_of_the_gradient_is_clipped(model, table):
    begin = torch.cat([p.detach().flatten() for p in model(backbone="timm:test_vit?img_size=32").parameters()])
    moved = {}
    for clip in (0.0, 0.01):
        run = {"epochs": 1, "batch_size": 18, "schedule": "constant", "method": "fine_tuning", "backbone_lr_scale": 1.0}
        moved[clip] = float((weights_after(model, table, clip=clip, **run) - begin).norm())

    assert moved[0.01] == pytest.approx(0.1 * 0.01, rel=0.01)  # one step of the rate times the norm
    assert moved[0.0] > 2 * moved[0.01]


@pytest.mark.parametrize("what", [{"clip": -1.0}, {"clip": math.nan}, {"accumulate": 0}, {"accumulate": 1.5}])
def test_clipping_and_accumulation_that_cannot_be_are_refused(model, what):
    with pytest.raises(ConfigError, match=f"{next(iter(what))} must be"):
        zoo.fit(model(), "no such data", **what)


def test_what_steps_need_is_refused_where_heads_are_solved_for(model):
    with pytest.raises(ConfigError, match="solver='lbfgs' has no steps: leave optimizer and clip out"):
        zoo.fit(model(), "no such data", method="feature_extraction", solver="lbfgs", optimizer="sgd", clip=0.5)


def test_all_validation_rows_are_measured_although_a_last_row_is_left_out_of_training(model, table):
    split = ["train"] * 13 + ["validation"] * 3
    history = zoo.fit(model(), table(rows=16, split=split), epochs=1, batch_size=4, device="cpu")

    assert history.epochs[0].validation == history.validation
    assert history.epochs[0].validation_loss > 0


def test_the_name_of_a_function_stands_in_the_history(model, table):
    def mine(optimizer, steps):
        return torch.optim.lr_scheduler.ConstantLR(optimizer)

    history = zoo.fit(model(), table(rows=16), **{**RUN, "warmup": None, "epochs": 1}, schedule=mine)

    assert history.settings["schedule"].endswith("mine")
    assert json.loads(json.dumps(history.as_json()))["settings"]["schedule_settings"] == {}

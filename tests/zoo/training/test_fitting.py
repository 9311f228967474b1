"""From data and a method to a trained model and its history."""

import inspect
import json
import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data import DatasetSample, TensorSample
from zoo.errors import ConfigError, DataError, TrainingError, UnknownName
from zoo.training import fitting
from zoo.training.judging.history import History
from zoo.training.rows.batches import SampleRows

FROZEN = {"method": "feature_extraction", "epochs": 3, "batch_size": 8, "lr": 0.02, "device": "cpu"}


class Bomb:
    """A data set that must not be read."""

    def __getattr__(self, name):
        raise AssertionError("the data was read")


# --- learning


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epochs", "lr"), [("feature_extraction", 12, 0.02), ("fine_tuning", 4, 0.01)])
def test_both_methods_learn_what_can_be_learnt(model, table, method, epochs, lr):
    one = model()

    history = zoo.fit(one, table(), method=method, epochs=epochs, batch_size=8, lr=lr, device="cpu")
    unseen = zoo.evaluate(one, table(seed=9), device="cpu")

    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    assert history.validation["kind"]["balanced_accuracy"] >= 0.9
    assert unseen["kind"]["balanced_accuracy"] >= 0.9
    assert not one.training


def test_frozen_backbones_stay_bit_equal_buffers_among_them(model, table, state, same):
    one = model()
    backbone, heads = state(one, "backbones."), state(one, "heads.")

    zoo.fit(one, table(), **FROZEN)

    assert any("running_var" in key for key in backbone)
    assert same(backbone, state(one, "backbones."))
    assert not same(heads, state(one, "heads."))


def test_fine_tuning_changes_every_weight_and_the_running_statistics(model, table, state):
    one = model()
    before = state(one)

    zoo.fit(one, table(rows=16), method="fine_tuning", epochs=1, batch_size=8, validation=0, device="cpu")

    still = [key for key, value in state(one).items() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.slow
def test_features_computed_once_teach_what_the_backbone_would_teach_in_every_epoch(model, table, state, monkeypatch):
    cached, fresh = model(), model()
    first = zoo.fit(cached, table(), **FROZEN)

    def pictures(model, plan, parts, targets, *_, **__):
        return {part: SampleRows(model, rows, targets[part]) for part, rows in parts.items()}

    monkeypatch.setattr(fitting, "make_datasets", pictures)
    second = zoo.fit(fresh, table(), **FROZEN)

    assert (first.cached_features, second.cached_features) == (True, False)
    for key, value in state(cached, "heads.").items():
        torch.testing.assert_close(value, fresh.state_dict()[key], rtol=1e-5, atol=1e-5)
    assert [row.train_loss for row in first.epochs] == pytest.approx(
        [row.train_loss for row in second.epochs], rel=1e-4
    )


def test_fine_tuning_does_not_cache_what_it_changes(model, table):
    history = zoo.fit(model(), table(rows=16), method="fine_tuning", epochs=1, batch_size=8, device="cpu")

    assert not history.cached_features


@pytest.mark.slow
@pytest.mark.parametrize("method", ["feature_extraction", "fine_tuning"])
def test_one_seed_gives_one_result_and_another_another(model, table, state, same, method):
    def run(seed):
        torch.manual_seed(random.randrange(10**6))  # what came before must not matter
        one = model(dropout=0.2)
        history = zoo.fit(one, table(rows=16), **{**FROZEN, "method": method, "epochs": 2}, seed=seed)
        return state(one), history.epochs

    (weights, epochs), (again, epochs_again), (other, other_epochs) = run(1), run(1), run(2)

    def told(rows):
        return [replace(row, seconds=0.0, memory=0) for row in rows]

    assert same(weights, again)
    assert told(epochs) == told(epochs_again)
    assert not same(weights, other)
    assert told(epochs) != told(other_epochs)


def test_that_the_global_generators_are_seeded_is_written_down(model, table):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)

    zoo.fit(model(), table(), **FROZEN, seed=77)

    assert torch.initial_seed() == 77
    assert "The global generators of Python, NumPy and torch are seeded" in " ".join(inspect.getdoc(zoo.fit).split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "several labels", "smoothed and balanced"])
def test_bfloat16_learns_on_the_cpu_as_well(model, table, kind):
    head, column = {
        "regression": (
            {"type": "regression", "name": "y", "norm": True},
            ("number", [2000.0 + 10 * (n % 2) for n in range(40)]),
        ),
        "several labels": (
            {"type": "classifier", "name": "y", "classes": ["a", "b"], "norm": True, "multi_label": True},
            ("list", [("ab"[n % 2],) for n in range(40)]),
        ),
        "smoothed and balanced": (
            {
                "type": "classifier",
                "name": "y",
                "classes": ["a", "b"],
                "norm": True,
                "label_smoothing": 0.1,
                "class_weights": "balanced",
            },
            ("text", ["ab"[n % 2] for n in range(40)]),
        ),
    }[kind]
    found = {}

    for precision in ("fp32", "bf16"):
        history = zoo.fit(model(head), table(y=column), **{**FROZEN, "epochs": 15}, precision=precision)
        found[precision] = (history.epochs[-1].train_loss, *history.validation["y"].values())

    assert history.precision == "bf16"
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.1, abs=0.3)  # of a target that spans 10


# --- the best epoch


@pytest.mark.slow
def test_the_weights_of_the_best_epoch_are_restored(model, table):
    one = model()
    labels = [
        "ab"[row % 2] if row < 32 else "ba"[row % 2] for row in range(40)
    ]  # what is learnt is wrong for validation
    data = table(kind=("text", labels), split=("train",) * 32 + ("validation",) * 8)
    kept = {}

    class Spy(logging.Handler):
        def emit(self, record):
            if str(record.msg).startswith("%s%s"):
                kept[len(kept) + 1] = {k: v.clone() for k, v in one.state_dict().items()}

    spy = Spy()
    logger = logging.getLogger("zoo")
    level = logger.level
    logger.addHandler(spy)
    logger.setLevel(logging.INFO)
    try:
        history = zoo.fit(one, data, **{**FROZEN, "epochs": 12, "lr": 0.3}, select="kind/accuracy")
    finally:
        logger.removeHandler(spy)
        logger.setLevel(level)

    ranks = [(row.validation["kind"]["accuracy"], -row.validation_loss) for row in history.epochs]
    best = ranks.index(max(ranks)) + 1
    assert best < len(ranks)
    assert history.best_epoch == best
    assert all(torch.equal(value, kept[best][key]) for key, value in one.state_dict().items())
    assert history.validation == history.epochs[best - 1].validation
    rows = fitting._split(data, {"kind": "kind"}, _settings())["validation"]
    assert zoo.evaluate(one, rows, device="cpu")["kind"] == pytest.approx(history.validation["kind"])


def _settings(**changes):
    needed = [n for n, p in inspect.signature(fitting.Settings).parameters.items() if p.default is p.empty]
    defaults = {n: p.default for n, p in inspect.signature(zoo.fit).parameters.items() if n in needed}
    return fitting.Settings(**{**defaults, **changes})


@pytest.mark.slow
def test_selecting_by_loss_takes_the_epoch_of_least_loss(model, table):
    history = zoo.fit(model(), table(apart=0.4), **{**FROZEN, "epochs": 8, "lr": 0.3}, select="loss")

    losses = [row.validation_loss for row in history.epochs]
    assert history.best_epoch == losses.index(min(losses)) + 1
    assert history.select == "loss"


@pytest.mark.slow
def test_an_error_is_better_the_smaller_it_is(model, table):
    one = model({"type": "regression", "name": "y", "norm": True})
    data = table(y=("number", [n % 2 + n / 100 for n in range(40)]))

    history = zoo.fit(one, data, **{**FROZEN, "epochs": 8, "lr": 0.3}, select="y/rmse")

    errors = [row.validation["y"]["rmse"] for row in history.epochs]
    assert history.best_epoch == errors.index(min(errors)) + 1


@pytest.mark.slow
def test_one_task_is_chosen_by_its_own_metric_and_several_by_the_loss(model, table):
    two = [{"type": "classifier", "name": n, "classes": ["a", "b"]} for n in ("kind", "sort")]
    kinds = ("text", ["ab"[n % 2] for n in range(16)])

    one = zoo.fit(model(), table(rows=16, kind=kinds), **{**FROZEN, "epochs": 1})
    both = zoo.fit(model(*two), table(rows=16, kind=kinds, sort=kinds), **{**FROZEN, "epochs": 1})

    assert (one.select, both.select) == ("kind/balanced_accuracy", "loss")


@pytest.mark.slow
def test_patience_without_validation_rows_is_refused(model, table):
    with pytest.raises(ConfigError, match="patience counts epochs without a better validation value, so it needs"):
        zoo.fit(model(), table(), **FROZEN, patience=2, validation=0)


def test_patience_stops_after_that_many_epochs_without_a_better_one(model, table):
    history = zoo.fit(model(), table(), **{**FROZEN, "epochs": 40, "lr": 0.3}, patience=3, select="kind/accuracy")

    assert len(history.epochs) == history.best_epoch + 3 < 40


@pytest.mark.slow
def test_a_validation_part_without_any_label_chooses_nothing_and_keeps_the_last_epoch(model, table, state):
    split = ["validation" if n >= 30 else "train" for n in range(40)]
    kinds = [None if n >= 30 else "ab"[n % 2] for n in range(40)]
    one, alone = model(), model()

    history = zoo.fit(one, table(kind=("text", kinds), split=split), **FROZEN, patience=1)
    rest = table(kind=("text", kinds), split=split).select(range(30))
    zoo.fit(alone, rest, **FROZEN, validation=0)

    assert history.validation == {}
    assert (len(history.epochs), history.best_epoch) == (3, 3)
    for key, value in state(one, "heads.").items():
        torch.testing.assert_close(value, alone.state_dict()[key])


@pytest.mark.slow
def test_a_metric_that_is_not_a_number_is_never_the_best(model, table, monkeypatch):
    from zoo.training import engine

    found = iter([float("nan"), 0.5, 0.25])

    def measured(model, *_, **__):
        return 1.0, {"kind": {"balanced_accuracy": next(found)}}

    monkeypatch.setattr(engine, "measure", measured)

    history = zoo.fit(model(), table(), **FROZEN)

    assert history.best_epoch == 2


# --- data


@pytest.mark.slow
def test_the_split_that_the_data_gives_is_used(model, table):
    split = ["test" if n < 6 else "validation" if n < 16 else "train" for n in range(40)]

    history = zoo.fit(model(), table(split=split), **FROZEN)

    assert history.rows == {"train": 24, "validation": 10, "test": 6}
    assert set(history.test["kind"]) == {"accuracy", "balanced_accuracy", "f1"}


@pytest.mark.slow
def test_a_split_is_drawn_where_the_data_gives_none(model, table):
    history = zoo.fit(model(), table(), **FROZEN, validation=0.25)

    assert history.rows == {"train": 30, "validation": 10}
    assert history.test is None


@pytest.mark.slow
def test_test_rows_teach_nothing(model, table, state, same):
    split = ["test" if n >= 30 else "train" for n in range(40)]
    kinds = ["ab"[n % 2] for n in range(40)]
    lies = [*kinds[:30], *["ba"[n % 2] for n in range(30, 40)]]
    one, other = model(), model()

    truth = zoo.fit(one, table(kind=("text", kinds), split=split), **FROZEN)
    lie = zoo.fit(other, table(kind=("text", lies), split=split), **FROZEN)

    assert same(state(one), state(other))
    assert truth.test["kind"]["accuracy"] == pytest.approx(1 - lie.test["kind"]["accuracy"])


def test_without_validation_the_last_epoch_is_kept_and_nothing_is_judged(model, table):
    history = zoo.fit(model(), table(), **FROZEN, validation=0)

    assert history.rows == {"train": 40}
    assert (history.select, history.best_epoch, history.validation) == (None, 3, {})
    assert [row.validation_loss for row in history.epochs] == [None] * 3


@pytest.mark.slow
def test_rows_without_a_label_teach_nothing(model, table, state, same):
    gaps = [None if n % 5 == 0 else "ab"[n % 2] for n in range(40)]
    split = ["train"] * 40
    one, other = model(), model()
    settings = {**FROZEN, "batch_size": 40, "epochs": 4}

    zoo.fit(one, table(kind=("text", gaps), split=split), **settings, validation=0)
    full = table(kind=("text", gaps), split=split).select([n for n in range(40) if n % 5])
    zoo.fit(other, full, **settings, validation=0)

    for key, value in state(one, "heads.").items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_partial_labels_of_several_tasks_are_all_used(model, table):
    heads = {
        "type": "multi_task",
        "name": "all",
        "heads": [
            {"type": "classifier", "name": "kind", "classes": ["a", "b"], "norm": True},
            {"type": "regression", "name": "size", "norm": True},
        ],
    }
    kinds = [None if n % 3 == 0 else "ab"[n % 2] for n in range(40)]
    sizes = [None if n % 3 == 1 else 10.0 + n % 2 for n in range(40)]

    history = zoo.fit(model(heads), table(kind=("text", kinds), size=("number", sizes)), **{**FROZEN, "epochs": 15})

    assert history.validation["kind"]["accuracy"] >= 0.9
    assert history.validation["size"]["mae"] < 0.3


def test_pictures_that_cannot_be_read_are_skipped_and_told(model, tmp_path):
    pets = tmp_path / "pets"
    for kind, colour in (("a", "black"), ("b", "white")):
        (pets / kind).mkdir(parents=True)
        for n in range(5):
            Image.new("RGB", (32, 32), colour).save(pets / kind / f"{n}.png")
    (pets / "a" / "broken.png").write_bytes(b"no picture")

    history = zoo.fit(model(name="label"), pets, **{**FROZEN, "epochs": 1})

    assert history.rows == {"train": 8, "validation": 2}
    assert [row["name"] for row in history.skipped] == [str(pets / "a" / "broken.png")]
    assert history.skipped[0]["reason"]
    with pytest.raises(DataError, match=r"broken\.png"):
        zoo.fit(model(name="label"), pets, **FROZEN, strict=True)


def test_the_only_head_learns_the_only_column_whatever_both_are_called(model, table):
    history = zoo.fit(model(name="species"), table(rows=16), **{**FROZEN, "epochs": 1})

    assert set(history.validation) == {"species"}


def test_a_label_outside_the_classes_is_named_and_nothing_is_trained(model, table, state, same):
    one = model()
    before = state(one)

    with pytest.raises(DataError, match="knows no class 'bb'; its classes are b"):
        zoo.fit(one, table(kind=("text", ["a", "b", "bb", "a"] * 10)), **FROZEN)

    assert same(before, state(one))


def test_a_label_column_that_is_not_there_is_answered_with_the_nearest(model, table):
    kinds = ("text", ["ab"[n % 2] for n in range(40)])

    with pytest.raises(UnknownName, match=r"looks for the label column 'kind'; made-up pictures has kinds\."):
        zoo.fit(model(), table(kinds=kinds, other=kinds), **FROZEN)


def test_a_model_without_a_head_has_nothing_to_learn(table):
    bare = zoo.build("timm:test_resnet", weights=None, seed=0)

    with pytest.raises(DataError, match="The model has no head to train"):
        zoo.fit(bare, table(), **FROZEN)


# --- settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a whole number, 1 or more, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": "3"}, "epochs must be a whole number, 1 or more, got '3'"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"seed": -1}, "seed must be a whole number, 0 or more"),
        ({"seed": 2**32}, r"seed must be below 2\*\*32"),
        ({"lr": 0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"lr": float("inf")}, "lr must be a finite number"),
        ({"lr": "fast"}, "lr must be a finite number, got 'fast'"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"warmup": -0.1}, r"warmup must be in \[0, 1\)"),
        ({"validation": 1.0}, r"validation must be in \[0, 1\)"),
        ({"patience": 0}, "patience must be a whole number, 1 or more"),
        ({"patience": 1.5}, "patience must be a whole number"),
        ({"workers": -1}, "workers must be a whole number, 0 or more"),
        ({"precision": "fp8"}, "precision must be auto, fp32, bf16 or fp16, got 'fp8'"),
        ({"precision": "fp16", "device": "cpu"}, "precision fp16 needs a CUDA device, and this run is on cpu"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or mps, got 'tpu'"),
        ({"method": "fine_tuning", "backbone_lr_scale": 0}, "backbone_lr_scale must be a number above 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence_before_any_data_is_read(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        zoo.fit(model(), Bomb(), **settings)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "fine_tunning"}, "No method is called 'fine_tunning'.*Did you mean 'fine_tuning'"),
        (
            {"method": "fine_tuning", "epoch": 3},
            "zoo.fit with the method 'fine_tuning' has no option 'epoch'; it takes epochs",
        ),
        ({"method": "fine_tuning", "backbone_lr": 1}, "has no option 'backbone_lr'; it takes backbone_lr_scale"),
        ({"select": "kind/acuracy"}, "is no metric of this model; choose of loss, tasks, kind/accuracy"),
        ({"select": "accuracy"}, "is no metric of this model"),
    ],
)
def test_an_unknown_name_is_one_sentence_before_any_data_is_read(model, settings, sentence):
    with pytest.raises(UnknownName, match=sentence) as caught:
        zoo.fit(model(), Bomb(), **settings)

    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_one_sentence(model):
    with pytest.raises(ConfigError, match="The device 'cuda' is not there; this machine has cpu"):
        zoo.fit(model(), Bomb(), device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_auto_takes_the_device_and_the_precision_that_are_there(model, table):
    history = zoo.fit(model(), table(rows=16), **{**FROZEN, "epochs": 1, "device": "auto"})

    assert history.device in ("cpu", "mps")
    assert history.precision == "fp32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_cuda_learns_in_each_precision(model, table, precision):
    history = zoo.fit(model(), table(), method="fine_tuning", epochs=4, batch_size=8, lr=0.01, precision=precision)

    assert history.device == "cuda"
    assert history.precision == (precision if precision != "auto" else "bf16")
    assert history.validation["kind"]["accuracy"] >= 0.9


# --- what is told


def test_the_history_says_what_was_done_and_is_json(model, table):
    settings = {**FROZEN, "method": "fine_tuning", "epochs": 2, "backbone_lr_scale": 0.3}

    history = zoo.fit(model(), table(rows=16), **settings)

    told = json.loads(json.dumps(history.as_json(), allow_nan=False))
    assert isinstance(history, History)
    assert (told["method"], told["settings"]["backbone_lr_scale"], told["settings"]["epochs"]) == (
        "fine_tuning",
        0.3,
        2,
    )
    assert [row["epoch"] for row in told["epochs"]] == [1, 2]
    assert told["seconds"] > 0


def test_provenance_is_json_and_has_no_path_of_the_machine(model, tmp_path):
    for kind, colour in (("a", "black"), ("b", "white")):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for n in range(5):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "pets" / kind / f"{n}.png")
    (tmp_path / "pets" / "a" / "broken.png").write_bytes(b"no picture")
    one = model(name="label")

    history = zoo.fit(one, tmp_path / "pets", **FROZEN)

    text = json.dumps(one.provenance, allow_nan=False)
    assert str(tmp_path) not in text
    assert one.provenance["data"] == {"name": "pets", "rows": history.rows, "columns": {"label": "label"}}
    assert one.provenance["metrics"]["validation"] == history.validation
    assert one.provenance["method"] == "feature_extraction"


@pytest.mark.slow
def test_a_trained_model_can_be_saved_with_its_provenance(model, table, tmp_path):
    tags = [("a",) if n % 2 else ("b",) for n in range(39)] + [("c",)]  # no c in validation
    one = model({"type": "classifier", "name": "tags", "classes": ["a", "b", "c"], "multi_label": True})

    zoo.fit(one, table(tags=("list", tags)), **FROZEN)
    again = zoo.load(one.save(tmp_path / "bundle"))

    assert again.provenance["metrics"] == one.provenance["metrics"]


def test_the_classes_and_the_epochs_are_told_in_the_log(model, table, caplog):
    caplog.set_level(logging.INFO, "zoo")

    zoo.fit(model(), table(), **FROZEN)

    assert "made-up pictures: 32 train, 8 validation." in caplog.text
    assert "The head 'kind' (classifier) learns the column 'kind': 0 a, 1 b" in caplog.text
    assert caplog.text.count("train loss") == 3


@pytest.mark.slow
def test_a_progress_bar_is_shown_if_it_is_asked_for(model, table, capfd):
    zoo.fit(model(), table(rows=16), **{**FROZEN, "epochs": 1})
    silent = capfd.readouterr()
    zoo.fit(model(), table(rows=16), **{**FROZEN, "epochs": 1}, progress=True)
    shown = capfd.readouterr()

    assert "%|" not in silent.err + silent.out
    assert "100%|" in shown.err
    assert "loss" not in shown.out


def test_a_run_that_diverges_says_so(model, table):
    one = model()
    with torch.no_grad():
        one.heads["kind"].layers[-1].weight.fill_(float("nan"))

    with pytest.raises(TrainingError, match="The loss became nan at step 1, on the samples picture"):
        zoo.fit(one, table(rows=16), **{**FROZEN, "epochs": 1}, validation=0)


def test_a_picture_that_goes_missing_while_training_is_named(model, table):
    def gone(item):
        raise OSError("disk on fire")

    data = table(rows=16)
    samples = (*data.inputs["image"][:15], DatasetSample("row 15", [0] * 16, 15, gone))

    with pytest.raises(DataError, match="row 15"):
        zoo.fit(model(), zoo.Table("pictures", {"image": samples}, data.columns), **FROZEN)


def test_pictures_of_different_sizes_are_refused(model, table):
    data = table(rows=16)
    samples = (*data.inputs["image"][:15], TensorSample("odd", torch.zeros(3, 64, 64)))

    with pytest.raises(zoo.ShapeError, match="must have one size"):
        zoo.fit(model(), zoo.Table("pictures", {"image": samples}, data.columns), **{**FROZEN, "batch_size": 16})

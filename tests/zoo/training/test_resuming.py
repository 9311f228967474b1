"""A run that was stopped and goes on ends as the run that never stopped, bit for bit; or it is said why it cannot."""

import json
import logging
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data import PictureSample
from zoo.errors import ConfigError
from zoo.training.engine import Engine

KINDS = ("text", ["ab"[n % 2] if n % 5 else None for n in range(24)])
AGES = ("number", [float(n) if n % 3 else None for n in range(24)])
KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "dropout": 0.3}
PLAIN = {"method": "fine_tuning", "epochs": 2, "batch_size": 8, "device": "cpu"}
GRADUAL = {
    "method": "gradual_unfreezing",
    "epochs": 4,
    "batch_size": 8,
    "lr": 0.01,
    "device": "cpu",
    "ema": 0.8,
    "select": "loss",
}


@pytest.fixture
def two_heads(model):
    """A model of two tasks with dropout, some of whose targets are missing."""
    return lambda: model(KIND, {"type": "regression", "name": "age"})


@pytest.fixture
def rows(table):
    """Rows of tensors; with ``pictures`` of Pillow pictures, which can be varied."""

    def make(*, pictures=False, **more):
        made = table(rows=24, **{"kind": KINDS, "age": AGES, **more})
        if not pictures:
            return made
        noise = np.random.default_rng(0).integers(0, 256, (24, 40, 40, 3), dtype=np.uint8)
        samples = tuple(PictureSample(f"picture {n}", Image.fromarray(one)) for n, one in enumerate(noise))
        return replace(made, inputs={"image": samples})

    return make


@pytest.fixture
def kept(tmp_path, two_heads, rows):
    """Run with a checkpoint after every step or so, and give the model, the history and the folder."""

    def run(settings=PLAIN, *, every=2, data=None, make=two_heads, **more):
        one, folder = make(), tmp_path / "kept"
        history = zoo.fit(
            one, data or rows(), checkpoint=folder, checkpoint_every=every, keep_checkpoints=99, **settings, **more
        )
        return one, history, folder

    return run


def only(folder, step, tmp_path):
    """Make a run's folder that has one checkpoint of another's, as if it was killed right after that."""
    name = f"checkpoint-{step:08d}"
    target = tmp_path / f"from-{step}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / name, target / name)
    return target


def steps(folder):
    return [int(path.name.rpartition("-")[2]) for path in sorted(folder.glob("checkpoint-*"))]


def told(history):
    """Give a history but for times and memory."""
    data = history.as_json()
    data.pop("seconds")
    for row in data["epochs"]:
        row["seconds"] = row["memory"] = None
    return json.dumps(data)


@pytest.fixture
def optimizers(monkeypatch):
    """Keep the state that the optimizer of each run ends with."""
    ended = []
    train = Engine.train

    def spy(engine, *args, **kwargs):
        result = train(engine, *args, **kwargs)
        ended.append(engine.optimizer.state_dict())
        return result

    monkeypatch.setattr(Engine, "train", spy)
    return ended


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


SETTINGS = {
    "gradual unfreezing, EMA, cosine": GRADUAL,
    "gradual unfreezing on a plateau, one cycle": {**GRADUAL, "on_plateau": 1, "schedule": "one_cycle"},
    "augmentation": {**PLAIN, "augmentation": "light"},
    "accumulation": {**PLAIN, "batch_size": 4, "accumulate": 2},
    "kept features": {"method": "feature_extraction", "epochs": 3, "batch_size": 8, "lr": 0.01, "device": "cpu"},
    "kept views": {**PLAIN, "method": "feature_extraction", "augmentation": "light", "cached_views": 2, "epochs": 3},
    "kept features of the first stages": {**PLAIN, "method": "partial"},
    "LoRA": {**PLAIN, "method": "lora"},
    "mixup and cutmix": {**PLAIN, "mixup": 0.4, "cutmix": 1.0, "epochs": 3},
    "balanced sampling": {**PLAIN, "sampling": "balanced", "epochs": 3},
    "linear probe, then all": {**PLAIN, "method": "linear_probe_then_finetune", "epochs": 4},
    "no validation rows": {**PLAIN, "validation": 0, "ema": 0.8},
    "plateau schedule, SGD with momentum": {
        **PLAIN,
        "optimizer": "sgd",
        "optimizer_settings": {"momentum": 0.9},
        "schedule": "plateau",
        "epochs": 3,
    },
}


QUICK = ("gradual unfreezing, EMA, cosine", "kept features")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [pytest.param(SETTINGS[n], id=n, marks=() if n in QUICK else pytest.mark.slow) for n in SETTINGS]
)
def test_a_run_that_goes_on_from_any_checkpoint_ends_as_the_run_that_never_stopped(
    settings, kept, two_heads, model, rows, tmp_path, state, same, optimizers
):
    data = rows(pictures="augmentation" in settings)
    make = partial(model, KIND) if "mixup" in settings else two_heads  # a number has no mixture
    whole = make()
    history = zoo.fit(whole, data, **settings)
    _, _, folder = kept(settings, data=data, make=make)

    there = steps(folder)
    assert len(there) > settings["epochs"]
    for step in (there[0], there[len(there) // 2], there[-1]):
        resumed = make()
        again = zoo.fit(resumed, data, checkpoint=only(folder, step, tmp_path), resume=True, **settings)

        assert same(state(whole), state(resumed)), step
        assert told(history) == told(again)
    assert len(optimizers) == 4  # the last checkpoint is of a finished run, which trains nothing
    assert all(equal(optimizers[0], other) for other in optimizers[1:])
    assert whole.frozen() == resumed.frozen()


@pytest.mark.slow
def test_keeping_checkpoints_changes_nothing(kept, two_heads, rows, state, same):
    whole = two_heads()
    history = zoo.fit(whole, rows(), **PLAIN)

    one, with_checkpoints, _ = kept()

    assert same(state(whole), state(one))
    assert told(history) == told(with_checkpoints)


@pytest.mark.slow
def test_a_finished_run_says_so_and_trains_nothing(kept, two_heads, rows, state, same, monkeypatch, caplog):
    one, history, folder = kept()
    monkeypatch.setattr(Engine, "training_step", lambda *_: pytest.fail("it trained"))
    again = two_heads()

    with caplog.at_level(logging.INFO, logger="zoo"):
        second = zoo.fit(again, rows(), checkpoint=folder, resume=True, **PLAIN)

    assert "the run is finished already; nothing is trained" in caplog.text
    assert same(state(one), state(again))
    assert told(history) == told(second)


@pytest.mark.slow
def test_only_as_many_checkpoints_are_kept_as_were_asked_for(two_heads, rows, tmp_path):
    zoo.fit(two_heads(), rows(), checkpoint=tmp_path / "run", checkpoint_every=1, **PLAIN)

    assert steps(tmp_path / "run") == [5, 6]
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_file()) == [
        "history.csv",
        "history.jsonl",
    ]


# --- broken checkpoints


def flip_a_bit(checkpoint):
    file = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove_a_part(checkpoint):
    (checkpoint / "training" / "state.safetensors").unlink()


def cut_the_manifest(checkpoint):
    file = checkpoint / "zoo.json"
    file.write_bytes(file.read_bytes()[:100])


def remove_the_manifest(checkpoint):
    (checkpoint / "zoo.json").unlink()


BREAKS = [flip_a_bit, remove_a_part, cut_the_manifest, remove_the_manifest]


@pytest.mark.parametrize("spoil", [BREAKS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in BREAKS[1:])])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_taken(spoil, kept, two_heads, rows, state, same, caplog):
    one, history, folder = kept()
    newest = folder / f"checkpoint-{steps(folder)[-1]:08d}"
    spoil(newest)
    again = two_heads()

    second = zoo.fit(again, rows(), checkpoint=folder, resume=True, **PLAIN)

    assert f"{newest} cannot be used, and the one before it is taken" in caplog.text
    assert same(state(one), state(again))
    assert told(history) == told(second)
    assert zoo.verify(newest).ok  # written again by the run that went on
    assert (folder / f"broken-{newest.name}").is_dir()


@pytest.mark.slow
def test_without_any_whole_checkpoint_nothing_is_trained(kept, two_heads, rows):
    _, _, folder = kept(every=None)
    for path in folder.glob("checkpoint-*"):
        flip_a_bit(path)

    with pytest.raises(ConfigError, match="no checkpoint that is whole; zoo verify"):
        zoo.fit(two_heads(), rows(), checkpoint=folder, resume=True, **PLAIN)

    assert len(steps(folder)) == 2


# --- what is refused


LABELS = list(KINDS[1])
LABELS[1], LABELS[2] = LABELS[2], LABELS[1]

REFUSED = {
    "other rows": ({}, {"seed": 1}, "other train rows"),
    "other labels": ({}, {"kind": ("text", LABELS)}, "other train rows"),
    "another method": (
        {"method": "feature_extraction"},
        {},
        "the method fine_tuning, and this one has feature_extraction",
    ),
    "more epochs": ({"epochs": 3}, {}, "epochs 2, and this one has 3"),
    "another batch size": ({"batch_size": 4}, {}, "batch_size 8, and this one has 4"),
    "an average": ({"ema": 0.9}, {}, "ema none, and this one has 0.9"),
    "another split": ({"validation": 0.5}, {}, "rows in train"),
    "views": ({"augmentation": "light"}, {}, "augmentation none, and this one has"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "data", "says"), REFUSED.values(), ids=REFUSED)
def test_a_run_that_differs_is_refused_by_what_differs(settings, data, says, kept, two_heads, rows, state, same):
    _, _, folder = kept(every=None)
    one = two_heads()
    before = state(one, "backbones.")

    with pytest.raises(ConfigError) as refused:
        zoo.fit(one, rows(**data), checkpoint=folder, resume=True, **{**PLAIN, **settings})

    assert says in str(refused.value)
    assert same(before, state(one, "backbones."))
    assert all(zoo.verify(path).ok for path in folder.glob("checkpoint-*"))
    assert len(steps(folder)) == 2


@pytest.mark.slow
def test_other_classes_heads_and_backbones_are_refused(kept, model, rows):
    _, _, folder = kept(every=None)
    age = {"type": "regression", "name": "age"}
    kind = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "dropout": 0.3}
    models = {
        "the head 'kind' of classes ['a', 'b'], and this one has ['a', 'b', 'c']": model(
            {**kind, "classes": ["a", "b", "c"]}, age
        ),
        "the heads kind, age, and this one has kind": model(kind),
        "another backbone in the stream 'main'": model(kind, age, backbone="timm:test_vit"),
    }

    for says, other in models.items():
        with pytest.raises(ConfigError) as refused:
            zoo.fit(other, rows(), checkpoint=folder, resume=True, **PLAIN)
        assert says in str(refused.value)


@pytest.mark.slow
def test_another_number_of_processes_is_refused(kept, two_heads, rows, monkeypatch):
    _, _, folder = kept(every=None)
    monkeypatch.setattr("zoo.training.resuming.identity.world_size", lambda: 4)

    with pytest.raises(ConfigError, match="number of processes 1, and this one has 4"):
        zoo.fit(two_heads(), rows(), checkpoint=folder, resume=True, **PLAIN)


@pytest.mark.slow
def test_other_weights_under_a_frozen_stage_are_refused(two_heads, rows, tmp_path):
    settings = {**PLAIN, "method": "feature_extraction"}
    zoo.fit(two_heads(), rows(), checkpoint=tmp_path / "run", **settings)
    other = two_heads()
    with torch.no_grad():
        next(other.backbones["main"].parameters()).add_(1)

    with pytest.raises(ConfigError, match="other frozen weights in the stream 'main'"):
        zoo.fit(other, rows(), checkpoint=tmp_path / "run", resume=True, **settings)


@pytest.mark.slow
def test_a_new_run_does_not_begin_where_another_is_kept(kept, two_heads, rows):
    _, _, folder = kept(every=None)

    with pytest.raises(ConfigError, match="holds checkpoints of a run, the newest checkpoint-00000006"):
        zoo.fit(two_heads(), rows(), checkpoint=folder, **PLAIN)


def test_going_on_where_nothing_is_kept_is_refused_before_the_data_is_read(two_heads, tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint to resume from"):
        zoo.fit(two_heads(), tmp_path / "no such data", checkpoint=tmp_path / "none", resume=True, **PLAIN)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resume": True}, "resume is for runs that keep checkpoints"),
        ({"checkpoint_every": 3}, "checkpoint_every is for runs that keep checkpoints"),
        ({"checkpoint": "run", "checkpoint_every": 0}, "checkpoint_every must be a whole number, 1 or more"),
        ({"checkpoint": "run", "keep_checkpoints": 0}, "keep_checkpoints must be a whole number, 1 or more"),
        ({"checkpoint": "run", "resume": "yes"}, "resume must be True or False"),
        ({"checkpoint": __file__}, "test_resuming.py is a file; checkpoint takes a folder"),
        ({"ema": 1.0}, "ema must be a number above 0 and below 1"),
        ({"ema": float("nan")}, "ema must be a number above 0 and below 1"),
    ],
)
def test_settings_of_checkpoints_are_checked(settings, says, two_heads, tmp_path):
    with pytest.raises(ConfigError, match=says):
        zoo.fit(two_heads(), tmp_path / "no such data", **{**PLAIN, **settings})


# --- what a checkpoint is


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "feature_extraction",
        "gradual_unfreezing",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("partial", "lora")),
    ],
)
def test_a_checkpoint_is_a_bundle_that_verifies_and_gives_the_model_at_that_point(
    method, two_heads, rows, tmp_path, state, same, monkeypatch
):
    seen = {}
    save = zoo.training.resuming.checkpointing.Keeper.save

    def spy(keeper, engine):
        inputs = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
        keeper._model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            seen[engine.state.global_step] = keeper._model(inputs)
        save(keeper, engine)

    monkeypatch.setattr(zoo.training.resuming.checkpointing.Keeper, "save", spy)
    zoo.fit(two_heads(), rows(), checkpoint=tmp_path / "run", keep_checkpoints=9, **{**PLAIN, "method": method})

    assert len(seen) == 2
    for step, outputs in seen.items():
        path = tmp_path / "run" / f"checkpoint-{step:08d}"
        assert zoo.verify(path).problems == []
        assert zoo.inspect(path).kind == "checkpoint"
        loaded = zoo.load(path)
        inputs = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, output in loaded(inputs).items():
                torch.testing.assert_close(output, outputs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_never_trains_is_kept_once_and_not_in_each_checkpoint(two_heads, rows, tmp_path):
    zoo.fit(two_heads(), rows(), checkpoint=tmp_path / "run", **{**PLAIN, "method": "feature_extraction"})

    found = zoo.inspect(tmp_path / "run" / "checkpoint-00000006")
    assert not any(name.startswith("backbones/main/") and name.endswith(".safetensors") for name in found.files)
    assert found.bytes < 60_000


@pytest.mark.slow
def test_a_checkpoint_is_not_upgraded_into_something_that_no_run_goes_on_from(kept, monkeypatch):
    _, _, folder = kept(every=None)
    path = folder / "checkpoint-00000006"

    with pytest.raises(zoo.BundleError, match="is a checkpoint of a run; go on with the run"):
        zoo.upgrade(path)

    assert zoo.inspect(path).kind == "checkpoint"


@pytest.mark.slow
def test_a_folder_in_which_a_run_trains_is_no_other_runs_to_go_on_in(two_heads, rows, tmp_path, monkeypatch):
    """A run that is taken for dead while it still trains must not be gone on with beside it."""
    folder, told = tmp_path / "run", []
    step = Engine.training_step

    def meanwhile(engine, *args, **given):
        monkeypatch.setattr(Engine, "training_step", step)
        for resume in (False, True):
            if resume:
                kept_before = sorted(folder.glob("checkpoint-*"))
                (folder / "checkpoint-00000001").mkdir()
            with pytest.raises(zoo.ZooError) as refused:
                zoo.fit(two_heads(), rows(), checkpoint=folder, resume=resume, **PLAIN)
            told.append(str(refused.value))
            if resume:
                (folder / "checkpoint-00000001").rmdir()
                assert sorted(folder.glob("checkpoint-*")) == kept_before
        return step(engine, *args, **given)

    monkeypatch.setattr(Engine, "training_step", meanwhile)
    zoo.fit(two_heads(), rows(), checkpoint=folder, **PLAIN)

    assert told == [f"Another training runs in {folder}; wait for its end, or give another folder."] * 2
    zoo.fit(two_heads(), rows(), checkpoint=folder, resume=True, **PLAIN)
    assert len(list(folder.glob("checkpoint-*"))) == 2

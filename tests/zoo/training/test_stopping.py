"""What stops a run before its end: a loss that is no number, Ctrl-C, a full disk, data that changes meanwhile."""

import errno
import logging
import os
import signal

import pytest
import torch
from PIL import Image

import zoo
from zoo.bundle import staging
from zoo.data import Table, TensorSample
from zoo.errors import DataError, TrainingError
from zoo.training.engine import Engine
from zoo.training.resuming.interrupting import Interrupted

PLAIN = {"method": "fine_tuning", "epochs": 3, "batch_size": 8, "device": "cpu"}


# --- NaN


@pytest.fixture
def at_step(monkeypatch):
    """Do something before a step of training, counted from 1."""

    def hook(number, act):
        step, seen = Engine.training_step, []

        def spy(engine, model, inputs, items=None):
            seen.append(None)
            if len(seen) == number:
                act(engine, inputs)
            return step(engine, model, inputs, items)

        monkeypatch.setattr(Engine, "training_step", spy)

    return hook


def spoil(table, row):
    """Make one sample infinitely bright."""
    samples = list(table.inputs["image"])
    samples[row] = TensorSample(samples[row].name, samples[row].tensor * float("inf"))
    return Table(table.source, {"image": tuple(samples)}, table.columns, table.split)


def test_a_sample_that_makes_the_loss_nan_is_named_with_its_step(model, table):
    split = ["train"] * 32 + ["validation"] * 8
    data = spoil(table(split=split), 5)

    with pytest.raises(TrainingError) as stopped:
        zoo.fit(model(), data, **PLAIN)

    error = stopped.value
    assert f"The loss became nan at step {error.step}, on the samples " in str(error)
    assert 1 <= error.step <= 4
    assert "picture 5" in error.samples
    assert len(error.samples) == 8
    assert "there is no better epoch" in str(error)


@pytest.mark.slow
def test_a_loss_that_becomes_nan_leaves_the_best_epoch_and_the_last_good_checkpoint(
    model, table, tmp_path, at_step, state, same
):
    at_step(9, lambda engine, inputs: inputs["inputs"]["image"].fill_(float("nan")))
    one = model()

    with pytest.raises(TrainingError) as stopped:
        zoo.fit(one, table(), checkpoint=tmp_path / "run", checkpoint_every=3, keep_checkpoints=9, **PLAIN)

    last = tmp_path / "run" / "checkpoint-00000008"
    assert stopped.value.step == 9
    assert stopped.value.checkpoint == str(last)
    assert f"the last good checkpoint is {last}" in str(stopped.value)
    assert "The model has the weights of its best epoch, " in str(stopped.value)
    assert zoo.verify(last).ok
    assert all(torch.isfinite(value).all() for value in one.state_dict().values())
    assert not one.training
    epoch = int(str(stopped.value).partition("best epoch, ")[2][0])
    of_best = zoo.load(tmp_path / "run" / f"checkpoint-{4 * epoch:08d}")
    assert same(state(one), state(of_best))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"clip": 0}, {"accumulate": 2, "batch_size": 4}], ids=str)
def test_a_gradient_that_is_no_number_stops_the_run_before_a_weight_has_changed(model, table, at_step, settings):
    kept = {}

    def poison(engine, inputs):
        one = engine._zoo_model()
        kept.update({key: value.clone() for key, value in one.named_parameters()})
        next(one.heads.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    at_step(3 if settings.get("accumulate") else 2, poison)
    one = model()

    with pytest.raises(TrainingError, match=r"The gradient became (nan|inf) at step 2, on the samples picture"):
        zoo.fit(one, table(), **{**PLAIN, **settings})

    assert all(torch.equal(value, kept[key]) for key, value in one.named_parameters())


# --- Ctrl-C


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_and_writes_a_checkpoint_from_which_the_run_goes_on(
    model, table, tmp_path, at_step, state, same, caplog
):
    whole = model()
    zoo.fit(whole, table(), **PLAIN)
    at_step(6, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    folder = tmp_path / "run"

    with pytest.raises(Interrupted) as stopped:
        zoo.fit(model(), table(), checkpoint=folder, **PLAIN)

    assert isinstance(stopped.value, KeyboardInterrupt)
    assert f"after step 6 of 12; {folder / 'checkpoint-00000006'} has it" in str(stopped.value)
    assert "Ctrl-C once more stops at once" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = model()
    zoo.fit(resumed, table(), checkpoint=folder, resume=True, **PLAIN)
    assert same(state(whole), state(resumed))


def test_ctrl_c_in_the_last_step_of_an_epoch_lets_the_epoch_be_judged(model, table, tmp_path, at_step):
    at_step(4, lambda *_: os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(Interrupted, match="after step 4 of 12"):
        zoo.fit(model(), table(), checkpoint=tmp_path / "run", **PLAIN)

    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(model, table, tmp_path, at_step):
    def twice(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(6, twice)

    with pytest.raises(KeyboardInterrupt) as stopped:
        zoo.fit(model(), table(), checkpoint=tmp_path / "run", **PLAIN)

    assert not isinstance(stopped.value, Interrupted)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000004"]


def test_without_checkpoints_ctrl_c_stops_at_once(model, table, at_step):
    at_step(2, lambda *_: os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(KeyboardInterrupt) as stopped:
        zoo.fit(model(), table(), **PLAIN)

    assert not isinstance(stopped.value, Interrupted)


@pytest.mark.slow
def test_a_program_with_its_own_way_to_take_ctrl_c_keeps_it(model, table, tmp_path):
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGINT)
        zoo.fit(model(), table(), checkpoint=tmp_path / "run", **PLAIN | {"epochs": 1})
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


# --- a full disk


@pytest.mark.slow
def test_a_full_disk_in_a_checkpoint_leaves_those_before_and_training_goes_on(
    model, table, tmp_path, monkeypatch, caplog, state, same
):
    whole = model()
    zoo.fit(whole, table(), **PLAIN)
    folder, write = tmp_path / "run", staging.StagedFolder.write

    def full(staged, name, data):
        if "checkpoint-00000008" in str(staged.path) and name.endswith(".json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(staged, name, data)

    monkeypatch.setattr(staging.StagedFolder, "write", full)
    one = model()

    zoo.fit(one, table(), checkpoint=folder, keep_checkpoints=9, **PLAIN)

    assert "No checkpoint of step 8: " in caplog.text
    assert "No space left on device" in caplog.text
    assert "Those before it are intact; training goes on." in caplog.text
    assert [path.name for path in sorted(folder.glob("*checkpoint-*"))] == [
        "checkpoint-00000004",
        "checkpoint-00000012",
    ]
    assert all(zoo.verify(path).ok for path in folder.glob("checkpoint-*"))
    assert same(state(whole), state(one))


# --- data that changes


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of pictures."""
    for number in range(16):
        place = tmp_path / "data" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 15, 0, 100 * (number % 2))).save(place / f"{number}.png")
    return tmp_path / "data"


def remove(path):
    path.unlink()


def change(path):
    Image.new("RGB", (40, 40), (255, 255, 255)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "says"), [(remove, "is gone"), (change, "has changed")])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_file_that_changes_during_a_run_is_named(model, pictures, tmp_path, at_step, spoil, says, workers):
    victims = sorted(pictures.rglob("*.png"))
    at_step(3, lambda *_: [spoil(path) for path in victims])

    with pytest.raises(DataError) as stopped:
        zoo.fit(
            model(), pictures, checkpoint=tmp_path / "run", workers=workers, **{**PLAIN, "batch_size": 4, "epochs": 2}
        )

    assert any(f"{path} {says} since the run began" in str(stopped.value) for path in victims)


@pytest.mark.slow
def test_files_that_stay_as_they_are_go_unnoticed_and_other_files_are_refused(model, pictures, tmp_path, caplog):
    settings = {**PLAIN, "epochs": 2}
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.fit(model(), pictures, checkpoint=tmp_path / "run", **settings)
    zoo.fit(model(), pictures, checkpoint=tmp_path / "run", resume=True, **settings)
    change(sorted(pictures.rglob("*.png"))[0])

    with pytest.raises(zoo.ConfigError, match=r"other (train|validation) rows"):
        zoo.fit(model(), pictures, checkpoint=tmp_path / "run", resume=True, **settings)

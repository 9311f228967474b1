"""Two processes that train one model: they stay equal, do what one process does, write once, and end together.

Both run every scenario below one after the other, since to start them takes longer than to train; each writes down what
it saw, and the tests read that.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

import zoo
from zoo.data import Column, PictureSample, Table, TensorSample
from zoo.training import engine
from zoo.training.dividing import DividedBatches
from zoo.training.features import store as features
from zoo.training.ranks import Ranks, join
from zoo.training.resuming import checkpointing, runfolder

pytestmark = pytest.mark.slow  # processes that import all there is, and train together

VIT = "timm:test_vit?img_size=32"
KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
AGE = {"type": "regression", "name": "age"}
ROWS = 46
"""Of which 37 train: the last batch of 8 has 5, which two processes share unevenly."""
COMMON = {"epochs": 4, "batch_size": 8, "lr": 1e-3, "device": "cpu"}
SGD = {"optimizer": "sgd", "lr": 0.03}
"""Adam moves what has no gradient but rounding, such as the bias of keys, as far as everything else."""
SPENT = {"seconds", "memory"}


def table(rows=ROWS, *, nan=None, **columns):
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if nan is not None:
        noise[nan] = torch.nan
    images = tuple(TensorSample(f"picture {n}", image + 0.7 * (n % 2)) for n, image in enumerate(noise))
    columns = columns or {"kind": ("text", ["ab"[n % 2] for n in range(rows)])}
    made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
    return Table("made-up pictures", {"image": images}, made, None)


def photos():
    noise = torch.randint(200, (ROWS, 40, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = [PictureSample(f"{n}", Image.fromarray((one + 50 * (n % 2)).numpy())) for n, one in enumerate(noise)]
    kind = Column("kind", "text", tuple("ab"[n % 3 == 0] for n in range(ROWS)))
    return Table("made-up photos", {"image": tuple(images)}, {"kind": kind})


def few_ages():
    """Make a table of whose rows a few have an age, so that most batches have none for a process, or for both."""
    ages = [n / 10 if n in (3, 4, 30) else None for n in range(ROWS)]
    kinds = ["ab"[n % 2] if n < 25 else None for n in range(ROWS)]
    return table(kind=("text", kinds), age=("number", ages))


RUNS = {
    "gradual": ([KIND], table, {"method": "gradual_unfreezing", **SGD}),
    "missing": ([KIND, AGE], few_ages, {"method": "gradual_unfreezing", "validation": 0.0, **SGD}),
    "accumulated": ([KIND], table, {"accumulate": 2, "ema": 0.9, **SGD}),
    "views": ([KIND], photos, {"augmentation": "light", "sampling": "balanced", "epochs": 2}),
}
"""Runs that one process does, too: the heads, the data, the settings."""
NORMS = ([KIND], table, {"epochs": 2, "backbone": "timm:test_resnet"})
"""A run with batch norm, which takes the statistics of each process's own rows."""


def build(heads, backbone=VIT):
    return zoo.build(backbone, [dict(head) for head in heads], weights=None, seed=0)


def train(name, processes):
    heads, data, more = RUNS.get(name, NORMS)
    settings = {**COMMON, **more}
    model = build(heads, settings.pop("backbone", VIT))
    return model, zoo.fit(model, data(), **{**settings, "batch_size": settings["batch_size"] // processes})


def digest(model):
    told = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        told.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


def epochs_of(history):
    rows = history.as_json()["epochs"]
    return [{key: value for key, value in row.items() if key not in SPENT} for row in rows]


# --- what both processes do


def compared(name, folder, number):
    seen = []
    evaluate = engine.Engine.evaluate

    def spy(self, *given, **more):
        seen.append(digest(self._zoo_model()))
        return evaluate(self, *given, **more)

    with mock.patch.object(engine.Engine, "evaluate", spy):
        model, history = train(name, 2)
    torch.save(model.state_dict(), folder / f"{name}-{number}.pt")
    return {"seen": seen, "epochs": epochs_of(history), "best": history.best_epoch, "last": digest(model)}


def asleep(folder, number):
    """Train as if DDP wrapped only what trains in the first epoch, which is what toggling alone would do."""
    make = engine.Engine.create_optimizer

    def unaware(self, model=None):
        ranks, self.ranks = self.ranks, Ranks()
        try:
            return make(self, model)
        finally:
            self.ranks = ranks

    with mock.patch.object(engine.Engine, "create_optimizer", unaware):
        return compared("gradual", folder, f"asleep-{number}")


def resumed(folder, number):
    """Train with dropout, batch norm, an average and a checkpoint after each step; go on from one within an epoch."""
    settings = {**COMMON, "batch_size": 4, "epochs": 2, "ema": 0.8, "keep_checkpoints": 50, "checkpoint_every": 1}
    heads = [{**KIND, "dropout": 0.5}]
    model = build(heads, "timm:test_resnet")
    history = zoo.fit(model, table(), **settings, checkpoint=folder / "run")
    if number == 0:
        for step in (1, 2, 3, 7):
            shutil.copytree(folder / "run" / f"checkpoint-{step:08d}", folder / "again" / f"checkpoint-{step:08d}")
    join(torch.device("cpu")).same(None)
    again = build(heads, "timm:test_resnet")
    on = zoo.fit(again, table(), **settings, checkpoint=folder / "again", resume=True)
    return {"whole": [digest(model), epochs_of(history)], "on": [digest(again), epochs_of(on)]}


def interrupted(folder, number):
    """Send Ctrl-C to the second process alone, in its third step."""
    steps = []
    step = engine.Engine.training_step

    def spy(self, *given, **more):
        steps.append(1)
        if number == 1 and len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *given, **more)

    with mock.patch.object(engine.Engine, "training_step", spy):
        try:
            zoo.fit(build([KIND]), table(), **{**COMMON, "batch_size": 4}, checkpoint=folder / "stopped")
        except KeyboardInterrupt as error:
            return {"told": str(error), "steps": len(steps)}
    return {}


def kept(folder, number):
    computed = []
    compute = features.FeatureStore._compute

    def spy(self, missing, *more):
        computed.append(len(missing))
        return compute(self, missing, *more)

    with mock.patch.object(features.FeatureStore, "_compute", spy):
        model = build([KIND])
        history = zoo.fit(model, table(), **COMMON, method="feature_extraction")
    return {"computed": computed, "last": digest(model), "epochs": epochs_of(history)}


def refused(call):
    try:
        call()
    except zoo.ZooError as error:
        return [type(error).__name__, str(error)]
    return []


def failing():
    def fail():
        raise ValueError("no room")

    try:
        join(torch.device("cpu")).after_first(fail)
    except (ValueError, zoo.TrainingError) as error:
        return str(error)
    return ""


@contextmanager
def writing_nothing(number):
    """Let the second process fail if it writes what the first one does."""
    if number == 0:
        yield
        return
    never = mock.Mock(side_effect=AssertionError("the second process writes"))
    with (
        mock.patch.object(checkpointing, "write_checkpoint", never),
        mock.patch.object(checkpointing, "write_records", never),
        mock.patch.object(runfolder.RunFolder, "tidy", never),
        mock.patch.object(features, "write_shard", never),
    ):
        yield


def worker(folder, number):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=100))  # as a script of one's own may
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("zoo").addHandler(handler)
    logging.getLogger("zoo").setLevel(logging.INFO)
    with writing_nothing(number):
        report = {name: compared(name, folder, number) for name in [*RUNS, "norms"]}
        report["lines"] = len(lines)
        report["asleep"] = asleep(folder, number)
        report["resumed"] = resumed(folder, number)
        report["interrupted"] = interrupted(folder, number)
        report["kept"] = kept(folder, number)
    report["diverged"] = refused(lambda: zoo.fit(build([KIND]), table(nan=6), **COMMON, validation=0.0))
    report["other rows"] = refused(lambda: zoo.fit(build([KIND]), table(ROWS - 2 * number), **COMMON))
    report["auto"] = refused(lambda: zoo.fit(build([KIND]), table(), method="auto", device="cpu"))
    report["failing"] = failing()
    alone = zoo.evaluate(build([KIND]), table(20), device="cpu") if number == 0 else None  # the other one does not
    report["alone"] = alone
    with mock.patch.dict(os.environ, ACCELERATE_USE_DEEPSPEED="true"):
        report["deepspeed"] = refused(lambda: zoo.fit(build([KIND]), table(), **COMMON))
    (folder / f"{number}.json").write_text(json.dumps(report))


# --- what is seen of it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "ZOO_CACHE": str(folder / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=os.environ | common | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("name", [*RUNS, "norms"])
def test_two_processes_are_equal_in_every_bit_after_each_epoch_and_at_the_end(name, two):
    one, other = (report[name] for report in two)

    assert one == other
    assert len(set(one["seen"])) == (0 if name == "missing" else len(one["epochs"]))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(name, two, folder):
    model, history = train(name, 1)
    found = torch.load(folder / f"{name}-0.pt", weights_only=True)

    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-5)
    for row, alone in zip(two[0][name]["epochs"], epochs_of(history), strict=True):
        assert row["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-5)
        assert row["validation_loss"] == pytest.approx(alone["validation_loss"], abs=1e-5)
        assert row["validation"] == alone["validation"]
    assert two[0][name]["best"] == history.best_epoch


def test_processes_would_drift_apart_if_ddp_knew_only_what_trains_at_first(two):
    one, other = (report["asleep"]["seen"] for report in two)

    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_run_of_two_goes_on_in_every_bit_each_process_with_its_own_dropout(two, folder):
    from zoo.bundle.checkpoints import read_checkpoint

    one, other = (report["resumed"] for report in two)
    state = read_checkpoint(folder / "run" / "checkpoint-00000007").state

    assert one == other
    assert one["on"] == one["whole"]
    assert not torch.equal(state["generators"]["torch"], state["others"][0]["generators"]["torch"])


def test_a_run_of_two_is_not_gone_on_with_by_one(two, folder):
    model = build([{**KIND, "dropout": 0.5}], "timm:test_resnet")
    settings = {**COMMON, "batch_size": 4, "epochs": 2, "ema": 0.8, "keep_checkpoints": 50, "checkpoint_every": 1}

    with pytest.raises(zoo.ConfigError, match="the number of processes 2, and this one has 1"):
        zoo.fit(model, table(), **settings, checkpoint=folder / "run", resume=True)


def test_ctrl_c_in_one_process_ends_all_after_the_same_step_with_one_checkpoint(two, folder):
    one, other = (report["interrupted"] for report in two)

    assert one == other
    assert "after step 3 of" in one["told"]
    assert [path.name for path in sorted((folder / "stopped").glob("checkpoint-*"))] == ["checkpoint-00000003"]


def test_the_first_process_computes_kept_features_and_the_other_reads_them(two):
    one, other = (report["kept"] for report in two)

    assert (one["computed"], other["computed"]) == ([ROWS], [])
    assert (one["last"], one["epochs"]) == (other["last"], other["epochs"])


def test_only_the_first_process_tells(two):
    assert two[0]["lines"] > 10
    assert two[1]["lines"] == 0


def test_all_processes_stop_at_a_loss_that_is_no_number_and_name_the_same_samples(two):
    one, other = (report["diverged"] for report in two)

    assert one == other
    assert one[0] == "TrainingError"
    assert "The loss became nan" in one[1]
    assert "picture 6" in one[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other rows", "All processes must have the same rows, in the same order"),
        ("auto", "run zoo advise first"),
        ("deepspeed", "not with DeepSpeed"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_in_all_of_them(name, told, two):
    assert two[0][name] == two[1][name]
    assert two[0][name][0] == "ConfigError"
    assert told in two[0][name][1]


def test_where_the_first_process_fails_the_others_fail_instead_of_waiting(two):
    assert two[0]["failing"] == "no room"
    assert two[1]["failing"] == "The first of the processes ended: no room"


def test_one_process_may_evaluate_while_the_other_does_not(two):
    assert two[0]["alone"] == zoo.evaluate(build([KIND]), table(20), device="cpu")


@pytest.mark.parametrize("count", [3, 5, 16, 18, 22, 37, 48])
def test_a_batch_is_divided_without_a_row_twice_and_as_one_process_would_have_it(count):
    parts = [
        list(DividedBatches(range(count), count, batch_size=4, ranks=Ranks(number, 3), epoch=int))
        for number in range(3)
    ]

    joined = [[row for batch in batches for row in batch] for batches in zip(*parts, strict=True)]
    whole = [list(range(start, min(start + 12, count))) for start in range(0, count, 12)]
    assert joined == [batch for batch in whole if len(batch) >= 6 or len(whole) == 1]
    for batches in zip(*parts, strict=True):
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(zoo.ConfigError, match="2 training rows cannot be divided among 3 processes"):
        DividedBatches(range(2), 2, batch_size=4, ranks=Ranks(0, 3), epoch=int)


# --- the command line


def launched(folder, *more, during=None):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "zoo", "fit"]
    options = ["--backbone", "timm:test_resnet", "--weights", "none", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ZOO_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [*command, str(folder / "pictures"), *options, *more], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        if during is not None:
            during(process)
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def draw_pictures(folder):
    for kind, light in (("dark", 60), ("light", 180)):
        (folder / "pictures" / kind).mkdir(parents=True)
        for n in range(13):
            Image.new("RGB", (40, 40), (light, light + n, light - n)).save(folder / "pictures" / kind / f"{n}.png")


def once_training(run, then):
    def wait(process):
        until = time.monotonic() + 100
        while not (run / "history.jsonl").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        then(process)

    return wait


def test_torchrun_fits_saves_one_bundle_tells_once_and_an_error_is_said_once(tmp_path):
    draw_pictures(tmp_path)
    out, run = tmp_path / "out", tmp_path / "run"

    done = launched(tmp_path, "--out", str(out), "--checkpoint", str(run), "--json", "--epochs", "2")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # one object, and nothing else
    assert [row["epoch"] for row in told["epochs"]] == [1, 2]
    assert len((run / "history.jsonl").read_text().splitlines()) == 2
    assert done.stderr.count("epoch   1 ") == 1
    assert zoo.load(out)(torch.zeros(1, 3, 160, 160))["label"].shape == (1, 2)

    failed = launched(tmp_path, "--out", str(tmp_path / "other"), "--checkpoint", str(run))

    assert failed.returncode != 0
    assert failed.stdout == ""
    assert failed.stderr.count("holds checkpoints of a run") == 1
    assert failed.stderr.count("error: ") == 1
    assert not (tmp_path / "other").exists()


def test_an_error_in_one_process_ends_both_and_is_said_once(tmp_path):
    draw_pictures(tmp_path)
    gone = tmp_path / "pictures" / "dark" / "3.png"  # a row of one process in each epoch
    options = ("--epochs", "5000", "--validation", "0", "--batch-size", "4")

    failed = launched(
        tmp_path, "--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "run"), *options,
        during=once_training(tmp_path / "run", lambda process: gone.unlink()),
    )  # fmt: skip

    assert failed.returncode == 1
    assert failed.stderr.count("error: ") == 1
    assert "3.png is gone since the run began" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_at_torchrun_writes_one_checkpoint_and_says_how_to_go_on(tmp_path):
    draw_pictures(tmp_path)

    stopped = launched(
        tmp_path, "--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "run"), "--epochs", "5000",
        during=once_training(tmp_path / "run", lambda process: process.send_signal(signal.SIGINT)),
    )  # fmt: skip

    assert stopped.returncode != 0
    assert stopped.stderr.count("Go on, in 2 processes again, with: zoo fit ") == 1
    assert stopped.stderr.count("error: interrupted") == 1
    assert sorted((tmp_path / "run").glob("checkpoint-*"))


if __name__ == "__main__":
    worker(Path(sys.argv[1]), int(os.environ["RANK"]))

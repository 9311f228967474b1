"""Two processes that hold one model in pieces (FSDP): they learn what one process learns, and end with it whole.

Both run every scenario below one after the other, since to start them takes longer than to train; each writes down what
it saw, and the tests read that. What is compared with runs of whole models is in ``test_distributed.py``, too.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.training import engine, sharding
from zoo.training.ranks import join
from zoo.training.resuming import checkpointing, runfolder

VIT, RESNET = "timm:test_vit?img_size=32", "timm:test_resnet"
KIND = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
AGE = {"type": "regression", "name": "age"}
ROWS = 46
COMMON = {"epochs": 4, "batch_size": 8, "lr": 1e-3, "device": "cpu"}
SGD = {"optimizer": "sgd", "lr": 0.03}
"""Adam moves what has no gradient but rounding as far as everything else."""


def table(*, nan=None, **columns):
    noise = torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if nan is not None:
        noise[nan] = torch.nan
    images = tuple(TensorSample(f"picture {n}", image + 0.7 * (n % 2)) for n, image in enumerate(noise))
    columns = columns or {"kind": ("text", ["ab"[n % 2] for n in range(ROWS)])}
    made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
    return Table("made-up pictures", {"image": images}, made, None)


def few_ages():
    """Make a table of whose rows a few have an age, so that most batches have none for a process, or for both."""
    ages = [n / 10 if n in (3, 4, 30) else None for n in range(ROWS)]
    kinds = ["ab"[n % 2] if n < 25 else None for n in range(ROWS)]
    return table(kind=("text", kinds), age=("number", ages))


RUNS = {
    "gradual": ([KIND], table, {"method": "gradual_unfreezing", **SGD}),
    "missing": ([KIND, AGE], few_ages, {"method": "gradual_unfreezing", "validation": 0.0, "epochs": 3, **SGD}),
    "unused": ([KIND, AGE], few_ages, {"freeze": "heads.age", "select": "kind/accuracy", "epochs": 2, **SGD}),
    "accumulated": ([KIND], table, {"accumulate": 2, "ema": 0.9, "epochs": 2, "clip": 0.5, **SGD}),
    "prefix": ([KIND], table, {"method": "partial", "epochs": 2, **SGD}),
    "heads": ([KIND], table, {"method": "feature_extraction", "epochs": 2, **SGD}),
}
"""Runs that one process does, too: the heads, the data, the settings."""
NORMS = ([KIND], table, {"epochs": 2, "backbone": RESNET, **SGD})
"""A run with batch norm, which takes the statistics of each process's own rows."""


def build(heads=(KIND,), backbone=VIT):
    return zoo.build(backbone, [dict(head) for head in heads], weights=None, seed=0)


def train(name, processes, **more):
    heads, data, settings = RUNS.get(name, NORMS)
    settings = {**COMMON, **settings, **more}
    model = build(heads, settings.pop("backbone", VIT))
    return model, zoo.fit(model, data(), **{**settings, "batch_size": settings["batch_size"] // processes})


def digest(model):
    told = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        told.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


def epochs_of(history):
    rows = history.as_json()["epochs"]
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory")} for row in rows]


def outside(model):
    """Give what others see of a model's modules: classes, attributes, and how many hooks there are of each kind."""
    return [
        [type(module).__name__, sorted(vars(module)), [len(vars(module)[name]) for name in sorted(vars(module))
         if name.endswith("_hooks")]]
        for module in model.modules()
    ]  # fmt: skip


# --- what both processes do


class Held(TrainerCallback):
    """Notes how many numbers this process holds right before a step is taken, and how many the whole has."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **more):
        pieces = [each for each in model.parameters() if isinstance(each, DTensor)]
        grads = [each.grad for each in pieces if each.grad is not None]
        self.seen.append({
            "own": sum(each.to_local().numel() for each in pieces), "whole": sum(each.numel() for each in pieces),
            "gradients": sum(each.to_local().numel() for each in grads),
            "whole gradients": sum(each.numel() for each in grads),
            "plain": sum(each.numel() for each in model.parameters() if not isinstance(each, DTensor)),
        })  # fmt: skip

    def on_optimizer_step(self, args, state, control, optimizer=None, **more):
        held = [value for one in optimizer.state.values() for value in one.values() if isinstance(value, DTensor)]
        self.seen[-1]["state"] = sum(value.to_local().numel() for value in held)


@contextmanager
def watched(report):
    """Note what is held in each step, and the weights that are judged."""
    held, seen = Held(), []
    make, evaluate = engine.Engine.__init__, engine.measure

    def begin(self, *given, **more):
        make(self, *given, **more)
        self.add_callback(held)

    def spy(model, *given, **more):
        seen.append(digest(model))
        return evaluate(model, *given, **more)

    with mock.patch.object(engine.Engine, "__init__", begin), mock.patch.object(engine, "measure", spy):
        yield
    report |= {"held": held.seen, "seen": seen}


def compared(name, folder, number, **more):
    report = {}
    with watched(report):
        model, history = train(name, 2, sharded=True, **more)
    torch.save(model.state_dict(), folder / f"{name}-{number}.pt")
    plain = not any(isinstance(each, DTensor) for each in model.state_dict().values())
    return report | {"epochs": epochs_of(history), "best": history.best_epoch, "last": digest(model), "plain": plain}


def whole_again():
    """Train in pieces and whole, and tell whether one can see of the model which it was."""
    models = build(), build()
    known = [id(each) for each in models[0].parameters()]
    for model, sharded in zip(models, (True, False), strict=True):
        zoo.fit(model, table(), **{**COMMON, "epochs": 1, "sharded": sharded})
    one, other = map(outside, models)
    told = [list(pair) for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    return {"different": told, "known": known == [id(each) for each in models[0].parameters()]}


def resumed(folder, number):
    """Train with dropout, batch norm, Adam, an average and a checkpoint after each step; go on from within an epoch."""
    settings = {**COMMON, "batch_size": 4, "epochs": 2, "ema": 0.8, "keep_checkpoints": 50, "checkpoint_every": 1}
    heads = [{**KIND, "dropout": 0.5}]
    model = build(heads, RESNET)
    report = {}
    with watched(report):
        history = zoo.fit(model, table(), **settings, sharded=True, checkpoint=folder / "run")
    if number == 0:
        for name in ("again", "other"):
            for step in (1, 2, 7):
                shutil.copytree(folder / "run" / f"checkpoint-{step:08d}", folder / name / f"checkpoint-{step:08d}")
    join(torch.device("cpu")).same(None)
    again = build(heads, RESNET)
    on = zoo.fit(again, table(), **settings, sharded=True, checkpoint=folder / "again", resume=True)
    other = build(heads, RESNET)
    told = refused(lambda: zoo.fit(other, table(), **settings, checkpoint=folder / "other", resume=True))
    found = {"whole": [digest(model), epochs_of(history)], "on": [digest(again), epochs_of(on)], "by DDP": told}
    return report | found


def launched():
    report = {}
    with mock.patch.dict(os.environ, ACCELERATE_USE_FSDP="true"), watched(report):
        _, history = train("unused", 2)
    return {"settings": history.settings["sharded"], "held": report["held"]}


def diverged():
    model = build()
    told = refused(lambda: zoo.fit(model, table(nan=6), **COMMON, validation=0.0, sharded=True))
    return {"told": told, "finite": all(bool(each.isfinite().all()) for each in model.parameters()),
            "last": digest(model)}  # fmt: skip


def refused(call):
    try:
        call()
    except zoo.ZooError as error:
        return [type(error).__name__, str(error)]
    return []


REFUSED = {
    "objective": ({"method": "distillation", "settings": True}, "looks at a whole one"),
    "solver": ({"method": "feature_extraction", "solver": "lbfgs"}, "solver='lbfgs' needs all weights"),
    "compile": ({"compile": True}, "compile=True makes code"),
    "fp16": ({"precision": "fp16"}, "precision='fp16' scales losses"),
    "adafactor": ({"optimizer": "adafactor"}, "Adafactor keeps sums"),
    "balancing": ({"heads": "balanced"}, "balances by whole weights"),
    "learning": ({"heads": "prototype"}, "learns from features of a whole one"),
    "offloaded": ({"offload": True}, "launch without --fsdp_offload_params"),
}
HEADS = {
    "balanced": [{"type": "multi_task", "name": "both", "heads": [KIND, AGE], "balance": "uncertainty"}],
    "prototype": [{**KIND, "type": "prototype"}],
}


def refusal(more):
    more = dict(more)
    heads, rows = HEADS.get(more.pop("heads", None), [KIND]), few_ages
    if more.pop("settings", False):
        more["teacher"] = build()
    set_ = {"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"} if more.pop("offload", False) else {}
    with mock.patch.dict(os.environ, set_):
        return refused(lambda: zoo.fit(build(heads), rows(), **{**COMMON, "sharded": True, **more}))


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
    ):
        yield


def worker(folder, number):
    torch.set_num_threads(1)
    warnings.filterwarnings("error", message="FSDP")
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=100))
    with writing_nothing(number):
        report = {name: compared(name, folder, number) for name in [*RUNS, "norms"]}
        report["ddp"] = digest_of_ddp(folder, number)
        report["bf16"] = compared("gradual", folder / "bf16", number, precision="bf16", epochs=1)["last"]
        report["resumed"] = resumed(folder, number)
    report["whole"] = whole_again()
    report["launched"] = launched()
    report["diverged"] = diverged()
    report["refused"] = {name: refusal(more) for name, (more, _) in REFUSED.items()}
    (folder / f"{number}.json").write_text(json.dumps(report))


def digest_of_ddp(folder, number):
    model, _ = train("norms", 2)
    torch.save(model.state_dict(), folder / f"ddp-{number}.pt")
    return digest(model)


# --- what is seen of it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pieces")
    (made / "bf16").mkdir()
    return made


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
        told = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS, "norms"])
def test_two_processes_end_with_the_same_whole_model_and_judge_the_same_one(name, two):
    one, other = (report[name] for report in two)

    for what in ("seen", "epochs", "best", "last"):
        assert one[what] == other[what]
    assert [one["plain"], other["plain"]] == [True, True]
    assert len(set(one["seen"])) == (0 if name == "missing" else len(one["epochs"]))


@pytest.mark.slow
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


@pytest.mark.slow
def test_with_batch_norm_pieces_learn_what_whole_models_learn_in_as_many_processes(two, folder):
    pieces, whole = (torch.load(folder / f"{name}-0.pt", weights_only=True) for name in ("norms", "ddp"))

    assert two[0]["ddp"] == two[1]["ddp"]
    for key, tensor in whole.items():
        torch.testing.assert_close(pieces[key], tensor, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_each_process_holds_about_half_of_weights_gradients_and_optimizer_state(two):
    one, other = (report["resumed"]["held"][-1] for report in two)

    for mine, whole in (("own", "whole"), ("gradients", "whole gradients")):
        assert one[mine] + other[mine] == one[whole]
        assert one[mine] == pytest.approx(one[whole] / 2, rel=0.05)
    assert one["whole gradients"] > 0.99 * one["whole"]
    assert one["state"] == 2 * one["gradients"]  # Adam has two numbers for each
    assert other["state"] == 2 * other["gradients"]


@pytest.mark.slow
def test_what_gradual_unfreezing_lets_rest_has_no_gradient_in_any_process(two):
    for report in two:
        gradients = [step["whole gradients"] for step in report["gradual"]["held"]]
        assert len(set(gradients)) > 1
        assert gradients == sorted(gradients)
        assert gradients[0] < 0.01 * report["gradual"]["held"][0]["whole"]


@pytest.mark.slow
def test_where_features_are_kept_what_makes_them_is_not_divided(two):
    whole = sum(each.numel() for each in build().parameters())
    heads = sum(each.numel() for each in build().heads.parameters())

    assert [two[0][name]["held"][0]["plain"] for name in ("launched", "heads")] == [0, 0]
    assert two[0]["heads"]["held"][0]["whole"] == heads + 1
    assert 0 < two[0]["prefix"]["held"][0]["plain"] < whole
    assert two[0]["prefix"]["held"][0]["plain"] + two[0]["prefix"]["held"][0]["whole"] == whole + 1


@pytest.mark.slow
def test_a_run_in_pieces_goes_on_in_every_bit(two):
    one, other = (report["resumed"] for report in two)

    assert (one["whole"], one["on"]) == (other["whole"], other["on"])
    assert one["on"] == one["whole"]


@pytest.mark.slow
def test_a_checkpoint_of_pieces_holds_whole_tensors_and_goes_on_in_pieces_only(two, folder):
    from zoo.bundle.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(folder / "run" / "checkpoint-00000007")
    model = build([{**KIND, "dropout": 0.5}], RESNET)
    checkpoint.pour(model)

    shapes = {tuple(each.shape) for each in model.parameters()}
    moments = [one["exp_avg"] for one in checkpoint.state["optimizer"]["state"].values()]
    assert sum(each.numel() for each in moments) == sum(each.numel() for each in model.parameters())
    assert {tuple(each.shape) for each in moments} == shapes
    assert [report["resumed"]["by DDP"][0] for report in two] == ["ConfigError", "TrainingError"]
    for report in two:  # the second process tells that the first one ended
        assert "sharded True, and this one has False" in report["resumed"]["by DDP"][1]


@pytest.mark.slow
def test_after_a_run_the_model_is_the_module_that_it_was(two):
    assert [report["whole"] for report in two] == [{"different": [], "known": True}] * 2


@pytest.mark.slow
def test_the_launchers_word_for_it_is_heard_too(two):
    for report in two:
        assert report["launched"]["settings"] is True
        assert report["launched"]["held"][0]["own"] < 0.55 * report["launched"]["held"][0]["whole"]


@pytest.mark.slow
def test_bf16_is_what_the_passes_run_in(two):
    assert two[0]["bf16"] == two[1]["bf16"]
    assert two[0]["bf16"] != two[0]["gradual"]["last"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_all_and_leaves_each_a_whole_model(two):
    one, other = (report["diverged"] for report in two)

    assert one == other
    assert one["told"][0] == "TrainingError"
    assert "picture 6" in one["told"][1]
    assert one["finite"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_whole_model_is_refused_by_name(name, two):
    for report in two:
        kind, told = report["refused"][name]
        assert kind == "ConfigError"
        assert REFUSED[name][1] in told


@pytest.mark.slow
def test_torchrun_fits_in_pieces_and_saves_one_whole_bundle(tmp_path):
    for kind, light in (("dark", 60), ("light", 180)):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for n in range(13):
            Image.new("RGB", (40, 40), (light, light + n, light - n)).save(tmp_path / "pictures" / kind / f"{n}.png")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "zoo",
    ]
    options = ["--backbone", RESNET, "--weights", "none", "--epochs", "1", "--device", "cpu", "--json", "--sharded"]

    done = subprocess.run(
        [*command, "fit", str(tmp_path / "pictures"), "--out", str(out), *options], env=os.environ | {
            "OMP_NUM_THREADS": "1", "ZOO_CACHE": str(tmp_path / "cache")}, text=True, capture_output=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["sharded"] is True
    assert zoo.load(out)(torch.zeros(1, 3, 160, 160))["label"].shape == (1, 2)


def test_one_process_has_nothing_to_divide():
    with pytest.raises(zoo.ConfigError, match=r"sharded=True divides a model over several processes"):
        zoo.fit(build(), table(), **COMMON, sharded=True)


def test_sharded_is_true_or_false():
    with pytest.raises(zoo.ConfigError, match="sharded must be True or False, got 'yes'"):
        zoo.fit(build(), table(), **COMMON, sharded="yes")


class Toy(nn.Module):
    """Four layers: one called past itself, one that gives a view, one called twice, and one like any other."""

    def __init__(self):
        super().__init__()
        self.past, self.view, self.twice, self.plain = nn.Linear(4, 4), Viewed(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = nn.functional.linear(x, self.past.weight) + self.past(x)
        return self.plain(self.twice(self.twice(self.view(x))))


class Viewed(nn.Linear):
    def forward(self, x):
        return super().forward(x).view(-1, 4)


def test_only_modules_that_use_their_own_weights_once_in_a_pass_are_put_together_by_themselves():
    toy = Toy()
    was = [dict(vars(each)) for each in toy.modules()]

    uses = sharding._watched(toy, lambda: toy(torch.ones(2, 4)))

    assert [name for name, layer in toy.named_children() if uses.fits(layer)] == ["plain"]
    assert [dict(vars(each)) for each in toy.modules()] == was


def test_a_unit_has_at_most_a_quarter_of_the_weights_if_it_has_parts():
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(5)))
    whole = nn.Sequential(blocks, nn.Linear(8, 1))
    uses, found = sharding._watched(whole, lambda: whole(torch.ones(2, 8))), []

    sharding._walk(whole, uses, sum(each.numel() for each in whole.parameters()), found)

    assert found == [*blocks, whole[1]]


def test_a_parameter_of_no_dimension_is_refused():
    toy = Toy()
    toy.scale = nn.Parameter(torch.ones(()))

    with pytest.raises(zoo.ConfigError, match="divides each parameter along its first dimension, and scale has none"):
        sharding.Sharding(toy, [], set(), torch.device("cpu"))


if __name__ == "__main__":
    worker(Path(sys.argv[1]), int(os.environ["RANK"]))

"""``zoo fit --checkpoint`` and ``--resume``, and Ctrl-C in between."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from zoo.training.engine import Engine

TINY = ("--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "2", "--batch-size", "8", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def at_step(monkeypatch):
    """Press Ctrl-C before a step of training, counted from 1."""

    def hook(number):
        step, seen = Engine.training_step, []

        def spy(*args):
            seen.append(None)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGINT)
            return step(*args)

        monkeypatch.setattr(Engine, "training_step", spy)

    return hook


def weights(bundle):
    """Give the digests of a bundle's parts."""
    return {part["path"]: part["state_digest"] for part in json.loads((bundle / "zoo.json").read_bytes())["components"]}


@pytest.mark.slow
def test_ctrl_c_says_the_very_command_that_goes_on_and_it_ends_as_if_never_stopped(zoo, pets, tmp_path, at_step):
    runs, out = tmp_path / "my runs", tmp_path / "out"
    assert zoo("fit", pets, "--out", tmp_path / "whole", *TINY).code == 0
    at_step(3)

    stopped = zoo("fit", pets, "--out", out, *TINY, "--checkpoint", runs, "--ema", "0.9", "--json")

    assert stopped.code == 130
    assert "after step 3 of 4" in stopped.err
    assert not out.exists()
    command = stopped.err.partition("Go on with: ")[2].splitlines()[0]
    words = shlex.split(command)
    assert words[:3] == ["zoo", "fit", str(pets)]
    assert words[-1] == "--resume"
    resumed = zoo(*words[1:])
    assert resumed.code == 0
    assert len(resumed.json["epochs"]) == 2
    whole = zoo("fit", pets, "--out", tmp_path / "whole", *TINY, "--ema", "0.9", "--overwrite")
    assert whole.code == 0
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_checkpoint_is_verified_and_inspected_like_any_bundle(zoo, pets, tmp_path):
    assert zoo("fit", pets, "--out", tmp_path / "out", *TINY, "--checkpoint", tmp_path / "run").code == 0
    newest = tmp_path / "run" / "checkpoint-00000004"

    assert zoo("verify", newest).code == 0
    assert zoo("inspect", newest, "--json").json["kind"] == "checkpoint"
    assert "checkpoint" in zoo("inspect", newest).out
    refused = zoo("upgrade", newest)
    assert refused.code == 2
    assert "is a checkpoint of a run; go on with the run" in refused.err


@pytest.mark.slow
def test_a_run_file_says_the_same(zoo, pets, tmp_path, at_step):
    file = tmp_path / "run.json"
    said = {
        "data": str(pets),
        "out": str(tmp_path / "out"),
        "backbone": "timm:test_resnet",
        "weights": "none",
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        "ema": 0.9,
        "checkpoint": str(tmp_path / "run"),
        "checkpoint_every": 1,
        "keep_checkpoints": 1,
    }
    file.write_text(json.dumps(said))
    at_step(2)

    stopped = zoo("fit", "--file", file)

    assert stopped.code == 130
    assert f"Go on with: zoo fit --file {file} --resume" in stopped.err
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert zoo("fit", "--file", file, "--resume").code == 0


@pytest.mark.slow
def test_a_resumed_run_that_differs_is_refused_in_one_line(zoo, pets, tmp_path):
    assert zoo("fit", pets, "--out", tmp_path / "out", *TINY, "--checkpoint", tmp_path / "run").code == 0

    refused = zoo(
        "fit", pets, "--out", tmp_path / "2", *TINY, "--checkpoint", tmp_path / "run", "--resume", "--lr", "1"
    )

    assert refused.code == 2
    assert "lr 0.001, and this one has 1.0" in refused.err.splitlines()[-1]
    assert not (tmp_path / "2").exists()


@pytest.mark.slow
def test_a_process_that_gets_ctrl_c_ends_with_130_and_a_checkpoint(pets, tmp_path):
    command = [sys.executable, "-m", "zoo.cli", "fit", str(pets), "--out", str(tmp_path / "out"), *TINY]
    command[command.index("--epochs") + 1] = "100000"
    run = tmp_path / "run"
    child = subprocess.Popen([*command, "--checkpoint", str(run)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 100
    while not list(run.glob("checkpoint-*")) and time.monotonic() < until:
        time.sleep(0.05)

    child.send_signal(signal.SIGINT)
    told = child.communicate(timeout=60)[1].decode()

    assert child.returncode == 130
    assert "Finishing this step and writing a checkpoint" in told
    assert f"Go on with: zoo fit {pets} " in told
    assert f"--checkpoint {run} " in told
    assert "Traceback" not in told
    assert list(run.glob("checkpoint-*"))

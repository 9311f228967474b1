"""Runs that are killed again and again, some of them inside a checkpoint, end as the run that never stopped."""

import gc
import json
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SETTINGS = {
    "method": "gradual_unfreezing",
    "epochs": 4,
    "batch_size": 4,
    "lr": 0.01,
    "device": "cpu",
    "ema": 0.8,
    "select": "loss",
    "warmup": 0.1,
}


@pytest.fixture
def child(model, table, tmp_path):
    """Train in a child process, which has everything imported already; what it ends with is left in a folder."""
    labels = {
        "kind": ("text", ["ab"[n % 2] if n % 5 else None for n in range(16)]),
        "age": ("number", [float(n) if n % 3 else None for n in range(16)]),
    }

    def build():
        kind = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "dropout": 0.3}
        return model(kind, {"type": "regression", "name": "age"})

    data = table(rows=16, **labels)
    if not torch.cuda.is_available():  # no thread of autograd's is then in the way of a fork
        zoo.fit(build(), data, **SETTINGS | {"epochs": 1}, checkpoint=tmp_path / "warm")
    gc.collect()
    gc.freeze()

    def start(name, fault=lambda: None, **more):
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            one = build()
            fault()
            history = zoo.fit(one, data, **SETTINGS, **more)
            told = history.as_json() | {"seconds": 0}
            for row in told["epochs"]:
                row["seconds"] = row["memory"] = 0
            save_file(one.state_dict(), tmp_path / f"{name}.safetensors")
            (tmp_path / f"{name}.json").write_text(json.dumps(told))
            code = 0
        finally:
            os._exit(code)

    yield start
    gc.unfreeze()


def killer(number, when):
    """Give what has a process killed by its own ``number``-th call of a function of the system, half done."""

    def fault():
        real, left = getattr(os, when), [number]

        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if when == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, when, counted)

    return fault


@pytest.mark.parametrize(
    "times", [pytest.param(10, marks=pytest.mark.timeout(300)), pytest.param(100, marks=pytest.mark.soak)]
)
def test_a_run_that_is_killed_at_random_moments_ends_as_the_run_that_never_stopped(child, tmp_path, times):
    begun = time.monotonic()
    assert os.waitpid(child("whole"), 0)[1] == 0
    lasts = time.monotonic() - begun
    expected, history = load_file(tmp_path / "whole.safetensors"), json.loads((tmp_path / "whole.json").read_text())
    dice = random.Random(7)
    killed = {"clock": 0, "write": 0, "fsync": 0}
    ended = 0
    while sum(killed.values()) < times or ended == 0:
        run = tmp_path / f"run-{ended}"
        enough = sum(killed.values()) >= times
        how = list(killed)[sum(killed.values()) % len(killed)]  # each in turn
        fault = killer(dice.randrange(1, 40), how) if how != "clock" and not enough else lambda: None
        there = sorted(run.glob("checkpoint-*"))
        pid = child("killed", fault, checkpoint=run, checkpoint_every=2, resume=bool(there))
        if how == "clock" and not enough:
            time.sleep(dice.uniform(0.0, lasts))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed[how] += 1
            assert all(zoo.verify(path).ok for path in run.glob("checkpoint-*"))
            continue

        assert os.WEXITSTATUS(status) == 0
        got = load_file(tmp_path / "killed.safetensors")
        assert got.keys() == expected.keys()
        assert all(torch.equal(value, got[key]) for key, value in expected.items())
        assert json.loads((tmp_path / "killed.json").read_text()) == history
        assert len(list(run.glob("checkpoint-*"))) == 2
        assert not list(run.glob(".checkpoint-*"))
        ended += 1
    assert all(killed.values()), killed

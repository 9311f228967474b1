"""Runs that are killed again and again, some of them inside a checkpoint, end as the run that never stopped."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.data import Column, Table, TensorSample

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


def data():
    """Make pictures of noise, of which some lack a label."""
    noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = tuple(TensorSample(f"picture {n}", one + 1.5 * (n % 2)) for n, one in enumerate(noise))
    kinds = Column("kind", "text", tuple("ab"[n % 2] if n % 5 else None for n in range(16)))
    ages = Column("age", "number", tuple(float(n) if n % 3 else None for n in range(16)))
    return Table("made-up pictures", {"image": pictures}, {"kind": kinds, "age": ages})


def build():
    kind = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "dropout": 0.3}
    return zoo.build("timm:test_resnet", [kind, {"type": "regression", "name": "age"}], weights=None, seed=0)


def starter(rows, folder):
    """Give what trains in a child process, which has everything imported already and leaves its end in a folder."""

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
            history = zoo.fit(one, rows, **SETTINGS, **more)
            told = history.as_json() | {"seconds": 0}
            for row in told["epochs"]:
                row["seconds"] = row["memory"] = 0
            save_file(one.state_dict(), folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(told))
            code = 0
        finally:
            os._exit(code)

    return start


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "times", [pytest.param(10, marks=pytest.mark.timeout(300)), pytest.param(100, marks=pytest.mark.soak)]
)
def test_a_run_that_is_killed_at_random_moments_ends_as_the_run_that_never_stopped(tmp_path, times):
    """All of it in a process of its own, whose children are forked where no other test has left a thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(times), str(tmp_path)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-4000:]
    assert told.stdout.split()[-1] == "equal"


def kill_and_go_on(times, folder):
    """Kill the run so many times, let it go on each time, and compare its end with that of one that never stopped."""
    torch.set_num_threads(1)
    rows = data()
    if not torch.cuda.is_available():  # no thread of autograd's is then in the way of a fork
        zoo.fit(build(), rows, **SETTINGS | {"epochs": 1}, checkpoint=folder / "warm")
    gc.collect()
    gc.freeze()
    child = starter(rows, folder)
    begun = time.monotonic()
    assert os.waitpid(child("whole"), 0)[1] == 0
    lasts = time.monotonic() - begun
    expected, history = load_file(folder / "whole.safetensors"), json.loads((folder / "whole.json").read_text())
    dice = random.Random(7)
    killed = {"clock": 0, "write": 0, "fsync": 0}
    ended = 0
    while sum(killed.values()) < times or ended == 0:
        run = folder / f"run-{ended}"
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
        got = load_file(folder / "killed.safetensors")
        assert got.keys() == expected.keys()
        assert all(torch.equal(value, got[key]) for key, value in expected.items())
        assert json.loads((folder / "killed.json").read_text()) == history
        assert len(list(run.glob("checkpoint-*"))) == 2
        assert not list(run.glob(".checkpoint-*"))
        ended += 1
    assert all(killed.values()), killed
    print("equal")


if __name__ == "__main__":
    kill_and_go_on(int(sys.argv[1]), Path(sys.argv[2]))

"""Balanced tasks in two processes, one of which sees no label of a task: they go on together, and agree."""

import copy
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.training.step import Step

STEPS = 2
BALANCES = ["fixed", "uncertainty", "gradnorm", "pcgrad"]


def objective(balance):
    heads = [{"type": "classifier", "name": "kind", "classes": ["a", "b"]}, {"type": "regression", "name": "age"}]
    head = zoo.head("multi_task", name="all", heads=heads, balance=balance)
    return Step(zoo.build("timm:test_resnet", head, weights=None, seed=0)).train()


def batch(rank, step):
    """Draw a batch; the second process has no age in its first one, neither for any row nor as an entry later."""
    drawn = torch.Generator().manual_seed(10 * rank + step)
    inputs = torch.randn(4, 3, 32, 32, generator=drawn)
    kinds = torch.randint(2, (4,), generator=drawn)
    ages = torch.randn(4, generator=drawn)
    targets = {"kind": kinds, "age": ages if rank == 0 else torch.full((4,), torch.nan)}
    if rank == 1 and step == 1:
        targets = {"kind": kinds}
    return {"targets": targets, "inputs": {"image": inputs}}


def optimizer_of(module):
    return torch.optim.Adam(module.parameters(), lr=1e-3)


def worker(rank, folder):
    """Train with each balance in turn as one of two processes: to start them takes longer than to train."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=(folder / "meet").as_uri(), rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    for balance in BALANCES:
        train(rank, balance, folder)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(rank, balance, folder):
    """Take a few steps; write down the first gradients and the last state."""
    module = DistributedDataParallel(objective(balance))
    optimizer = optimizer_of(module)
    gradients = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        module(**batch(rank, step))["loss"].backward()
        gradients = gradients or {name: p.grad.clone() for name, p in module.module.named_parameters()}
        optimizer.step()
    state = {name: value.clone() for name, value in module.module.state_dict().items()}
    torch.save({"gradients": gradients, "state": state}, folder / f"{balance}-{rank}.pt")


def by_hand(balance):
    """Do the same in one process: two copies, gradients averaged, buffers taken from the first before each step."""
    copies = [objective(balance), objective(balance)]
    optimizers = [optimizer_of(one) for one in copies]
    gradients = {}
    for step in range(STEPS):
        for buffer, first in zip(copies[1].buffers(), copies[0].buffers(), strict=True):
            buffer.copy_(copy.deepcopy(first))
        for rank, one in enumerate(copies):
            one.zero_grad()
            one(**batch(rank, step))["loss"].backward()
        for mine, other in zip(*(one.parameters() for one in copies), strict=True):
            mean = (mine.grad + other.grad) / 2
            mine.grad, other.grad = mean, mean.clone()
        gradients = gradients or {name: p.grad.clone() for name, p in copies[0].named_parameters()}
        for optimizer in optimizers:
            optimizer.step()
    return gradients, copies[0].state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Give the folder in which two processes have left what they saw."""
    folder = tmp_path_factory.mktemp("trained")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("balance", BALANCES)
def test_a_process_without_any_label_of_a_task_trains_along_with_the_other(balance, trained):
    one, other = (torch.load(trained / f"{balance}-{rank}.pt", weights_only=True) for rank in range(2))
    gradients, state = by_hand(balance)

    parameters = set(gradients)
    assert all(torch.equal(value, other["state"][name]) for name, value in one["state"].items() if name in parameters)
    torch.testing.assert_close(one["gradients"], gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close({n: one["state"][n] for n in parameters}, {n: state[n] for n in parameters})
    assert any(one["gradients"][name].any() for name in parameters if "age" in name)


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))

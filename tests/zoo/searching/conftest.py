"""Made-up pictures, and a space of networks that are trained in no time."""

from collections.abc import Iterator

import pytest
import torch

from zoo.data import Column, Table, TensorSample
from zoo.searching.spaces import BlockSpace

BASE = "timm:mnasnet_100?img_size=32"
ROWS = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: pictures this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def table() -> Table:
    """Noise; pictures of odd number are brighter."""
    noise = torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = tuple(TensorSample(f"picture {n}", picture + 1.5 * (n % 2)) for n, picture in enumerate(noise))
    kinds = tuple("ab"[n % 2] for n in range(ROWS))
    return Table("made-up pictures", {"image": made}, {"kind": Column("kind", "text", kinds)})


@pytest.fixture
def space() -> BlockSpace:
    stage = {"expansion": [2, 3], "kernel": [3, 5], "depth": [1], "width": [8, 16], "se": [0, 0.25]}
    return BlockSpace(base=BASE, stages=({**stage, "expansion": [1]}, stage), stem_width=(8,), last_width=(16, 32))

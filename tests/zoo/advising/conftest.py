"""Made-up questions, pictures and models; features in a cache of the test's own."""

from collections.abc import Callable, Iterator

import pytest
import torch

import zoo
from zoo.advising.questions import Question
from zoo.data import Column, Table, TensorSample


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch) -> Iterator[None]:
    """Run on one thread, and keep features for this test only."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def classes() -> Callable[..., Question]:
    """Make a question of classes."""

    def make(target, names=None) -> Question:
        target = torch.as_tensor(target)
        names = names or tuple(f"c{n}" for n in range(int(target.max()) + 1))
        return Question("kind", "classes", tuple(names), target, torch.arange(len(target)))

    return make


@pytest.fixture
def labels() -> Callable[..., Question]:
    """Make a question of any number of labels a row."""

    def make(target) -> Question:
        target = torch.as_tensor(target)
        names = tuple(f"l{n}" for n in range(target.shape[1]))
        return Question("tags", "labels", names, target.bool(), torch.arange(len(target)))

    return make


@pytest.fixture
def numbers() -> Callable[..., Question]:
    """Make a question of numbers."""

    def make(target) -> Question:
        target = torch.as_tensor(target, dtype=torch.float64)
        return Question("age", "numbers", (), target, torch.arange(len(target)))

    return make


@pytest.fixture
def table() -> Callable[..., Table]:
    """Make a table of noise, 32 × 32, brighter in odd rows; every keyword is a column: its kind and its labels."""

    def make(rows: int = 40, *, split=None, apart: float = 1.5, **columns) -> Table:
        noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        samples = tuple(TensorSample(f"picture {n}", one + apart * (n % 2)) for n, one in enumerate(noise))
        columns = columns or {"kind": ("text", ["ab"[n % 2] for n in range(rows)])}
        made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
        return Table("made-up pictures", {"image": samples}, made, split)

    return make


@pytest.fixture
def model() -> Callable[..., zoo.Model]:
    """Build a tiny network with random weights and the heads that a table calls for."""

    def make(table: Table, **options) -> zoo.Model:
        return zoo.build("timm:test_resnet", options.pop("heads", None) or zoo.infer_heads(table), weights=None, seed=0)

    return make

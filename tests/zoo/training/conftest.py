"""Made-up pictures that a small network can tell apart, and models to learn them."""

from collections.abc import Callable, Iterator

import pytest
import torch

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.model import Model
from zoo.training import engine

ROWS = 40


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: pictures this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(rows: int = ROWS, seed: int = 0, apart: float = 1.5) -> tuple[TensorSample, ...]:
    """Draw noise; pictures of odd number are brighter."""
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return tuple(TensorSample(f"picture {n}", picture + apart * (n % 2)) for n, picture in enumerate(noise))


@pytest.fixture
def draw() -> Callable[..., tuple[TensorSample, ...]]:
    return pictures


@pytest.fixture
def table() -> Callable[..., Table]:
    """Make a table of pictures; every keyword is a column: its kind and its labels."""

    def make(*, rows: int = ROWS, seed: int = 0, apart: float = 1.5, split=None, **columns) -> Table:
        columns = columns or {"kind": ("text", ["ab"[n % 2] for n in range(rows)])}
        made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
        return Table("made-up pictures", {"image": pictures(rows, seed, apart)}, made, split)

    return make


@pytest.fixture
def model() -> Callable[..., Model]:
    """Build a small model, by default with a classifier of two kinds, always with the same random weights."""

    def build(*heads, backbone: str = "timm:test_resnet", **config) -> Model:
        one = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "norm": True, **config}
        return zoo.build(backbone, heads or one, weights=None, seed=0)

    return build


@pytest.fixture
def state() -> Callable[..., dict[str, torch.Tensor]]:
    """Copy a model's weights and buffers."""

    def copy(model: Model, prefix: str = "") -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in model.state_dict().items() if key.startswith(prefix)}

    return copy


@pytest.fixture
def same() -> Callable[..., bool]:
    """Say whether two states are bit-equal."""

    def equal(one, other) -> bool:
        return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())

    return equal


@pytest.fixture
def snapshots(monkeypatch):
    """Copy the model's state at the end of each epoch."""
    taken = []
    measure = engine.measure

    def spy(model, *rest, **more):
        taken.append({key: value.clone() for key, value in model.state_dict().items()})
        return measure(model, *rest, **more)

    monkeypatch.setattr(engine, "measure", spy)
    return taken

"""Small members: heads of two tasks on tiny networks, with random weights that are always the same."""

from collections.abc import Callable, Iterator

import pytest
import torch
from PIL import Image

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.model import Model

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def member() -> Callable[..., Model]:
    """Build a member with a class and a number as its tasks, or with other heads."""

    def build(backbone: str = "timm:test_resnet", *heads, seed: int = 0, classes=CLASSES, **config) -> Model:
        both = [
            zoo.head("classifier", name="pet", classes=classes, **config),
            zoo.head("regression", name="age"),
        ]
        return zoo.build(backbone, heads or both, weights=None, seed=seed)

    return build


@pytest.fixture
def on_one_backbone(member) -> Callable[[int], list[Model]]:
    """Build members with the same backbone, each with heads of its own."""

    def build(count: int) -> list[Model]:
        models = [member(seed=seed) for seed in range(count)]
        for model in models[1:]:
            model.backbones.load_state_dict(models[0].backbones.state_dict())
        return models

    return build


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((90 + 10 * n, 80), 40 + 60 * n).convert("RGB") for n in range(3)]


@pytest.fixture
def table() -> Callable[..., Table]:
    """Make a table of brighter and darker tensors with a class and a number each."""

    def make(rows: int = 24, seed: int = 0, split=None, **columns) -> Table:
        dice = torch.Generator().manual_seed(seed)
        noise = torch.randn(rows, 3, 32, 32, generator=dice)
        samples = tuple(TensorSample(f"picture {n}", one + n % 3) for n, one in enumerate(noise))
        columns = columns or {
            "pet": ("text", [CLASSES[n % 3] for n in range(rows)]),
            "age": ("number", [float(n % 3) for n in range(rows)]),
        }
        made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
        return Table("made-up pictures", {"image": samples}, made, split)

    return make

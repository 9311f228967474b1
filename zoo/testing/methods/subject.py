"""A small problem for a method: a model, pictures of two kinds, and runs on them with a cache of their own."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from zoo.assembly import build
from zoo.contracts.method import Method
from zoo.contracts.objective import Objective
from zoo.data import Column, PictureSample, Sample, Table, TensorSample
from zoo.model import Model
from zoo.registry import registry
from zoo.spec import BackboneSpec, HeadSpec
from zoo.training.fitting import fit
from zoo.training.judging.history import History

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["EPOCHS", "KIND", "ROWS", "Subject", "own_cache"]

EPOCHS = 4
ROWS = 16
KIND = "kind"
SECOND = "age"
HEAD = {"type": "classifier", "name": KIND, "classes": ["a", "b"], "norm": True}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A method and what it is tried on.

    Args:
        name: The method's name.
        backbone: What to train.
        settings: The method's own settings.
        head: The head that learns the column ``kind``, whose labels are ``a`` and ``b``.
        unlabelled: Rows without labels, for a method that learns from them; None for the kit's own.
        run: Further arguments of ``zoo.fit``.
    """

    name: str
    backbone: str
    settings: Mapping[str, Any]
    head: HeadSpec | Mapping[str, Any] | None
    unlabelled: Table | None
    run: Mapping[str, Any]

    def method(self) -> Method:
        """Make the method."""
        return registry().method_class(self.name).with_settings(self.name, self.settings)

    def model(self, *, tasks: int = 1) -> Model:
        """Build the model, always with the same random weights."""
        one: Any = self.head if self.head is not None else HEAD
        more = [{"type": "regression", "name": SECOND}] * (tasks - 1)
        return build(self.backbone, [one, *more], weights=None, seed=0)

    def fit(self, model: Model, **more: Any) -> History:
        """Train a model by the method on the kit's pictures."""
        objective = self.method().objective(self.prepared())
        asked: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 4, "lr": 1e-2, "device": "cpu"}
        if objective is not None and objective.unlabelled_views:
            asked["unlabelled"] = self.unlabelled or self.table(first=ROWS, objective=objective).without_labels()
        table = self.table(objective=objective).table
        return fit(model, table, method=self.name, **{**asked, **self.run, **self.settings, **more})

    def prepared(self) -> Model:
        """Build a model that the method has prepared."""
        model = self.model()
        self.method().prepare(model)
        return model

    def table(self, *, first: int = 0, objective: Objective | None) -> Pictures:
        """Draw the pictures: Pillow's where the objective varies them or shows them to other models."""
        varied = objective is not None and any((*objective.views, *objective.unlabelled_views, *objective.others))
        spec = next(iter(self.model().spec.streams.values())).backbone
        return Pictures(spec, first, varied=varied)


class Pictures:
    """Noisy pictures of two kinds that differ in brightness; those that are varied are Pillow's.

    Args:
        spec: The backbone that takes them.
        first: Number of the first, by which they are drawn.
        varied: Whether training varies them.
    """

    def __init__(self, spec: BackboneSpec, first: int, *, varied: bool) -> None:
        generator = torch.Generator().manual_seed(first)
        entry = spec.inputs[0]
        shape = (entry.channels or 3, *((entry.size or (64, 64)) if entry.fixed_size else (64, 64)))
        pictures = [torch.randn(shape, generator=generator) + 2 * (row % 2) for row in range(ROWS)]
        self.samples: tuple[Sample, ...] = tuple(
            PictureSample(f"picture {first + row}", _photograph(picture))
            if varied
            else TensorSample(f"picture {first + row}", picture)
            for row, picture in enumerate(pictures)
        )

    @property
    def table(self) -> Table:
        """The pictures with their kind, and with a number for a second task."""
        kinds = Column(KIND, "text", tuple("ab"[row % 2] for row in range(ROWS)))
        numbers = Column(SECOND, "number", tuple(float(row % 2) for row in range(ROWS)))
        return Table("made-up pictures", {"image": self.samples}, {KIND: kinds, SECOND: numbers})

    def without_labels(self) -> Table:
        """Give the pictures alone."""
        return Table("made-up pictures", {"image": self.samples}, {})


def _photograph(picture: Tensor) -> Image.Image:
    """Give a Pillow picture of a normalised tensor."""
    from PIL import Image

    pixels = (128 + 40 * picture.expand(3, -1, -1)).clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@contextmanager
def own_cache() -> Iterator[None]:
    """Keep features and whatever else is kept in a folder that goes away."""
    gc.freeze()  # each run ends with a full collection, which need not go over what was there before
    try:
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"ZOO_CACHE": cache}):
            yield
    finally:
        gc.unfreeze()

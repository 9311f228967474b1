"""An ensemble beside the model that learns: it sees training views, each member in its own form."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.augmentation import Augmentation
from zoo.contracts.method import Plan, StageState
from zoo.data import Column, PictureSample, Table
from zoo.registry import registry

FLIPPED = Augmentation(flip=1.0)


def photographs(rows=4):
    noise = np.random.default_rng(0).integers(0, 255, (rows, 40, 40, 3), dtype=np.uint8)
    samples = tuple(PictureSample(f"photograph {n}", Image.fromarray(one)) for n, one in enumerate(noise))
    return Table("photographs", {"image": samples}, {"kind": Column("kind", "text", tuple("ab" * rows)[:rows])})


def fit_beside(monkeypatch, model, other, **run):
    """Train with another model beside, and give the batches."""
    seen = []

    class Beside(zoo.Objective):
        def __init__(self):
            super().__init__()
            self.others = {"other": other}

        def losses(self, model, batch):
            seen.append(batch)
            return batch.losses

    @dataclass(frozen=True)
    class Method(zoo.Method):
        summary: ClassVar[str] = "has another model beside"

        def objective(self, model, *, seed=0):
            return Beside()

        def plan(self, streams, *, epochs, lr):
            state = StageState(trainable=True, lr=lr)
            names = [f"{stream}.{stage.name}" for stream, one in streams.items() for stage in one.stages]
            return Plan(epochs=(dict.fromkeys([*names, "heads"], state),) * epochs)

    monkeypatch.setattr(registry(), "method_class", lambda name: Method)
    zoo.fit(model, photographs(), method="beside", epochs=1, batch_size=2, device="cpu", validation=0, **run)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("tta", [None, "flip"])
def test_the_members_of_an_ensemble_see_the_very_view_that_the_model_sees(model, monkeypatch, tta):
    members = [model(backbone=f"timm:{name}") for name in ("test_resnet", "test_vit")]
    both = zoo.ensemble(members, tta=tta)
    student = model()

    batches = fit_beside(monkeypatch, student, both, augmentation=FLIPPED)

    rows = [{"image": sample} for sample in photographs().inputs["image"]]
    for batch in batches:
        given = batch.others["other"]
        plain = both.preprocess([rows[row] for row in batch.rows.tolist()])
        assert given.keys() == plain.keys()
        for key, value in given.items():
            assert torch.allclose(value, plain[key].flip(-1), atol=0.02), key
        assert torch.allclose(batch.inputs["image"], student.preprocess(
            [rows[row] for row in batch.rows.tolist()])["image"].flip(-1), atol=0.02)  # fmt: skip
        assert both(given)["kind"].shape == (2, 2)


def test_an_ensemble_that_varies_pictures_itself_is_refused_with_the_reason(model, monkeypatch):
    varied = zoo.ensemble([model()], tta=Augmentation(flip=0.5), views=2)

    with pytest.raises(zoo.ConfigError, match=r"varies pictures itself \(tta\) cannot see training views"):
        fit_beside(monkeypatch, model(), varied, augmentation=FLIPPED)
    assert len(fit_beside(monkeypatch, model(), varied)) == 2

"""What a method trains beside the heads' losses: its parts, its parameters, the rows and views that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.augmentation import Augmentation
from zoo.contracts.method import Plan, StageState
from zoo.data import Column, PictureSample, Table
from zoo.registry import registry

FLIPPED = Augmentation(flip=1.0)
RUN = {"method": "asking", "epochs": 2, "batch_size": 4, "lr": 0.01, "device": "cpu"}


def photographs(rows):
    """Give Pillow pictures, which can be varied, of two kinds."""
    noise = np.random.default_rng(0).integers(0, 255, (rows, 40, 40, 3), dtype=np.uint8)
    samples = tuple(PictureSample(f"photograph {n}", Image.fromarray(one)) for n, one in enumerate(noise))
    return Table("photographs", {"image": samples}, {"kind": Column("kind", "text", tuple("ab" * rows)[:rows])})


class Asking(zoo.Objective):
    """The heads' losses, and whatever a test adds."""

    def __init__(self, more=None):
        super().__init__()
        self.more, self.seen, self.shares = more, [], []

    def losses(self, model, batch):
        self.seen.append(batch)
        return {**batch.losses, **(self.more(self, model, batch) if self.more else {})}

    def stepped(self, model, progress):
        self.shares.append(progress)


@pytest.fixture
def asking(monkeypatch):
    """Give a method with an objective of the test's; with its help what the objective saw can be looked at."""

    def enter(make: Callable[[], zoo.Objective], heads: bool = True):
        made = []

        @dataclass(frozen=True)
        class Method(zoo.Method):
            summary: ClassVar[str] = "asks"

            def objective(self, model, *, seed=0):
                made.append(make())
                return made[-1]

            def plan(self, streams, *, epochs, lr):
                state = StageState(trainable=True, lr=lr)
                names = [f"{stream}.{stage.name}" for stream, one in streams.items() for stage in one.stages]
                frozen = StageState(trainable=False)
                return Plan(epochs=({**dict.fromkeys(names, state), "heads": state if heads else frozen},) * epochs)

        known = registry().method_class
        monkeypatch.setattr(registry(), "method_class", lambda name: Method if name == "asking" else known(name))
        return made

    return enter


@pytest.mark.slow
def test_the_heads_losses_alone_train_what_a_run_without_an_objective_trains(model, table, asking):
    asking(Asking)
    data = table(rows=12)
    plain, by = model(), model()
    zoo.fit(plain, data, **RUN | {"method": "fine_tuning", "backbone_lr_scale": 1.0})
    zoo.fit(by, data, **RUN)

    for name, tensor in plain.state_dict().items():
        assert torch.equal(by.state_dict()[name], tensor), name


def test_parts_are_summed_and_an_objectives_own_parameters_train_at_a_share_of_the_heads_rate(model, table, asking):
    class Pulled(Asking):
        lr_scale = 0.5

        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor([3.0]))

        def losses(self, model, batch):
            return {"pull": self.value.sum()}

    made = asking(Pulled)
    run = RUN | {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": 0, "weight_decay": 0.5}
    one = model()
    before = {name: tensor.clone() for name, tensor in one.named_parameters()}
    zoo.fit(one, table(rows=10), validation=0.2, **run)

    assert made[0].value.item() == pytest.approx(3.0 - 0.5 * 0.01 * len(made[0].shares), abs=1e-6)
    assert made[0].shares == [pytest.approx((n + 1) / 4) for n in range(4)]
    heads = [name for name in before if name.startswith("heads.")]
    assert all(torch.equal(dict(one.named_parameters())[name], before[name]) for name in heads)


@pytest.mark.slow
def test_a_step_has_the_rows_views_and_unlabelled_rows_that_were_asked_for(model, table, asking, tmp_path):
    class Wide(Asking):
        views = (FLIPPED, None)
        unlabelled_views = (None, FLIPPED)
        unlabelled_ratio = 2

    made = asking(Wide)
    zoo.fit(model(), photographs(8), unlabelled=photographs(6), validation=0, **RUN)
    first = made[0].seen[0]

    assert first.rows.shape == (4,)
    assert torch.allclose(first.views[0]["image"], first.inputs["image"].flip(-1), atol=0.02)
    assert torch.equal(first.views[1]["image"], first.inputs["image"])
    plain, flipped = (views["image"] for views in first.unlabelled)
    assert plain.shape == (8, *first.inputs["image"].shape[1:])
    assert torch.allclose(flipped, plain.flip(-1), atol=0.02)
    kinds = [tuple(one.flatten()[:50].tolist()) for b in made[0].seen for one in b.unlabelled[0]["image"]]
    counts = sorted(kinds.count(kind) for kind in set(kinds))
    assert len(kinds) == 32
    assert counts == [5, 5, 5, 5, 6, 6]


def test_what_is_wanted_of_a_backbone_beside_what_heads_read_comes_of_the_same_pass(model, table, asking):
    class Wanting(Asking):
        wants: ClassVar = {"main": zoo.Want(maps=("s1",))}

    made = asking(Wanting)
    one = model()
    calls = []
    one.backbones["main"].register_forward_hook(lambda *_: calls.append(1))
    zoo.fit(one, table(rows=8), validation=0, **RUN | {"epochs": 1})

    assert len(calls) == len(made[0].seen)
    assert made[0].seen[0].features["main"].maps["s1"].ndim == 4


def test_another_model_sees_the_same_rows_in_its_own_form(model, table, asking):
    other = zoo.build("timm:test_vit", zoo.head("classifier", name="kind", classes=["a", "b"]), weights=None)

    class Beside(Asking):
        others: ClassVar = {"teacher": other}

        def begin(self, model, rows):
            self.before = torch.cat([inputs["image"] for inputs in rows.batches("teacher")])
            self.some = [inputs["image"] for inputs in rows.batches("teacher", most=6)]
            self.fixed = rows.fixed

    made = asking(Beside)
    zoo.fit(model(), table(rows=8), validation=0, **RUN | {"epochs": 1})
    batch = made[0].seen[0]

    assert made[0].fixed
    assert torch.equal(batch.others["teacher"]["image"], made[0].before[batch.rows])
    assert [len(some) for some in made[0].some] == [3, 3]
    assert torch.equal(made[0].some[0], made[0].before[[0, 2, 5]])
    assert torch.equal(made[0].some[1], made[0].before[[1, 4, 6]])


def test_a_run_without_labels_judges_nothing_and_leaves_the_heads_alone(model, table, asking):
    class Blind(Asking):
        labelled = False
        passes = False
        views = (None,)

        def losses(self, model, batch):
            assert batch.inputs is None
            assert batch.targets == {}
            return {"size": model.features(batch.views[0])["main"].pooled.square().mean()}

    asking(Blind, heads=False)
    one = model()
    before = {name: t.clone() for name, t in one.heads.state_dict().items()}
    history = zoo.fit(one, table(rows=8), **RUN)

    assert history.select is None
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    assert all(torch.equal(one.heads.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_a_run_with_an_objective_goes_on_from_a_checkpoint_bit_for_bit(model, table, asking, tmp_path):
    class Moving(Asking):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(1, 1)
            self.register_buffer("mean", torch.zeros(()))

        def losses(self, model, batch):
            return {**batch.losses, "own": (self.layer(self.mean.view(1, 1)) - 1).square().mean()}

        def stepped(self, model, progress):
            self.mean += progress

    made = asking(Moving)
    data = table(rows=12)
    whole, halved = model(), model()
    zoo.fit(whole, data, **RUN, checkpoint=tmp_path / "whole")
    first = made[0].state_dict()
    zoo.fit(halved, data, **RUN, checkpoint=tmp_path / "halved", checkpoint_every=1, keep_checkpoints=9)
    for path in sorted((tmp_path / "halved").glob("checkpoint-*"))[2:]:
        path.rename(tmp_path / path.name)
    again = model()
    zoo.fit(again, data, **RUN, checkpoint=tmp_path / "halved", checkpoint_every=1, keep_checkpoints=9, resume=True)

    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
    assert all(torch.equal(made[2].state_dict()[name], tensor) for name, tensor in first.items())


class Needy(Asking):
    unlabelled_views = (None,)


class Blank(Asking):
    labelled = False


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (Needy, {}, "learns from rows without labels; pass unlabelled"),
        (Asking, {"unlabelled": "photos"}, "does not look at rows without labels"),
        (Asking, {"mixup": 0.2}, "mixup and cutmix change what the method 'asking' trains"),
        (Asking, {"solver": "lbfgs"}, "solver='lbfgs' knows nothing of what"),
        (Blank, {"patience": 1}, "uses no labels to judge epochs by; leave patience out"),
        (Blank, {"select": "loss"}, "uses no labels to judge epochs by; leave select out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_data_is_read(model, asking, kind, more, words):
    asking(kind)
    with pytest.raises(zoo.ConfigError, match=words):
        zoo.fit(model(), "nowhere", **RUN, **more)


def test_a_search_for_a_rate_says_that_it_knows_the_heads_losses_only(model, table, asking):
    asking(Asking)
    with pytest.raises(zoo.ConfigError, match="tries rates on the heads' own losses"):
        zoo.find_lr(model(), table(rows=8), method="asking", steps=10)

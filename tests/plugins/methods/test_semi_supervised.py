"""Semi-supervised learning: the losses by hand, the ramp, what settings change, and runs that go on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.augmentation import Augmentation
from zoo.data import Column, PictureSample, Table
from zoo.errors import ConfigError, UnknownName
from zoo_methods.semi_supervised import STRONG, WEAK, SemiSupervised, Supposing, ramp_at, supposed_loss

RUN = {
    "method": "semi_supervised", "epochs": 2, "batch_size": 4, "lr": 0.01, "validation": 0.0, "device": "cpu",
    "backbone_lr_scale": 1.0,
}  # fmt: skip
HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
SMALL = {"scale": (0.75, 1.0), "flip": 0.5, "size": (32, 32)}
QUICK = {"threshold": 0.1, "ratio": 2, "weak": SMALL}
FIX = QUICK | {"strong": SMALL | {"policy": "rand", "erasing": 1.0}}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def photographs(count, seed=0, labels=True):
    noise = np.random.default_rng(seed).integers(0, 130, (count, 24, 24, 3), dtype=np.uint8)
    samples = [PictureSample(f"{seed}/{n}", Image.fromarray(one + 100 * (n % 2))) for n, one in enumerate(noise)]
    kinds = {"kind": Column("kind", "text", tuple("ab" * count)[:count])} if labels else {}
    return Table("made up", {"image": tuple(samples)}, kinds)


LABELLED, LOOSE = photographs(8), photographs(12, seed=1, labels=False)


def build(heads=HEAD, backbone="timm:test_resnet"):
    return zoo.build(backbone, heads, weights=None, seed=0)


def fitted(**more):
    model = build(more.pop("heads", HEAD))
    return model, zoo.fit(model, LABELLED, **{**RUN, "unlabelled": LOOSE, **more})


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# --- the losses, by hand


def test_only_rows_that_the_weak_view_is_sure_of_are_learnt_and_all_are_counted():
    weak = torch.tensor([[4.0, 0.0], [0.3, 0.0], [0.0, 5.0]])
    strong = torch.tensor([[0.5, 1.0], [2.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss, sure = supposed_loss(weak, strong, 0.95)
    first, last = math.log(math.exp(0.5) + math.exp(1.0)) - 0.5, math.log(math.exp(1.0) + 1)

    assert loss.item() == pytest.approx((first + last) / 3, rel=1e-6)
    assert sure.item() == pytest.approx(2 / 3)
    loss.backward()
    assert strong.grad[1].abs().max() == 0
    assert strong.grad[0].abs().min() > 0


def test_no_gradient_goes_through_what_says_the_label():
    weak = torch.randn(4, 3, requires_grad=True)
    loss, _ = supposed_loss(weak, weak * 1.0, 0.0)
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(weak, weak.argmax(dim=1)), weak)[0]

    torch.testing.assert_close(torch.autograd.grad(loss, weak)[0], expected)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.0), (0.1, 0.0), (0.2, 0.25), (0.3, 0.5), (0.5, 1.0), (0.9, 1.0)]
)
def test_the_weight_of_pseudo_labels_rises_over_the_ramp(progress, share):
    assert ramp_at(progress, (0.1, 0.5)) == pytest.approx(share)
    assert ramp_at(progress, None) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("how", "views"), [("fixmatch", 2), ("pseudo_labels", 1)])
def test_a_step_adds_the_weighed_loss_of_views_that_pass_together(how, views, monkeypatch):
    seen = []
    losses = Supposing.losses

    def spy(self, model, batch):
        parts = losses(self, model, batch)
        with torch.no_grad():
            both = {"image": torch.cat([view["image"] for view in batch.unlabelled])}
            output = model.score(model.features(both))["kind"].chunk(views)
        seen.append((self, batch, {name: part.item() for name, part in parts.items()}, output))
        return parts

    monkeypatch.setattr(Supposing, "losses", spy)
    more = {"ramp": (0.0, 0.0)} if how == "pseudo_labels" else {}
    fitted(how=how, epochs=1, weight=2.0, heads=HEAD | {"weight": 0.5}, **(FIX if how == "fixmatch" else QUICK), **more)
    _, batch, parts, output = seen[0]

    assert len(batch.unlabelled) == views
    assert len(batch.unlabelled[0]["image"]) == 8
    assert parts["kind/unlabelled"] == pytest.approx(
        torch.nn.functional.cross_entropy(output[-1], output[0].argmax(dim=1)).item(), rel=1e-5
    )
    assert parts["kind"] == pytest.approx(batch.losses["kind"].item())


def test_what_is_not_set_is_as_in_the_papers():
    fixmatch, pseudo = SemiSupervised(), SemiSupervised(how="pseudo_labels")

    assert [fixmatch.setting(name) for name in ("threshold", "weight", "ratio")] == [0.95, 1.0, 7]
    assert fixmatch.views() == (WEAK, STRONG)
    assert [pseudo.setting(name) for name in ("threshold", "weight", "ratio")] == [0.0, 3.0, 1]
    assert pseudo.views() == (None,)
    assert SemiSupervised(weak="light", strong={"policy": "trivial"}).views() == (
        Augmentation.preset("light"),
        Augmentation(policy="trivial"),
    )


# --- whole runs


@pytest.mark.slow
def test_the_share_of_sure_rows_is_measured_and_falls_with_the_threshold():
    _, all_of_them = fitted(**FIX | {"threshold": 0})
    _, none = fitted(**FIX | {"threshold": 0.9999})

    assert [row.measures["sure"] for row in all_of_them.epochs] == [1.0, 1.0]
    assert none.epochs[0].measures["sure"] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"threshold": 0.7},
        {"ratio": 1},
        {"weight": 3.0},
        {"how": "pseudo_labels", "ramp": (0.0, 0.1)},
        {"weak": SMALL | {"flip": 0.0}},
        {"strong": SMALL | {"policy": "trivial"}},
    ],
)
def test_a_setting_changes_what_is_learnt(more):
    plain = QUICK | {"how": "pseudo_labels"} if "ramp" in more else FIX
    (one, _), (other, _) = fitted(**plain), fitted(**{**plain, **more})

    assert not equal(one, other)


@pytest.mark.slow
def test_a_run_is_the_same_again_and_goes_on_bit_for_bit(tmp_path):
    (one, _), (again, _) = fitted(**FIX), fitted(**FIX)
    kept = {"checkpoint_every": 1, "keep_checkpoints": 9, **FIX}
    fitted(checkpoint=tmp_path / "half", **kept)
    for path in sorted((tmp_path / "half").glob("checkpoint-*"))[1:]:
        path.rename(tmp_path / path.name)
    resumed, _ = fitted(checkpoint=tmp_path / "half", resume=True, **kept)

    assert equal(one, again)
    assert equal(one, resumed)


@pytest.mark.slow
def test_each_task_of_one_label_learns_and_others_learn_as_always(monkeypatch):
    seen = []
    losses = Supposing.losses
    monkeypatch.setattr(Supposing, "losses", lambda *given: seen.append(losses(*given)) or seen[-1])
    heads = [HEAD, HEAD | {"name": "again", "target": "kind"}, HEAD | {"name": "many", "target": "kind",
                                                                       "multi_label": True}]  # fmt: skip
    fitted(heads=heads, epochs=1, **FIX)
    assert set(seen[0]) == {"kind", "again", "many", "kind/unlabelled", "again/unlabelled"}

    seen.clear()
    fitted(heads=heads, epochs=1, tasks=["again"], **FIX)
    assert set(seen[0]) == {"kind", "again", "many", "again/unlabelled"}


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"how": "mixmatch"}, ConfigError, "how must be one of fixmatch, pseudo_labels"),
        ({"ramp": (0.1, 0.5)}, ConfigError, "ramp is a setting of pseudo_labels, and how is 'fixmatch'"),
        ({"how": "pseudo_labels", "strong": "light"}, ConfigError, "strong is a setting of fixmatch"),
        ({"how": "pseudo_labels", "ramp": (0.5, 0.1)}, ConfigError, "ramp must be two shares of the run"),
        ({"threshold": 1.0}, ConfigError, "threshold must be a number above 0 and below 1"),
        ({"weight": 0}, ConfigError, "weight must be a number above 0"),
        ({"ratio": 0}, ConfigError, "ratio must be a whole number"),
        ({"strong": "none"}, ConfigError, "strong must vary pictures"),
        ({"strong": Augmentation(scale=(0.5, 1.0), size=(16, 16))}, ConfigError, "must be of one size"),
        ({"tasks": "kind"}, ConfigError, "tasks must be a list of names"),
        ({"weak": {"flips": 1}}, ConfigError, "weak: "),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        SemiSupervised(**settings)


@pytest.mark.parametrize(
    ("settings", "heads", "error", "words"),
    [
        ({"tasks": ["knid"]}, HEAD, UnknownName, "no task 'knid'; choose of kind"),
        ({}, {"type": "regression", "name": "size"}, ConfigError, "needs a task of one label a row"),
        (
            {"tasks": ["size"]}, [HEAD, {"type": "regression", "name": "size"}], ConfigError,
            r"The task 'size' \(regression\) has not one label a row",
        ),
    ],
)  # fmt: skip
def test_a_model_that_does_not_go_with_the_settings_is_refused_before_data_is_read(settings, heads, error, words):
    with pytest.raises(error, match=words):
        zoo.fit(build(heads), "nowhere", **RUN, unlabelled="nowhere", **settings)


def test_rows_without_labels_must_be_there():
    with pytest.raises(ConfigError, match="learns from rows without labels; pass unlabelled"):
        zoo.fit(build(), "nowhere", **RUN)

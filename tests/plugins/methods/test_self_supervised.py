"""Learning without labels: the schemes' losses beside lightly's, their targets, and what is said of a collapse."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed, nn

import zoo
from zoo.augmentation import Augmentation
from zoo.contracts.blocks import outline_of
from zoo.contracts.method import FROZEN, StageState
from zoo.data import PictureSample, Table
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.testing import check_method
from zoo_methods.self_supervised import SCHEMES, SelfSupervised
from zoo_methods.self_supervising.barlow_twins import decorrelation
from zoo_methods.self_supervising.byol import distance
from zoo_methods.self_supervising.collapse import spread_and_rank
from zoo_methods.self_supervising.dino import DINO, distillation
from zoo_methods.self_supervising.layers import Prototypes, perceptron
from zoo_methods.self_supervising.simclr import nt_xent
from zoo_methods.self_supervising.simsiam import negative_cosine
from zoo_methods.self_supervising.targets import Followed

with warnings.catch_warnings():  # what it warns of when it is imported is about what it would train with
    warnings.simplefilter("ignore")
    from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss

HOWS = tuple(SCHEMES)
RUN = {"method": "self_supervised", "epochs": 2, "batch_size": 4, "lr": 0.01, "device": "cpu"}
QUICK = {"scale": (0.2, 1.0), "flip": 0.5, "brightness": 0.4, "size": (32, 32)}
SMALL = {"hidden": 16, "projection": 8, "views": QUICK}
DINO_SMALL = SMALL | {"small_views": 2}


def settings(how):
    return {"how": how, **(DINO_SMALL if how == "dino" else SMALL)}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def photographs(rows=8, split=None, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (rows, 8, 8, 3), dtype=np.uint8)
    smooth = [Image.fromarray(one).resize((40, 40), Image.Resampling.BICUBIC) for one in noise]
    samples = tuple(PictureSample(f"photograph {n}", one) for n, one in enumerate(smooth))
    return Table("photographs", {"image": samples}, {}, split)


def bare(backbone="timm:test_resnet", **more):
    return zoo.build(backbone, weights=None, seed=0, **more)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(12, 7, generator=generator), torch.randn(12, 7, generator=generator)


# --- losses, beside a maintained library


def test_the_losses_are_those_of_lightly(pair):
    one, other = pair

    torch.testing.assert_close(nt_xent(one, other, 0.2), NTXentLoss(temperature=0.2)(one, other))
    torch.testing.assert_close(decorrelation(one, other, 0.01), BarlowTwinsLoss(lambda_param=0.01)(one, other))
    torch.testing.assert_close(negative_cosine(one, other), NegativeCosineSimilarity()(one, other))
    torch.testing.assert_close(distance(one, other), 2 + 2 * NegativeCosineSimilarity()(one, other))


@pytest.mark.parametrize("loss", [lambda a, b: nt_xent(a, b, 0.3), lambda a, b: decorrelation(a, b, 0.01)])
def test_gradients_come_from_both_views(loss, pair):
    one, other = (each.requires_grad_() for each in pair)
    loss(one, other).backward()

    assert one.grad.abs().sum() > 0
    assert other.grad.abs().sum() > 0


def test_no_gradient_comes_from_what_simsiam_predicts(pair):
    one, other = (each.requires_grad_() for each in pair)
    negative_cosine(one, other).backward()

    assert one.grad.abs().sum() > 0
    assert other.grad is None


class Given(DINO):
    """DINO on logits that are given, in place of those of networks."""

    def pooled(self, model, view, backbone=None):
        return view[0 if backbone is None else 1]


def test_dinos_loss_and_centre_are_those_of_lightly_over_several_steps():
    generator = torch.Generator().manual_seed(1)
    given = DINO(
        "main", (), bare().backbones["main"], hidden=4, projection=9, temperature=0.2, teacher_temperature=0.07,
        momentum=0.9,
    )  # fmt: skip
    scheme = Given.__new__(Given)
    scheme.__dict__ = given.__dict__
    scheme.head = nn.Identity()
    scheme.teacher.copies = nn.ModuleList([nn.Identity(), nn.Identity()])
    lightly = DINOLoss(output_dim=9, teacher_temp=0.07, student_temp=0.2, center_momentum=0.9)
    for _ in range(4):
        students, teachers = (torch.randn(n, 6, 9, generator=generator) for n in (5, 2))
        views = [(students[n], teachers[n] if n < 2 else None) for n in range(5)]
        torch.testing.assert_close(scheme.compare(None, views), lightly(list(teachers), list(students)))
        torch.testing.assert_close(scheme.center, lightly.center.flatten())


def test_dinos_student_is_not_compared_with_the_teacher_of_the_same_view():
    taught = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    students = [torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])]

    # student 2 with teacher 1: log 2; student 1 with teacher 2: its share is 1 in 4
    assert distillation(taught, students, 1.0).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


# --- what stands on the backbone


def test_projectors_have_batch_norm_between_their_layers_and_after_the_last_where_asked():
    kinds = [type(one).__name__ for one in perceptron(5, 4, 4, 3, last_norm=True)]

    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [type(one).__name__ for one in perceptron(5, 4, 3)] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_dinos_outputs_are_cosines_to_its_prototypes():
    torch.manual_seed(0)
    head = Prototypes(6, 8, 5)
    inside = head.layers(torch.ones(3, 6)).detach().numpy()
    weights = head.prototypes.detach().numpy()
    expected = inside @ weights.T / np.linalg.norm(inside, axis=1)[:, None] / np.linalg.norm(weights, axis=1)

    np.testing.assert_allclose(head(torch.ones(3, 6)).detach().numpy(), expected, atol=1e-6)


def test_a_target_follows_by_the_momentum_that_rises_by_a_half_cosine():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    target = Followed(0.8, layer)
    nn.init.constant_(layer.weight, 4.0)

    assert [round(target.momentum_at(share), 6) for share in (0.0, 0.5, 1.0)] == [0.8, 0.9, 1.0]
    target.follow(0.5, layer)
    assert target.copies[0].weight.item() == pytest.approx(0.9 * 2 + 0.1 * 4)
    target.follow(1.0, layer)
    assert target.copies[0].weight.item() == pytest.approx(2.2)
    assert not target.copies[0].weight.requires_grad


# --- collapse


def test_spread_is_1_for_directions_at_random_and_0_where_all_rows_are_alike():
    rows = np.random.default_rng(0).normal(size=(200, 32))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    shares = values / values.sum()

    spread, rank = spread_and_rank(torch.tensor(rows))
    assert spread.item() == pytest.approx(math.sqrt((unit.std(0) ** 2).sum()), abs=1e-5)
    assert spread.item() == pytest.approx(unit.std(0).mean() * math.sqrt(32), abs=5e-3)  # as SimSiam has it
    assert rank.item() == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    alike = spread_and_rank(torch.ones(10, 4) * torch.rand(10, 1))
    assert alike[0] < 1e-3
    assert alike[1] == 1


def test_embeddings_on_one_line_have_an_effective_rank_of_1():
    line = torch.linspace(-1, 1, 20)[:, None] * torch.tensor([[1.0, 2.0, 0.5]])

    assert spread_and_rank(line)[0] == pytest.approx(1, abs=1e-4)
    assert spread_and_rank(line)[1] == pytest.approx(1, abs=1e-2)


def test_embeddings_that_are_no_numbers_have_no_spread_and_do_not_stop_the_step():
    assert spread_and_rank(torch.full((4, 3), math.nan))[0].isnan()


@pytest.mark.slow
def test_the_history_has_the_spread_and_rank_of_each_epoch_and_a_collapse_is_said(caplog):
    caplog.set_level("WARNING", "zoo")
    history = zoo.fit(bare(), photographs(), **RUN, **settings("simclr"))
    assert all(0.1 < row.measures["spread"] <= 1 and row.measures["rank"] > 1.5 for row in history.epochs)
    assert caplog.messages == []

    blind = Augmentation(scale=(0.5, 1.0))
    grey = tuple(PictureSample(f"grey {n}", Image.new("RGB", (40, 40), (n, n, n))) for n in range(100, 108))
    model = bare()
    nn.init.zeros_(next(model.backbones["main"].parameters()))  # what cannot see gives the same of all pictures
    history = zoo.fit(
        model, Table("greys", {"image": grey}, {}), **RUN | {"lr": 1e-9}, **settings("byol") | {"views": blind}
    )
    assert all(row.measures["spread"] < 0.1 for row in history.epochs)
    assert len(caplog.messages) == 2
    assert "The embeddings have collapsed (spread" in caplog.messages[0]


# --- runs


def test_every_stage_of_the_stream_trains_and_all_else_rests():
    streams = dict.fromkeys(("rgb", "flow"), outline_of(bare().backbones["main"]))
    plan = SelfSupervised(stream="flow", backbone_lr_scale=0.5).plan(streams, epochs=3, lr=0.2)

    stages = [stage.name for stage in streams["rgb"].stages]
    expected = {f"rgb.{name}": FROZEN for name in stages} | {"heads": FROZEN}
    expected |= {f"flow.{name}": StageState(trainable=True, lr=0.1) for name in stages}
    assert plan.epochs == (expected,) * 3


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_the_method_conforms(how):
    if how == "simclr":  # of the kit's pictures of noise, views at a high rate are not told apart in four epochs
        check_method(
            "self_supervised", settings=settings(how) | {"temperature": 0.5}, run={"lr": 3e-3, "batch_size": 8}
        )
    else:
        check_method("self_supervised", settings=settings(how))


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_each_scheme_trains_the_backbone_alone_and_equal_seeds_give_equal_runs(how):
    head = zoo.head("classifier", name="kind", classes=["a", "b"])
    made = []
    for seed in (0, 0, 1):
        model = zoo.build("timm:test_resnet", head, weights=None, seed=0)
        history = zoo.fit(model, photographs(), **RUN, seed=seed, **settings(how))
        made.append(model.state_dict())
    before = zoo.build("timm:test_resnet", head, weights=None, seed=0).state_dict()

    assert all(math.isfinite(row.train_loss) for row in history.epochs)
    assert history.select is None
    assert history.best_epoch == 2
    weights = [name for name in before if name.endswith(".weight")]
    for name in weights:
        assert torch.equal(made[0][name], made[1][name]), name
        assert torch.equal(made[0][name], before[name]) == name.startswith("heads."), name
    assert any(not torch.equal(made[0][name], made[2][name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["byol", "dino"])
def test_a_run_goes_on_bit_for_bit_with_its_target_network(how, tmp_path):
    data, run = photographs(8), {**RUN, **settings(how), "checkpoint_every": 1, "keep_checkpoints": 9}
    whole = zoo.fit(one := bare(), data, **run, checkpoint=tmp_path / "whole")
    zoo.fit(bare(), data, **run, checkpoint=tmp_path / "halved")
    for path in sorted((tmp_path / "halved").glob("checkpoint-*"))[1:]:
        path.rename(tmp_path / path.name)
    resumed = zoo.fit(again := bare(), data, **run, checkpoint=tmp_path / "halved", resume=True)

    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in one.state_dict().items())
    assert [row.measures for row in resumed.epochs] == [row.measures for row in whole.epochs]
    assert [row.train_loss for row in resumed.epochs] == [row.train_loss for row in whole.epochs]


@pytest.mark.slow
def test_pictures_are_told_apart_after_training_that_were_not_before():
    data = photographs(16)
    near = {"scale": (0.6, 1.0), "flip": 0.5, "size": (32, 32)}
    run = RUN | {"epochs": 20, "batch_size": 16, "lr": 3e-3}
    history = zoo.fit(bare(), data, **run, hidden=64, projection=32, views=near, temperature=0.5)

    # 31 other views to choose from: log 31 is guessing
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss - 0.3
    assert history.epochs[-1].train_loss < math.log(31)


def test_rows_for_validation_and_test_are_not_learnt_from():
    split = ("train", "test", None, "validation", "train", "train", "test", "train")
    history = zoo.fit(bare(), photographs(split=split), **RUN, **settings("simsiam"))

    assert history.rows == {"train": 5}


@pytest.mark.slow
def test_a_transformer_of_one_size_has_small_views_of_its_size_and_a_convolution_smaller_ones():
    def sizes(reference):
        return [view.size for view in SelfSupervised(how="dino", small_views=1).objective(bare(reference)).views]

    assert sizes("timm:test_vit") == [None, None, None]
    assert sizes("timm:test_resnet") == [None, None, (69, 69)]  # 96/224 of 160


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_every_setting_changes_something(how):
    base, model = settings(how), bare()
    takes = {**SCHEMES[how].takes, "views": None}
    others = {
        **{"hidden": 24, "projection": 12, "temperature": 0.7, "teacher_temperature": 0.09, "momentum": 0.5},
        **{"redundancy": 0.3, "small_views": 3, "views": {"scale": (0.3, 1.0)}},
    }
    batch = photographs(4)

    def state(**more):
        scheme = SelfSupervised(**{**base, **more}).objective(model, seed=3).train()
        preparer = model.preparers()["image"]
        views = [
            torch.stack([view.views(preparer.recipe)(one.open(), n) for n, one in enumerate(batch.samples("image"))])
            for view in scheme.views
        ]
        loss = scheme.compare(model, views)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01
        scheme.stepped(model, 0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01
        sums = [float(tensor.double().sum()) for tensor in scheme.state_dict().values()]
        return [float(loss.detach()), *sums]

    plain = state()
    assert state() == pytest.approx(plain, abs=1e-3)
    for name in takes:
        assert state(**{name: others[name]}) != pytest.approx(plain, abs=1e-3), name


def test_the_schemes_are_those_that_the_settings_name_and_no_setting_is_of_none():
    own = {field.name for field in fields(SelfSupervised)} - {"how", "views", "stream", "backbone_lr_scale"}

    assert own == {name for scheme in SCHEMES.values() for name in scheme.takes}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"how": "moco"}, "how must be one of simclr, byol, simsiam, barlow_twins, dino, got 'moco'"),
        ({"momentum": 0.9}, "momentum is a setting of byol and dino, and how is 'simclr'"),
        ({"how": "byol", "temperature": 0.9}, "temperature is a setting of simclr and dino"),
        ({"small_views": 2}, "small_views is a setting of dino"),
        ({"how": "byol", "momentum": 1.0}, "momentum must be a number above 0 and below 1"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"projection": 2}, "projection must be a whole number, 4 or more"),
        ({"how": "dino", "small_views": -1}, "small_views must be a whole number, 0 or more"),
        ({"backbone_lr_scale": -1}, "backbone_lr_scale must be a number above 0"),
        ({"views": {"flip": 0.5}}, "views must crop at random"),
        ({"views": {"flips": 0.5}}, "flips"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_by_name(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        zoo.fit(bare(), "nowhere", **RUN, **given)


def test_an_unknown_preset_of_views_and_an_unknown_stream_are_named():
    with pytest.raises(UnknownName, match="no augmentation 'simclear'"):
        zoo.fit(bare(), "nowhere", **RUN, views="simclear")
    with pytest.raises(UnknownName, match="no stream 'mian'; choose of main"):
        zoo.fit(bare(), "nowhere", **RUN, stream="mian")


@pytest.mark.slow
def test_one_of_several_streams_trains_by_name_and_none_without():
    def two():
        return bare({"a": "timm:test_resnet", "b": "timm:test_efficientnet"}, inputs="image")

    with pytest.raises(ConfigError, match="trains one backbone; choose with stream= of a, b"):
        zoo.fit(two(), "nowhere", **RUN)
    model, before = two(), two().state_dict()
    zoo.fit(model, photographs(), **RUN | {"epochs": 1}, **SMALL, stream="b")
    changed = {name.split(".")[1] for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert changed == {"b"}


@pytest.mark.slow
def test_what_gives_no_pooled_vector_or_takes_no_pictures_is_refused_before_data_is_read():
    mapped = zoo.build("timm:test_resnet", zoo.head("segmentation", classes=["a", "b"]), weights=None)
    with pytest.raises(ConfigError, match="does not give in this model; build it without heads"):
        zoo.fit(mapped, "nowhere", **RUN)
    with pytest.raises(ConfigError, match=r"makes views of pictures, and .* takes text"):
        zoo.fit(zoo.build("hf:bert", weights=None), "nowhere", **RUN)


def test_options_that_could_do_nothing_and_batches_of_one_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="augmentation varies rows that are no part of what the method"):
        zoo.fit(bare(), "nowhere", **RUN, augmentation="light")
    with pytest.raises(ConfigError, match="batches of two rows or more"):
        zoo.fit(bare(), photographs(3), **RUN | {"batch_size": 1}, **SMALL)
    with pytest.raises(DataError, match="needs two pictures or more to tell apart, got 1"):
        zoo.fit(bare(), photographs(1), **RUN, **SMALL)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="which several processes would divide; train in one"):
        SelfSupervised().objective(bare())


@pytest.mark.slow
def test_the_backbone_goes_on_under_a_head_through_a_bundle(tmp_path):
    model = bare()
    zoo.fit(model, photographs(), **RUN, **SMALL)
    model.save(tmp_path / "learnt")
    going_on = zoo.build(
        "timm:test_resnet",
        zoo.head("classifier", name="kind", classes=["a", "b"]),
        weights=zoo.load(tmp_path / "learnt"),
    )

    own = going_on.backbones["main"].state_dict()
    assert all(torch.equal(own[name], one) for name, one in model.backbones["main"].state_dict().items())

"""Training on views: another view in each epoch, the same run for the same seed, and plain pictures elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.augmentation import Augmentation
from zoo.cli.arguments import read_augmentation
from zoo.data import Column, PictureSample, Preparer, Table
from zoo.errors import ConfigError, DataError, ShapeError, UnknownName
from zoo.training import fitting
from zoo.training.rows.batches import Collator, SampleRows, ViewRows, view_seed

ROWS = 8


@pytest.fixture
def photos() -> Callable[..., Table]:
    """A table of noisy pictures of two colours."""

    def make(rows: int = ROWS) -> Table:
        rng = np.random.default_rng(5)
        samples = []
        for n in range(rows):
            pixels = rng.integers(0, 120, (40, 52, 3), dtype=np.uint8)
            pixels[..., n % 2] += 130
            samples.append(PictureSample(f"photo {n}", Image.fromarray(pixels)))
        column = Column("kind", "text", tuple("ab"[n % 2] for n in range(rows)))
        return Table("made-up photos", {"image": tuple(samples)}, {"kind": column}, None)

    return make


@pytest.fixture
def seen(monkeypatch) -> list[tuple[type, int, int]]:
    """Write down every row that is given: its data set, the epoch and its number."""
    calls: list[tuple[type, int, int]] = []
    for kind in (SampleRows,):
        plain = kind.__getitem__

        def spy(self, row, plain=plain):
            calls.append((type(self), getattr(self, "epoch", -1), row))
            return plain(self, row)

        monkeypatch.setattr(kind, "__getitem__", spy)
    return calls


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


SHORT = {"epochs": 2, "batch_size": 4, "device": "cpu", "workers": 0}


@pytest.mark.slow
def test_the_same_seed_gives_bit_equal_weights_and_another_seed_others(photos, model, state):
    runs = []
    for seed in (0, 0, 1):
        one = model()
        zoo.fit(one, photos(), augmentation="standard", seed=seed, **SHORT)
        runs.append(state(one))

    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.slow
def test_views_change_what_is_learned_and_no_augmentation_changes_nothing(photos, model, state):
    runs = {}
    for name in (None, "none", "light"):
        one = model()
        zoo.fit(one, photos(), augmentation=name, **SHORT)
        runs[name] = state(one)

    assert all(torch.equal(runs[None][name], runs["none"][name]) for name in runs[None])
    assert any(not torch.equal(runs[None][name], runs["light"][name]) for name in runs[None])


@pytest.mark.slow
def test_every_epoch_sees_every_row_in_a_view_of_its_own_and_validation_sees_plain_pictures(photos, model, seen):
    history = zoo.fit(model(), photos(), augmentation="light", **SHORT)

    train = history.rows["train"]
    views = {(epoch, row) for kind, epoch, row in seen if kind is ViewRows}
    assert views == {(epoch, row) for epoch in (0, 1) for row in range(train)}
    assert any(kind is SampleRows for kind, _, _ in seen)


def test_a_view_is_decided_by_seed_epoch_and_row_alone(photos, model):
    one, table = model(), photos()
    targets = {"kind": torch.zeros(len(table))}
    rows = ViewRows(one, table, targets, Augmentation.preset("light"), 7)

    def view(row: int) -> torch.Tensor:
        return rows[row]["inputs"]["image"]

    first = view(3)
    torch.rand(5)
    assert torch.equal(view(3), first)
    rows.epoch = 1
    assert not torch.equal(view(3), first)
    assert len({view_seed(seed, epoch, row) for seed in range(9) for epoch in range(9) for row in range(9)}) == 9**3
    assert all(0 <= view_seed(2**32 - 1, epoch, 0) < 2**63 for epoch in range(200))


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(photos, model, state):
    runs = []
    for workers in (0, 2):
        one = model()
        zoo.fit(one, photos(), augmentation="standard", **(SHORT | {"workers": workers}))
        runs.append(state(one))

    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.slow
def test_a_frozen_backbone_runs_on_the_views_of_each_epoch_instead_of_kept_features(photos, model, state, seen, caplog):
    one, before = model(), state(model())
    with caplog.at_level(logging.INFO, logger="zoo"):
        history = zoo.fit(one, photos(), method="feature_extraction", augmentation="light", **SHORT)

    assert not history.cached_features
    assert "no features are kept: the backbone runs on new views in each epoch" in caplog.text
    assert {epoch for kind, epoch, _ in seen if kind is ViewRows} == {0, 1}
    frozen = [name for name in before if name.startswith("backbones.")]
    assert frozen
    assert all(torch.equal(state(one)[name], before[name]) for name in frozen)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [None, "none", Augmentation()], ids=str)
def test_without_an_augmentation_features_are_kept_as_before(photos, model, augmentation):
    history = zoo.fit(model(), photos(), method="feature_extraction", augmentation=augmentation, **SHORT)

    assert history.cached_features
    assert history.settings["augmentation"] is None


@pytest.mark.slow
def test_the_history_and_the_bundle_say_how_pictures_were_varied(photos, model, tmp_path):
    one = model()
    history = zoo.fit(one, photos(), augmentation=Augmentation(flip=0.5, erasing=0.25), **SHORT)
    loaded = zoo.load(one.save(tmp_path / "bundle"))

    told = {"flip": 0.5, "erasing": 0.25, "scale": None}
    assert {key: history.settings["augmentation"][key] for key in told} == told
    assert {key: loaded.provenance["settings"]["augmentation"][key] for key in told} == told


@pytest.mark.parametrize("wrong", ["strong", 5, {"flip": 0.5}], ids=str)
def test_a_wrong_augmentation_is_refused_before_anything_is_read(model, monkeypatch, wrong):
    monkeypatch.setattr(fitting, "read_for", lambda *args, **kwargs: pytest.fail("the data was read"))

    with pytest.raises((UnknownName, ConfigError), match="augmentation"):
        zoo.fit(model(), "photos", augmentation=wrong)


def test_ready_tensors_have_no_views_and_the_row_is_named(table, model):
    with pytest.raises(DataError, match=r"picture \d+: An augmentation takes single Pillow pictures"):
        zoo.fit(model(), table(), augmentation="light", **SHORT)


def test_pictures_of_several_sizes_in_one_batch_are_refused_with_what_to_do():
    rows = [{"inputs": {"image": torch.zeros(3, 8, side)}, "targets": {}} for side in (8, 9)]

    with pytest.raises(ShapeError, match=r"must have one size, got .*; name a size in the reference"):
        Collator({"image": Preparer("image", "image", lambda picture: picture)})(rows)


def test_the_command_line_takes_a_name_or_json():
    assert read_augmentation(None).idle
    assert read_augmentation("standard") == Augmentation.preset("standard")
    assert read_augmentation('{"flip": 0.5, "policy": "auto"}') == Augmentation(flip=0.5, policy="auto")
    with pytest.raises(ConfigError, match="--augmentation must be a name or JSON"):
        read_augmentation('{"flip": ')
    with pytest.raises(ConfigError, match="flips"):
        read_augmentation('{"flips": 1}')

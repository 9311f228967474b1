"""Training views of JPEGs that are decoded no larger than they need be: the same views, quicker."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.augmentation import Augmentation
from zoo.data import BytesSample, Column, Table
from zoo.errors import DataError
from zoo.preprocessing import Preprocessing, can_scale, scaled_piece
from zoo.training.rows.batches import SampleRows, ViewRows

LIGHT = Augmentation.preset("light")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # so that a view is in shares of 255


def photograph(width=500, height=375):
    """Draw something smooth with edges, as photographs are, that no mirror image equals."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    red = 128 + 100 * np.sin(9 * across + 4 * down)
    green = 255 * across * down
    blue = np.where((across - 0.3) ** 2 + (down - 0.6) ** 2 < 0.05, 220, 40)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8))


def encoded(picture, form="JPEG", **how):
    file = io.BytesIO()
    picture.save(file, form, **how)
    return BytesSample("cat", file.getvalue())


def recipe(size=64, **more):
    return Preprocessing(size=(size, size), resize=(size,), **{**PLAIN, **more})


@pytest.mark.parametrize("size", [32, 96, 250])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_a_quick_view_is_the_view_of_the_same_piece(size, interpolation):
    sample, views = encoded(photograph(), quality=95), LIGHT.views(recipe(size, interpolation=interpolation))
    for seed in range(12):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        other = views(sample.open(), seed + 1000)

        assert quick.shape == exact.shape
        assert quick.dtype == torch.float32
        assert (quick - exact).abs().mean() < 6 / 255
        assert (other - exact).abs().mean() > 3 * (quick - exact).abs().mean()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_at_the_whole_scale_a_quick_view_is_within_two_levels_of_the_exact_one(interpolation):
    sample, views = encoded(photograph(200, 150), quality=95), LIGHT.views(recipe(160, interpolation=interpolation))
    for seed in range(8):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        assert (quick - exact).abs().max() <= 2.01 / 255


def test_a_piece_is_decoded_at_the_lowest_scale_that_is_no_smaller_than_the_result():
    picture = photograph(512, 512)
    for side, scale in ((512, 8), (511, 4), (256, 4), (255, 2), (128, 2), (127, 1), (40, 1)):
        jpeg = encoded(picture).glance()
        scaled_piece(jpeg, (0, 0, side, side), (64, 64), "bicubic")
        assert jpeg.size == (512 // scale, 512 // scale), side


def test_mirror_images_are_drawn_as_torchvision_draws_them():
    mirrored = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.5, vertical_flip=0.5)
    sample, views = encoded(photograph(64, 64), quality=98), mirrored.views(recipe(64))
    seen = set()
    for seed in range(24):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        assert (quick - exact).abs().max() <= 2.01 / 255
        seen.add(tuple(exact[:, ::63, ::63].flatten().tolist()))

    assert len(seen) == 4


def test_what_changes_colours_comes_after_the_piece_as_before():
    coloured = Augmentation(scale=(0.3, 1.0), flip=0.5, brightness=0.4, hue=0.1, policy="trivial", erasing=0.5)
    sample, views = encoded(photograph(160, 120), quality=95), coloured.views(recipe(100))
    close = [
        (views(sample.open(), seed) - views(sample.glance(), seed, spend=True)).abs().mean() < 4 / 255
        for seed in range(20)
    ]

    assert sum(close) >= 19  # a policy may turn one level of difference into many


@pytest.mark.parametrize("changes", [{"grey": 1.0}, {"blur": 1.0, "sigma": (2.0, 2.0)}, {"solarize": 1.0}], ids=str)
def test_grey_blur_and_solarising_are_done_to_quick_views_too(changes):
    sample = encoded(photograph(300, 240), quality=95)
    views, plain = (Augmentation(scale=(0.3, 1.0), flip=0.5, **more).views(recipe(64)) for more in (changes, {}))
    for seed in range(8):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        assert (quick - exact).abs().mean() < 8 / 255
        assert (quick - plain(sample.open(), seed)).abs().mean() > 2 * (quick - exact).abs().mean()


def test_a_size_of_its_own_is_that_of_a_quick_view_too():
    small = Augmentation(scale=(0.1, 0.4), flip=0.5, size=(40, 24))
    sample, views = encoded(photograph(), quality=95), small.views(recipe(96))
    for seed in range(8):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        assert quick.shape == exact.shape == (3, 40, 24)
        assert (quick - exact).abs().mean() < 6 / 255


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_print_jpegs_become_what_the_recipe_asks_for(mode, channels):
    plain = recipe(48).with_channels(channels)
    sample, views = encoded(photograph(300, 200).convert(mode), quality=95), LIGHT.views(plain)
    for seed in range(6):
        exact, quick = views(sample.open(), seed), views(sample.glance(), seed, spend=True)
        assert quick.shape == (channels, 48, 48)
        assert (quick - exact).abs().mean() < 6 / 255


def test_the_order_of_the_channels_is_the_recipes():
    sample = encoded(photograph(), quality=95)
    rgb, bgr = (LIGHT.views(recipe(order=order))(sample.glance(), 3, spend=True) for order in ("RGB", "BGR"))

    assert torch.equal(rgb.flip(0), bgr)


def test_the_fused_normalisation_is_that_of_the_recipe():
    picture = photograph(64, 64)
    for more in ({}, {"scale": 1.0}, {"on": "float"}, {"rules": "transformers"}, {"order": "BGR"}):
        one = Preprocessing(size=(64, 64), resize=None, **more)
        assert torch.allclose(one.apply_fused(picture), one.apply(picture), rtol=1e-5, atol=1e-4 if more else 1e-6)


def test_a_recipe_that_still_scales_is_applied_whole():
    picture, one = photograph(100, 80), Preprocessing(size=(64, 64), resize=(70,))

    assert torch.equal(one.apply_fused(picture), one.apply(picture))


@pytest.mark.parametrize("how", ["PNG", "turned"])
def test_what_is_no_upright_jpeg_is_decoded_at_once(how):
    exif = Image.Exif()
    exif[0x0112] = 6
    sample = encoded(photograph(), "PNG") if how == "PNG" else encoded(photograph(), exif=exif)
    glanced = sample.glance()

    assert not can_scale(glanced)
    assert glanced.size == sample.open().size == ((500, 375) if how == "PNG" else (375, 500))


def test_without_spending_a_picture_is_not_altered_and_the_view_is_exact():
    sample, views = encoded(photograph()), LIGHT.views(recipe())
    picture = sample.glance()
    given = views(picture, 4)

    assert picture.size == (500, 375)
    assert torch.equal(given, views(sample.open(), 4))


def test_equal_seeds_give_equal_quick_views_and_leave_the_global_generator_alone():
    sample, views = encoded(photograph()), LIGHT.views(recipe())
    before = torch.get_rng_state()
    one, two = (views(sample.glance(), 7, spend=True) for _ in range(2))

    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


def table(samples):
    return Table("made-up pictures", {"image": tuple(samples)}, {"kind": Column("kind", "text", ("a",) * len(samples))})


@pytest.fixture(scope="module")
def model():
    return zoo.build("timm:test_resnet", zoo.head("classifier", name="kind", classes=["a", "b"]), weights=None, seed=0)


def test_only_training_rows_are_quick_and_those_of_evaluation_exact(model):
    sample = encoded(photograph())
    targets = {"kind": torch.zeros(1, dtype=torch.long)}
    own = model.spec.streams["main"].backbone.preprocessing
    views = LIGHT.views(own)
    rows = ViewRows(model, table([sample]), targets, LIGHT, seed=0)
    view = rows[0]["inputs"]["image"]

    plain = SampleRows(model, table([sample]), targets)[0]["inputs"]["image"]
    assert torch.equal(plain, own.apply(sample.open()))
    assert view.shape == plain.shape
    assert not torch.equal(view, views(sample.open(), 0))


def test_a_jpeg_that_ends_too_early_is_named_when_its_view_is_made(model):
    whole = encoded(photograph()).data
    rows = ViewRows(
        model, table([BytesSample("half a cat", whole[: len(whole) // 2])]), {"kind": torch.zeros(1)}, LIGHT, seed=0
    )

    with pytest.raises(DataError, match=r"half a cat: The picture cannot be decoded \(OSError: .*truncated"):
        rows[0]


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\xff\xd8\xff\xe0 hardly a head"])
def test_what_has_no_head_is_refused_in_the_words_of_decoding(data):
    sample = BytesSample("cat", data)
    with pytest.raises(DataError) as opened:
        sample.open()
    with pytest.raises(DataError) as glanced:
        sample.glance()

    assert str(glanced.value) == str(opened.value)


def test_the_mask_of_a_quick_view_follows_it():
    across = np.tile(np.arange(400) >= 200, (300, 1))
    picture = Image.fromarray(np.where(across[..., None], 250, 5).repeat(3, axis=-1).astype(np.uint8))
    mask = torch.from_numpy(across.astype(np.int64))
    sample, views = encoded(picture, quality=98), LIGHT.views(recipe(50))
    for seed in range(12):
        bright = views(sample.glance(), seed, spend=True).mean(0) > 0.5
        told = views.mask(mask, seed) == 1
        assert (bright != told).float().mean() <= 0.02 + 1e-6, seed

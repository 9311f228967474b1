"""Test-time augmentation: several views of a picture, averaged as probabilities."""

import pickle

import numpy as np
import pytest
import torch
from PIL import ImageOps

import zoo
from zoo.errors import DataError, ShapeError


def test_flip_averages_the_picture_and_its_mirror_image(member, pictures):
    model = member()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = [model(x), model(x.flip(-1))]
        found = zoo.ensemble([model], tta="flip")(x)

    chances = torch.stack([one["pet"].softmax(dim=1) for one in both]).mean(dim=0)
    torch.testing.assert_close(found["pet"].softmax(dim=1), chances)
    torch.testing.assert_close(found["age"], (both[0]["age"] + both[1]["age"]) / 2)


@pytest.mark.slow
def test_flip_of_pictures_is_that_of_their_tensors(member, pictures):
    models = [member("timm:test_resnet"), member("timm:test_vit")]
    square = [picture.resize((160, 160)) for picture in pictures]
    ways = [[p for p in square], [ImageOps.mirror(p) for p in square]]
    rows = [[row["age"].value for row in model.predict(way)] for model in models for way in ways]

    found = zoo.ensemble(models, tta="flip").predict(square)

    np.testing.assert_allclose([row["age"].value for row in found], np.mean(rows, axis=0), atol=1e-4)


@pytest.mark.slow
def test_an_augmentation_averages_the_picture_as_it_is_and_seeded_views(member, pictures):
    model, augmentation = member(), zoo.Augmentation(scale=(0.3, 1.0), brightness=0.4)
    recipe = model.spec.streams["main"].backbone.preprocessing
    views = augmentation.views(recipe)
    tensors = [recipe.apply(pictures[1]), *(views(pictures[1], seed) for seed in (1, 2, 3))]
    with torch.no_grad():
        each = model(torch.stack(tensors))["pet"].softmax(dim=1)

    made = zoo.ensemble([model], tta=augmentation, views=4)
    found = made.predict(pictures)[1]["pet"].probabilities

    np.testing.assert_allclose(list(found.values()), each.mean(dim=0), atol=1e-5)
    assert made.predict(pictures) == made.predict(pictures)
    assert not torch.equal(tensors[1], tensors[2])


def test_views_go_to_loader_workers(member, pictures):
    preparer = zoo.ensemble([member()], tta="light", views=3).preparers()["image"]

    again = pickle.loads(pickle.dumps(preparer))

    assert torch.equal(again.prepare(pictures[0]), preparer.prepare(pictures[0]))
    assert preparer.prepare(pictures[0]).shape[0] == 3


def test_views_leave_the_global_generator_as_it_was(member, pictures):
    made = zoo.ensemble([member()], tta="light", views=2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    made.predict(pictures)

    assert torch.equal(torch.rand(3), expected)


def test_views_of_tensors_are_refused(member, pictures):
    made = zoo.ensemble([member()], tta="light", views=2)

    with pytest.raises(ShapeError, match="makes 2 views of each picture"):
        made(torch.zeros(1, 3, 64, 64))
    with pytest.raises(DataError, match="single Pillow pictures"):
        made.predict(torch.zeros(3, 64, 64))


def test_members_with_a_common_backbone_run_it_once_for_all_views(on_one_backbone):
    models = on_one_backbone(3)
    calls: list[int] = []
    layer = next(m for m in models[0].backbones.modules() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_hook(lambda _, args, out: calls.append(len(args[0])))

    zoo.ensemble(models, tta="flip")(torch.zeros(2, 3, 64, 64))

    assert calls == [4]

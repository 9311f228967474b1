"""The model: a dict out, predictions in the order of the pictures, one graph."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.contracts.features import Features, Want
from zoo.data import FileSample
from zoo.errors import ConfigError, DataError, ShapeError, UnknownName

CLASSES = ["cat", "dog", "owl"]


def kinds(name="kind", **settings):
    return zoo.head("classifier", name=name, classes=CLASSES, **settings)


@pytest.fixture(scope="module")
def model():
    return zoo.build("timm:test_resnet", [kinds(), zoo.head("regression", name="age")], weights=None, seed=0)


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """Five noisy pictures of different sizes and modes."""
    rng = np.random.default_rng(0)
    paths = []
    for number, mode in enumerate(("RGB", "L", "RGB", "RGBA", "P")):
        pixels = rng.integers(0, 256, (50 + 7 * number, 70, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).convert(mode).save(paths[-1])
    return paths


def told(rows):
    return [{name: one.as_json() for name, one in row.items()} for row in rows]


# --- forward


@pytest.mark.parametrize("heads", [[], [kinds()], [kinds(), kinds("other")]], ids=len)
def test_the_output_is_a_dict_whatever_the_number_of_heads(heads):
    built = zoo.build("timm:test_resnet", heads, weights=None)
    outputs = built(torch.zeros(2, 3, 64, 64))

    assert isinstance(outputs, dict)
    assert list(outputs) == [head.name for head in heads]


@pytest.mark.parametrize(
    "name", ["type", "float", "train", "forward", "parameters", "training", "T", "0", "a-b", "state_dict"]
)
def test_a_label_column_may_be_called_like_a_method(name):
    built = zoo.build("timm:test_resnet", kinds(name), weights=None)

    assert list(built(torch.zeros(1, 3, 64, 64))) == [name]
    assert any(key.startswith(f"heads.{name}.") for key in built.state_dict())
    assert copy.deepcopy(built).train().training


def test_the_outputs_are_the_scores_of_the_features(model):
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs, scored = model(image), model.score(model.features(image))

    assert all(torch.equal(outputs[name], scored[name]) for name in outputs)


def test_an_input_may_be_named_by_the_model_or_by_the_backbone(model):
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = model(image)["kind"]

        assert torch.equal(model({"image": image})["kind"], plain)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(3, 64, 64), r"takes image as \(batch, 3, height, width\), got rank 3 \(3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, 1), "got rank 5"),
        (torch.zeros(1, 4, 64, 64), r"got 4 channels \(1, 4, 64, 64\); build it with '\?in_channels=4'"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "of float32, got uint8"),
        ({"picture": torch.zeros(1, 3, 64, 64)}, "takes image, got an input called 'picture'"),
        ({}, "needs the input 'image', got none"),
    ],
)
def test_an_input_that_does_not_fit_is_answered_with_what_was_expected_and_what_came(model, inputs, words):
    with pytest.raises(ShapeError, match=words):
        model(inputs)


@pytest.mark.parametrize("side", [64, 256])
def test_a_fixed_size_is_said(side):
    built = zoo.build("timm:test_vit", weights=None)

    with pytest.raises(ShapeError, match=rf"takes pictures of 160×160 pixels only, got {side}×{side}"):
        built(torch.zeros(1, 3, side, side))


def test_several_inputs_must_all_be_given_by_name():
    built = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, kinds(stream="a"), weights=None)

    with pytest.raises(ShapeError, match="the inputs a, b; give a dict of them, got one tensor"):
        built(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ShapeError, match="needs the input 'b', got a"):
        built({"a": torch.zeros(1, 3, 64, 64)})


def test_a_task_without_targets_adds_a_connected_zero(model):
    outputs = model(torch.randn(2, 3, 64, 64))
    losses = model.losses(outputs, {"kind": torch.tensor([0, 2])})

    assert losses["age"] == 0
    assert losses["age"].requires_grad
    torch.testing.assert_close(losses["kind"], torch.nn.functional.cross_entropy(outputs["kind"], torch.tensor([0, 2])))


def test_a_task_is_found_by_name(model):
    assert model.task("kind") is model.tasks()["kind"]
    with pytest.raises(UnknownName, match="no task 'kinds'; it has kind"):
        model.task("kinds")


# --- prediction


def test_one_picture_gives_one_prediction_and_a_list_gives_a_list(model, pictures):
    one, several = model.predict(pictures[0]), model.predict(pictures[:1])

    assert isinstance(one, dict)
    assert told([one]) == told(several)


def test_every_kind_of_picture_is_predicted_alike(model, pictures):
    expected = told(model.predict(pictures[:1]))
    opened = Image.open(pictures[0])
    tensor = model.spec.streams["main"].backbone.preprocessing.apply(opened)

    for form in (str(pictures[0]), opened, tensor, FileSample(pictures[0])):
        assert told([model.predict(form)]) == expected
    assert told(model.predict(tensor[None])) == expected
    assert told(model.predict([str(pictures[0]), opened, tensor])) == expected * 3


def test_predictions_keep_the_order_whatever_the_batch(model, pictures):
    single = told([model.predict(path) for path in pictures])

    for size in (1, 2, 5, 32):
        rows = told(model.predict(pictures, batch_size=size))
        assert [row["kind"]["label"] for row in rows] == [row["kind"]["label"] for row in single]
        torch.testing.assert_close(
            torch.tensor([row["age"]["value"] for row in rows]), torch.tensor([row["age"]["value"] for row in single])
        )


def test_the_probabilities_are_the_softmax_of_the_output(model, pictures):
    tensor = model.spec.streams["main"].backbone.preprocessing.apply(Image.open(pictures[0]))
    with torch.no_grad():
        expected = model(tensor[None])["kind"].softmax(dim=1)[0]
    found = model.predict(pictures[0])["kind"].as_json()["probabilities"]

    assert list(found) == CLASSES
    torch.testing.assert_close(torch.tensor(list(found.values())), expected)


@pytest.mark.parametrize("empty", [[], (), torch.zeros(0, 3, 64, 64)], ids=["list", "tuple", "tensor"])
def test_no_pictures_give_no_predictions(model, empty):
    assert model.predict(empty) == []


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_mode_as_it_was(model, pictures, training):
    model.train(training)
    try:
        model.predict(pictures)
        assert model.training is training
    finally:
        model.eval()


def test_predicting_in_training_mode_uses_running_statistics(model, pictures):
    expected = told(model.predict(pictures))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    try:
        assert told(model.predict(pictures)) == expected
    finally:
        model.eval()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_failed_prediction_leaves_the_mode_as_it_was(model, pictures, tmp_path):
    model.train()
    try:
        with pytest.raises(DataError):
            model.predict([*pictures, tmp_path / "none.png"])
        assert model.training
    finally:
        model.eval()


def test_a_bare_backbone_predicts_nothing_for_each_picture(pictures):
    assert zoo.build("timm:test_resnet", weights=None).predict(pictures) == [{}] * len(pictures)


@pytest.mark.parametrize(
    "content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n"], ids=["absent", "empty", "text", "cut"]
)
def test_a_picture_that_cannot_be_read_is_named_with_its_path(model, pictures, tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=r"broken\.png"):
        model.predict([pictures[0], path])


def test_a_folder_is_no_picture(model, tmp_path):
    with pytest.raises(DataError, match=tmp_path.name):
        model.predict(tmp_path)


@pytest.mark.parametrize("thing", [[3], [None], [b"png"]], ids=str)
def test_what_is_no_picture_is_refused(model, thing):
    with pytest.raises(DataError, match="A picture must be a path, a Pillow image or a tensor, got"):
        model.predict(thing)


@pytest.mark.parametrize("thing", [3, None], ids=str)
def test_what_is_not_even_a_sequence_is_refused(model, thing):
    with pytest.raises(DataError, match="A picture must be a path, a Pillow image or a tensor, got"):
        model.predict(thing)


def test_tensors_that_do_not_fit_are_refused(model):
    with pytest.raises(ShapeError, match=r"must be \(3, height, width\)"):
        model.predict(torch.zeros(1, 64, 64))
    with pytest.raises(ShapeError, match="must have one size"):
        model.predict([torch.zeros(3, 64, 64), torch.zeros(3, 32, 32)])
    with pytest.raises(ShapeError, match=r"must be \(3, height, width\)"):
        model.predict(torch.zeros(64, 64))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_one_picture_or_more(model, size):
    with pytest.raises(ConfigError, match=f"batch_size must be 1 or more, got {size}"):
        model.predict([], batch_size=size)


def test_a_model_of_several_inputs_wants_them_by_name(pictures):
    built = zoo.build({"a": "timm:test_resnet", "b": "timm:test_vit"}, kinds(stream="a"), weights=None)

    with pytest.raises(DataError, match="A row must give the inputs a, b by name, got"):
        built.predict(pictures)


# --- stages


def test_the_stages_count_every_parameter_once(model):
    rows = model.stages()

    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert [row.name for row in rows] == [
        *(f"main.{name}" for name in ("stem", "s1", "s2", "s3", "s4", "post")),
        "heads.kind",
        "heads.age",
    ]


# --- graphs


class Wanting(nn.Module):
    """A backbone with what is wanted of it fixed, as a model fixes it."""

    def __init__(self, backbone, want):
        super().__init__()
        self.backbone, self.want = backbone, want

    def forward(self, image):
        return self.backbone(image, self.want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "want"),
    [
        ("timm:test_resnet", Want(maps=("s1", "s3"))),
        ("timm:test_vit", Want(tokens=True, maps=("s4",))),
        ("timm:test_efficientnet", Want(maps=("s2", "s5"))),
    ],
)
def test_features_are_exported_in_one_graph(reference, want):
    backbone = zoo.build(reference, weights=None).backbones["main"]
    image = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = backbone(image, want)
        found = torch.export.export(Wanting(backbone, want), (image,)).module()(image)

    assert isinstance(found, Features)
    assert torch.equal(found.pooled, expected.pooled)
    assert all(torch.equal(found.maps[stage], expected.maps[stage]) for stage in want.maps)
    assert found.grid == expected.grid


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["timm:test_resnet", "timm:test_vit"])
def test_a_model_compiles_to_one_graph(reference):
    built = zoo.build(reference, [kinds(), kinds("type")], weights=None)
    image = torch.randn(2, 3, 160, 160)
    torch.compiler.reset()
    compiled = torch.compile(built, backend="eager", fullgraph=True)

    with torch.no_grad():
        expected, found = built(image), compiled(image)
    assert list(found) == ["kind", "type"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_model_exports_to_one_graph():
    built = zoo.build("timm:test_resnet", kinds(), weights=None)
    image = torch.randn(2, 3, 64, 64)

    with torch.no_grad():
        exported = torch.export.export(built, (image,)).module()
        assert torch.equal(exported(image)["kind"], built(image)["kind"])


def test_a_device_that_is_not_there_is_one_sentence():
    model = zoo.build("timm:test_resnet", "regression", weights=None)

    with pytest.raises(ConfigError, match=r"^device must be one of this machine, such as 'cpu', got 'gpu': [^\n]+$"):
        model.predict(torch.zeros(3, 64, 64), device="gpu")

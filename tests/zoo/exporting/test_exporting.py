"""An exported folder is the library's own: it loads there to the very logits, labels and preprocessing."""

import json
import types

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

import zoo
from zoo.errors import BundleError, ConfigError

CLASSES = ["cat", "dog | owl", "<b>Ж</b>"]
HEAD = zoo.head("classifier", name="pet", classes=CLASSES)


@pytest.fixture(autouse=True)
def without_bars():
    """Keep transformers from writing to a terminal."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture
def vit(tmp_path):
    """A tiny ViT's folder with an image processor."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_std=[0.25] * 3)
    processor.save_pretrained(tmp_path / "vit")
    return f"hf:{tmp_path}/vit"


def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_efficientnet?in_channels=1",
        "test_vit?img_size=96",
        "test_resnet?global_pool=max",
    ],
)
def test_timm_and_transformers_load_a_folder_of_timm_to_equal_logits(tmp_path, name):
    model = zoo.build(f"timm:{name}", HEAD, weights=None, seed=0)
    entry = model.spec.streams["main"].backbone.inputs[0]
    batch = torch.rand(2, entry.channels, *entry.size)

    told = zoo.export(model.save(tmp_path / "bundle"), tmp_path / "out", layout="timm")
    alone = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()

    with torch.inference_mode():
        ours = model(batch)["pet"]
        assert torch.equal(alone(batch), ours)
        assert torch.equal(wrapped(pixel_values=batch).logits, ours)
    assert alone.pretrained_cfg["label_names"] == CLASSES
    assert list(wrapped.config.id2label.values()) == CLASSES
    assert (
        {file.name for file in (tmp_path / "out").iterdir()} == set(told.files) == {"config.json", "model.safetensors"}
    )
    assert told.classes == tuple(CLASSES)
    assert told.left_out == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit?img_size=96"])
def test_timm_prepares_pictures_from_the_folder_as_the_model_does(tmp_path, name):
    model = zoo.build(f"timm:{name}", HEAD, weights=None)
    zoo.export(model, tmp_path / "out", layout="timm")
    alone = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True)

    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(alone), is_training=False)

    assert torch.equal(prepare(photo()), model.backbones["main"].preprocess(photo()))


@pytest.mark.slow
def test_transformers_loads_a_folder_of_its_own_to_equal_logits(tmp_path, vit):
    model = zoo.build(vit, HEAD)
    zoo.export(model, tmp_path / "out", layout="transformers")

    alone = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(photo(), return_tensors="pt")["pixel_values"]

    assert type(alone) is transformers.ViTForImageClassification
    assert alone.config.id2label == dict(enumerate(CLASSES))
    assert alone.config.label2id == {name: place for place, name in enumerate(CLASSES)}
    assert torch.equal(pixels[0], model.backbones["main"].preprocess(photo()))
    with torch.inference_mode():
        assert torch.equal(alone(pixels).logits, model(pixels)["pet"])


@pytest.mark.slow
def test_several_labels_are_a_problem_type_and_what_has_no_place_is_told(tmp_path, vit):
    head = zoo.head("classifier", name="tags", classes=["a", "b"], multi_label=True, threshold=0.3, dropout=0.5)

    told = zoo.export(zoo.build(vit, head), tmp_path / "out", layout="transformers")

    assert json.loads((tmp_path / "out/config.json").read_text())["problem_type"] == "multi_label_classification"
    assert told.left_out == ("threshold", "dropout")


@pytest.mark.slow
def test_the_keys_are_the_librarys_own(tmp_path, vit):
    zoo.export(zoo.build("timm:test_resnet", HEAD, weights=None), tmp_path / "timm", layout="timm")
    zoo.export(zoo.build(vit, HEAD), tmp_path / "hf", layout="transformers")

    from safetensors.torch import load_file

    resnet = timm.create_model("test_resnet", num_classes=3)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert set(load_file(tmp_path / "timm/model.safetensors")) == set(resnet.state_dict())
    assert set(load_file(tmp_path / "hf/model.safetensors")) == set(
        transformers.ViTForImageClassification(config).state_dict()
    )


REFUSED = {
    "two heads": (["timm:test_resnet", [HEAD, zoo.head("classifier", name="b", classes=["x", "y"])]], "2 heads"),
    "no head": (["timm:test_resnet", []], "0 heads"),
    "another head": (["timm:test_resnet", zoo.head("regression", name="age")], "'regression'"),
    "hidden": (["timm:test_resnet", HEAD.with_config(hidden=8)], "hidden layer"),
    "norm": (["timm:test_resnet", HEAD.with_config(norm=True)], "normalisation"),
    "cosine": (["timm:test_resnet", HEAD.with_config(cosine=True)], "cosine"),
    "streams": (
        [{"a": "timm:test_resnet", "b": "timm:test_vit"}, zoo.head("feature_fusion", name="f", head=HEAD.flat())],
        "several streams",
    ),
    "torchvision": (["torchvision:mobilenet_v3_small", HEAD], "backbone of torchvision"),
    "two classifiers": (["timm:deit_tiny_distilled_patch16_224", HEAD], "head_dist"),
    "a norm in the classifier": (["timm:levit_128s", HEAD], "BatchNorm1d"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_layout_cannot_say_is_refused_by_name_and_nothing_is_written(tmp_path, case):
    arguments, reason = REFUSED[case]
    model = zoo.build(*arguments, weights=None)

    with pytest.raises(ConfigError, match=reason):
        zoo.export(model, tmp_path / "out", layout="timm")

    assert list(tmp_path.iterdir()) == [tmp_path / "zoo-cache"] or not list(tmp_path.iterdir())


def test_an_ensemble_a_cut_backbone_and_another_dtype_are_refused(tmp_path):
    model = zoo.build("timm:test_resnet", HEAD, weights=None)
    fused = zoo.build("timm:test_resnet", zoo.head("segmentation", name="map", classes=["a", "b"]), weights=None)

    with pytest.raises(ConfigError, match="ensemble of 2 members"):
        zoo.export(zoo.ensemble({"a": model, "b": model}), tmp_path / "out", layout="timm")
    with pytest.raises(ConfigError, match="'segmentation'"):
        zoo.export(fused, tmp_path / "out", layout="timm")
    with pytest.raises(ConfigError, match="bfloat16"):
        zoo.export(zoo.build("timm:test_resnet", HEAD, weights=None, dtype="bfloat16"), tmp_path / "out", layout="timm")
    model.backbones["main"].kept = zoo.Want(maps=("s1",), pooled=False)
    with pytest.raises(ConfigError, match="cut off"):
        zoo.export(model, tmp_path / "out", layout="timm")


@pytest.mark.slow
def test_a_classifier_that_reads_another_vector_is_refused(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")

    with pytest.raises(ConfigError, match="lacks"):
        zoo.export(zoo.build(f"hf:{tmp_path}/dino", HEAD), tmp_path / "out", layout="transformers")


@pytest.mark.slow
def test_a_pooling_that_the_library_does_not_have_is_refused(tmp_path, vit):
    with pytest.raises(ConfigError, match="other logits"):
        zoo.export(zoo.build(f"{vit}?pooling=mean", HEAD), tmp_path / "out", layout="transformers")

    assert not (tmp_path / "out").exists()


def test_a_library_that_gives_other_logits_is_noticed_before_anything_is_published(tmp_path, monkeypatch):
    model = zoo.build("timm:test_resnet", HEAD, weights=None)
    made = timm.create_model

    def another(name, **more):
        native = made(name, **more)
        if name.startswith("local-dir:"):
            nn.init.constant_(native.fc.bias, 7.0)
        return native

    monkeypatch.setattr(timm, "create_model", another)
    with pytest.raises(ConfigError, match="other logits"):
        zoo.export(model, tmp_path / "out", layout="timm")

    assert not [path for path in tmp_path.iterdir() if path.name != "zoo-cache"]


def test_a_folder_that_is_there_and_a_layout_that_is_not_are_refused(tmp_path):
    (tmp_path / "out").mkdir()

    with pytest.raises(BundleError, match="exists"):
        zoo.export(tmp_path / "bundle", tmp_path / "out", layout="timm")
    with pytest.raises(ConfigError, match="'timm'"):
        zoo.export(tmp_path / "bundle", tmp_path / "new", layout="tim")
    with pytest.raises(ConfigError, match="SimpleNamespace"):
        zoo.export(types.SimpleNamespace(), tmp_path / "new", layout="timm")


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = zoo.build("timm:test_resnet", HEAD, weights=None).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    zoo.export(model, tmp_path / "out", layout="timm")

    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

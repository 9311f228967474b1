"""An exported ONNX file gives the model's outputs in ONNX Runtime, for any batch, and says what goes in and out."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import zoo
from zoo.errors import ConfigError, PluginError
from zoo.exporting import onnx_file as making

PET = zoo.head("classifier", name="pet", classes=["cat", "dög"])
AGE = zoo.head("regression", name="age")


def session_of(folder):
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A trained-looking model with two heads, in training mode, and its folder."""
    folder = tmp_path_factory.mktemp("onnx")
    model = zoo.build("timm:test_efficientnet", [PET, AGE], weights=None, seed=0).train()
    told = zoo.export(model.save(folder / "bundle"), folder / "out", layout="onnx")
    return model, folder / "out", told


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4])
def test_onnx_runtime_gives_each_tasks_output_by_name_for_any_batch(exported, rows):
    model, folder, _ = exported
    batch = torch.randn(rows, 3, 160, 160)
    session = session_of(folder)

    found = dict(zip(["age", "pet"], session.run(["age", "pet"], {"image": batch.numpy()}), strict=True))

    with torch.inference_mode():
        wanted = model.eval()(batch)
    assert {entry.name for entry in session.get_outputs()} == {"age", "pet"} == wanted.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, wanted[name].numpy(), atol=1e-4)


OTHERS = [
    "hf:vit?image_size=32&patch_size=8&hidden_size=32&intermediate_size=64&num_attention_heads=2&num_hidden_layers=2",
    "hf:resnet?embedding_size=8&hidden_sizes=[8,12,16,20]&depths=[1,1,1,1]&layer_type=basic",
    "torchvision:shufflenet_v2_x0_5?img_size=64",
]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", OTHERS, ids=["hf vit", "hf resnet", "torchvision"])
def test_backbones_of_the_other_libraries_take_any_batch_too(tmp_path, backbone):
    model = zoo.build(backbone, PET, weights=None, seed=0)
    zoo.export(model, tmp_path / "out", layout="onnx")
    height, width = model.spec.streams["main"].backbone.inputs[0].size
    session, batch = session_of(tmp_path / "out"), torch.randn(5, 3, height, width)

    (found,) = session.run(["pet"], {"image": batch.numpy()})

    assert session.get_inputs()[0].shape[0] == "batch"
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.eval()(batch)["pet"].numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_file_tells_its_preprocessing_and_its_classes(exported):
    model, folder, told = exported

    metadata = json.loads(session_of(folder).get_modelmeta().custom_metadata_map["zoo"])

    recipe = metadata["inputs"]["image"]["preprocessing"]
    ours = model.spec.streams["main"].backbone.preprocessing
    assert (recipe["mean"], recipe["std"], recipe["size"]) == (list(ours.mean), list(ours.std), list(ours.size))
    assert {head["name"]: head["type"] for head in metadata["heads"]} == {"pet": "classifier", "age": "regression"}
    assert metadata["heads"][0]["config"]["classes"] == ["cat", "dög"]
    assert told.files == {"model.onnx": (folder / "model.onnx").stat().st_size}


def test_a_model_that_is_exported_stays_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "_traced", lambda *given: b"")
    monkeypatch.setattr(making, "_compare", lambda *given: None)
    model = zoo.build("timm:test_resnet", PET, weights=None).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    zoo.export(model, tmp_path / "out", layout="onnx")

    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_file_with_other_outputs_is_never_put_in_place(tmp_path, exported, monkeypatch):
    _, folder, _ = exported
    other = zoo.build("timm:test_efficientnet", [PET, AGE], weights=None, seed=1)
    monkeypatch.setattr(making, "_traced", lambda *given: (folder / "model.onnx").read_bytes())

    with pytest.raises(ConfigError, match="gives other outputs in ONNX Runtime"):
        zoo.export(other, tmp_path / "out", layout="onnx")

    assert not list(tmp_path.glob("*out*"))


def test_what_has_no_place_in_the_file_is_refused_by_name(tmp_path):
    named = zoo.build("timm:test_resnet", zoo.head("classifier", name="image", classes=["a", "b"]), weights=None)
    half = zoo.build("timm:test_resnet", PET, weights=None).half()

    with pytest.raises(ConfigError, match="the name 'image' for an input and a task"):
        zoo.export(named, tmp_path / "out", layout="onnx")
    with pytest.raises(ConfigError, match="tensors of float16"):
        zoo.export(half, tmp_path / "out", layout="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [["test_vit"], ["mobilenetv3_small_050"], ["test_resnet", "test_convnext"]])
def test_models_of_other_families_and_of_two_streams_are_exported(tmp_path, streams):
    backbones = {f"s{number}": f"timm:{name}" for number, name in enumerate(streams)}
    inputs = {stream: stream for stream in backbones}
    heads = [zoo.head("classifier", name=f"of_{stream}", stream=stream, classes=["a", "b"]) for stream in backbones]
    model = zoo.build(backbones, heads, weights=None, inputs=inputs, seed=0).eval()

    zoo.export(model, tmp_path / "out", layout="onnx")

    sizes = {name: entry.backbone.inputs[0].size for name, entry in model.spec.streams.items()}
    batch = {name: torch.rand(3, 3, *size) for name, size in sizes.items()}
    with torch.inference_mode():
        wanted = model(batch)
    found = session_of(tmp_path / "out").run(list(wanted), {name: given.numpy() for name, given in batch.items()})
    for values, (name, output) in zip(found, wanted.items(), strict=True):
        np.testing.assert_allclose(values, output.numpy(), atol=1e-4, err_msg=name)


def test_a_missing_library_is_told_before_the_bundle_is_read(tmp_path, monkeypatch):
    making.import_onnxruntime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(PluginError, match=r"headzoo\[onnx\]"):
        zoo.export(tmp_path / "no-bundle", tmp_path / "out", layout="onnx")

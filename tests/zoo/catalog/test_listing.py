"""``zoo.list`` and its filters."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import zoo
from zoo.catalog import catalogs, list_backbones
from zoo.contracts.catalog import CAPABILITIES
from zoo.errors import ConfigError, PluginError, UnknownName

from .conftest import ACME


def names(**filters) -> list[str]:
    return [listing.entry.name for listing in list_backbones(**{"provider": "acme", **filters})]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["Big_Net-2", "bare", "bignet_3", "story", "tiny_maps"]),
        ({"pattern": "b*"}, ["Big_Net-2", "bare", "bignet_3"]),
        ({"pattern": "*NET*"}, ["Big_Net-2", "bignet_3"]),
        ({"needs": "maps"}, ["tiny_maps"]),
        ({"needs": ["tokens", "pooled"]}, ["story"]),
        ({"needs": ["tokens", "maps"]}, []),
        ({"max_params": 100}, ["story", "tiny_maps"]),
        ({"max_params": 99.5}, ["story"]),
        ({"min_params": 100}, ["Big_Net-2", "tiny_maps"]),
        ({"min_params": 11, "max_params": 899}, ["tiny_maps"]),
        ({"license": "apache*"}, ["Big_Net-2"]),
        ({"license": "Apache*"}, ["Big_Net-2"]),
        ({"license": "mit"}, ["Big_Net-2", "bignet_3"]),
        ({"license": "gpl*"}, []),
        ({"modality": "text"}, ["story"]),
        ({"size": 32}, ["tiny_maps"]),
        ({"size": (64, 32)}, ["bignet_3"]),
        ({"size": 16}, []),
        ({"max_size": 64}, ["Big_Net-2", "bignet_3", "tiny_maps"]),
        ({"max_size": 63}, ["tiny_maps"]),
        ({"tag": "*in22k*"}, ["bignet_3"]),
        ({"tag": "a*"}, ["Big_Net-2", "bignet_3", "story"]),
        ({"tag": "a*", "license": "mit"}, ["bignet_3"]),
        ({"pretrained": True}, ["Big_Net-2", "bignet_3", "story", "tiny_maps"]),
        ({"pretrained": True, "modality": "image", "max_params": 500}, ["tiny_maps"]),
        ({"sort": "name"}, ["bare", "Big_Net-2", "bignet_3", "story", "tiny_maps"]),
        ({"sort": "parameters"}, ["story", "tiny_maps", "Big_Net-2", "bare", "bignet_3"]),
    ],
    ids=str,
)
def test_a_filter_leaves_what_fits(acme, filters, expected):
    acme()

    assert names(**filters) == expected


def test_every_filter_agrees_with_the_entries_of_the_shipped_catalogs():
    everything = {(name, entry.name): entry for name, made in catalogs() for entry in made.entries}
    checks = {
        "needs": ("maps", lambda e: "maps" in e.capabilities),
        "min_params": (2e7, lambda e: (e.parameters or 0) >= 2e7),
        "max_params": (2e7, lambda e: (e.parameters or 1e99) <= 2e7),
        "size": (224, lambda e: e.size == (224, 224)),
        "max_size": (192, lambda e: e.size is not None and max(e.size) <= 192),
        "tag": ("*in22k*", lambda e: any("in22k" in tag for tag in e.tags)),
        "license": ("cc-by-nc*", lambda e: any(t.lower().startswith("cc-by-nc") for t in e.licenses.values())),
        "modality": ("text", lambda e: e.modality == "text"),
        "pretrained": (True, lambda e: bool(e.tags)),
    }
    for name, (value, fits) in checks.items():
        listed = {(one.provider, one.entry.name) for one in list_backbones(**{name: value})}
        assert listed == {key for key, entry in everything.items() if fits(entry)}, name
        assert listed, name


def test_the_reference_of_a_line_builds_weights_that_were_asked_for(acme):
    acme()

    assert [one.reference for one in list_backbones("acme:big*", license="mit")] == [
        "acme:Big_Net-2",
        "acme:bignet_3.a2_in22k",
    ]
    for one in list_backbones(tag="*in22k*", license="apache*"):
        found, entry = zoo.info(one.reference)
        tag = found.reference.name.removeprefix(f"{entry.name}.")
        assert "in22k" in tag
        assert entry.licenses[tag].startswith("apache")


def test_parameters_sort_over_all_providers():
    listed = list_backbones(sort="parameters")

    counts = [one.entry.parameters for one in listed if one.entry.parameters is not None]
    assert counts == sorted(counts)
    assert {one.provider for one in listed[:400]} >= {"timm", "torchvision"}


def test_the_pattern_may_name_the_provider(acme):
    acme()

    assert [listing.reference for listing in list_backbones("acme:t*")] == ["acme:tiny_maps"]
    assert {listing.provider for listing in list_backbones("timm:resnet1*")} == {"timm"}


def test_all_providers_are_listed_without_one_being_named(acme):
    acme()

    assert {"acme", "timm", "torchvision"} <= {listing.provider for listing in list_backbones()}


@pytest.mark.parametrize(
    ("filters", "error", "told"),
    [
        ({"provider": "tim"}, UnknownName, "No plugin is called 'tim'"),
        ({"provider": "heads"}, UnknownName, "'heads' has no backbones"),
        ({"modality": "smell"}, UnknownName, r"modality must be one of image, .* got 'smell'\."),
        ({"needs": ["pooled", "map"]}, UnknownName, r"needs must be of .*maps.* got 'map'\. Did you mean 'maps'\?"),
        ({"sort": "age"}, ConfigError, "sort must be one of name, parameters, got 'age'"),
        ({"min_params": 2, "max_params": 1}, ConfigError, "min_params must be at most max_params, got 2 and 1"),
        ({"max_params": -1}, ConfigError, "max_params must be a number, 0 or more, got -1"),
        ({"max_params": float("nan")}, ConfigError, "max_params must be a number, 0 or more, got nan"),
        ({"size": 0}, ConfigError, "size must be pixels"),
        ({"size": (1, 2, 3)}, ConfigError, "size must be pixels"),
    ],
)
def test_what_cannot_be_asked_is_refused(filters, error, told):
    with pytest.raises(error, match=told):
        list_backbones(**filters)


def test_zoos_own_words_for_capabilities_are_known_where_no_catalog_has_them(acme):
    acme()

    assert all(names(needs=word) == [] for word in CAPABILITIES if word not in ("maps", "pooled", "tokens"))
    used = {
        word for name, made in catalogs() if name != "acme" for entry in made.entries for word in entry.capabilities
    }
    assert used <= set(CAPABILITIES)


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"license": "gpl*"}, "No weights have a licence like 'gpl*'; those that are stated: apache-2.0, mit."),
        ({"tag": "in22k"}, "No weights have a tag like 'in22k'; a part of one is written '*in22k*'."),
        ({"pattern": "flow*"}, "acme:flow_net is not served: it sees two pictures."),
    ],
)
def test_a_pattern_that_nothing_fits_gives_an_empty_list_and_a_hint(acme, caplog, filters, told):
    acme()
    with caplog.at_level(logging.INFO, logger="zoo"):
        assert names(**filters) == []

    assert [record.getMessage() for record in caplog.records] == [told]


def test_what_is_not_served_is_not_listed(acme):
    acme(replace(ACME, refused={"flow_net": "why"}))

    assert "flow_net" not in names()
    assert not [one for one in list_backbones("*raft*") if one.provider == "torchvision"]


def test_a_provider_whose_library_is_missing_is_a_warning_among_others_and_an_error_alone(acme, caplog):
    acme(library_is=None)

    listed = list_backbones()
    assert {"timm", "torchvision"} <= {one.provider for one in listed}
    assert "acme" not in {one.provider for one in listed}
    told = "The backbones of 'acme' are unavailable: they need pluggy; pip install pluggy."
    assert [record.getMessage() for record in caplog.records] == [told]
    with pytest.raises(PluginError, match=r"they need pluggy; pip install pluggy\.$"):
        list_backbones(provider="acme")
    with pytest.raises(PluginError, match=r"they need pluggy; pip install pluggy\.$"):
        zoo.resolve("acme:tiny")
    assert zoo.resolve("resnet18d").reference.provider == "timm"

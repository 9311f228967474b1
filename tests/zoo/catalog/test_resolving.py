"""From a name to one backbone."""

from __future__ import annotations

import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import zoo
from zoo.catalog import Resolution, catalog_of, catalogs, resolve
from zoo.contracts.catalog import Catalog
from zoo.errors import InvalidReference, UnknownName, ZooError

from .conftest import ENTRIES


@pytest.mark.parametrize(
    ("asked", "reference", "how"),
    [
        ("acme:Big_Net-2", "acme:Big_Net-2.b", "exact"),
        ("acme:Big_Net-2.a", "acme:Big_Net-2.a", "exact"),
        ("acme:Big_Net-2.A", "acme:Big_Net-2.a", "exact"),
        ("acme:Big_Net-2.", "acme:Big_Net-2.b", "exact"),
        ("acme:bare", "acme:bare", "exact"),
        ("acme:bignet_3.a.in1k", "acme:bignet_3.a.in1k", "exact"),
        ("acme:bignet_3.A-IN1K", "acme:bignet_3.a.in1k", "exact"),
        ("acme:bignet_3.a2", "acme:bignet_3.a2_in22k", "prefix"),
        ("acme:bignet2", "acme:Big_Net-2.b", "folded"),
        ("acme:BIG net_2.a", "acme:Big_Net-2.a", "folded"),
        ("acme:big.net.3", "acme:bignet_3.a.in1k", "folded"),
        ("acme:big.net.3.a2_in22k", "acme:bignet_3.a2_in22k", "folded"),
        ("acme:oldnet", "acme:bignet_3.a.in1k", "renamed"),
        ("acme:Old-Net", "acme:bignet_3.a.in1k", "renamed"),
        ("acme:oldnet.a2_in22k", "acme:bignet_3.a2_in22k", "renamed"),
        ("acme:older.z", "acme:Big_Net-2.a", "renamed"),
        ("acme:old_Two", "acme:bignet_3.a2_in22k", "renamed"),
        ("acme:tiny", "acme:tiny_maps.x", "alias"),
        ("acme:Story Teller", "acme:story.a", "alias"),
        ("acme:story.teller", "acme:story.a", "alias"),
        ("acme:tiny_m", "acme:tiny_maps.x", "prefix"),
        ("acme:sto", "acme:story.a", "prefix"),
    ],
)
def test_a_name_is_resolved_by_the_first_rule_that_fits(acme, asked, reference, how):
    acme()
    found = resolve(asked)

    assert (str(found.reference), found.how) == (reference, how)
    assert found.entry in ENTRIES
    assert str(found) == f"{asked} → {reference} ({how})"


def test_revision_part_and_options_survive(acme):
    acme()

    assert str(resolve("acme:tiny@main#vision?x=1").reference) == "acme:tiny_maps.x@main#vision?x=1"


@pytest.mark.parametrize("name", ["acme:Big", "acme:gone", "acme:zzz", "acme:.a", "acme:---", "acme:b"])
def test_a_name_that_no_rule_finds_is_unknown(acme, name):
    acme()

    with pytest.raises(UnknownName, match=r"^acme \(pluggy 0\) has no backbone"):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("Big_Net-2.q", "b, a"),
        ("bare.q", "none"),
        ("bignet_3.a", r"a\.in1k, a2_in22k"),
        ("old_Two.q", None),
        ("tiny.q", "x"),
    ],
)
def test_an_unknown_tag_is_answered_with_the_known_ones(acme, name, tags):
    acme()

    told = "has no backbone" if tags is None else rf"has no weights tagged '\w+'; its tags are {tags}\.$"
    with pytest.raises(UnknownName, match=told):
        resolve(f"acme:{name}")


@pytest.mark.parametrize("name", ["acme:flow_net", "acme:Flow-Net.x", "flow_net"])
def test_a_name_that_is_not_served_is_refused_with_the_reason(acme, name):
    acme()

    with pytest.raises(UnknownName, match=r"^acme:flow_net is not served: it sees two pictures\.$"):
        resolve(name)


def test_names_outside_an_open_catalog_are_taken_as_given(acme):
    acme(Catalog(library="pluggy", version="0", entries=ENTRIES, open_names=True))

    for name in ("acme:someone/some.model", "acme:./folder", "acme:~/folder"):
        found = resolve(name)
        assert (str(found.reference), found.how, found.entry) == (name, "as given", None)
    assert resolve("acme:story").how == "exact"
    with pytest.raises(UnknownName, match=r"A hub id is written 'owner/name', a local folder '\./name'\.$"):
        resolve("acme:folder")


def test_a_closed_catalog_takes_no_hub_id(acme):
    acme()

    with pytest.raises(UnknownName, match="has no backbone 'someone/model'"):
        resolve("acme:someone/model")


def test_a_bare_name_is_accepted_if_one_provider_has_it(acme):
    acme()
    found = resolve("tiny_maps")

    assert (found.asked, str(found.reference)) == ("tiny_maps", "acme:tiny_maps.x")


@pytest.mark.parametrize("name", ["resnet50", "vit", "swin"])
def test_a_bare_name_that_several_have_is_refused_with_all_of_them(name):
    with pytest.raises(UnknownName, match=rf"^'{name}' is several backbones: .*; say which\.$") as caught:
        resolve(name)

    assert "timm:" in str(caught.value)
    assert "torchvision:" in str(caught.value)


def test_an_exact_bare_name_with_weights_beats_a_loose_one_elsewhere():
    assert str(resolve("resnet18d").reference).startswith("timm:resnet18d.")


@pytest.mark.parametrize("name", ["timm:resnet5O", "timm:mobilenetv9", "resnet5O", "timm:vit_tiny_patch16_225"])
def test_a_misspelt_name_is_answered_with_at_most_eight_near_ones(name):
    with pytest.raises(UnknownName, match=r"The nearest are [^\n]+\.$") as caught:
        resolve(name)

    near = str(caught.value).partition("The nearest are ")[2].removesuffix(".").split(", ")
    assert 1 <= len(near) <= 8
    for one in near:
        assert resolve(one if ":" in one else f"timm:{one}")


def test_the_nearest_name_of_a_slip_is_the_one_that_was_meant():
    with pytest.raises(UnknownName, match=r"The nearest are resnet50[,.]"):
        resolve("timm:resnet5O")


def test_a_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(UnknownName, match=r"has no backbone 'qqqqqqqqqq'\.$"):
        resolve("timm:qqqqqqqqqq")


@pytest.mark.parametrize("name", ["timm:", ":a", "Timm:a", "timm:a?x", ""])
def test_a_text_outside_the_grammar_is_no_unknown_name(name):
    with pytest.raises(InvalidReference):
        resolve(name)


def test_an_unknown_provider_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"No plugin is called 'tim'; installed: .*Did you mean 'timm'\?"):
        resolve("tim:resnet18")


def test_info_gives_the_resolution_and_the_entry(acme):
    acme()
    found, entry = zoo.info("acme:tiny")

    assert isinstance(found, Resolution)
    assert entry is found.entry
    assert entry.parameters == 100


# --- what holds of any text

NAMES = [entry.name for _, made in catalogs() for entry in made.entries]
PIECES = st.sampled_from([*NAMES, "mobilenetv3", "resnet", "openai/clip", "./x", "~", "in1k", "ra_in1k"])
GLUE = st.sampled_from(["", ".", "-", "_", " ", "@", "#", "?", "=", "&", ":", "%", "/", "é", "\udc80", "İ"])
ANYTHING = st.text(st.characters(codec=None), max_size=20)
TEXTS = st.one_of(
    ANYTHING,
    st.builds("{}:{}".format, st.sampled_from(["timm", "torchvision", "hf", "pypi", "heads", "x"]), ANYTHING),
    st.builds(
        lambda provider, parts: provider + "".join(piece + glue for piece, glue in parts),
        st.sampled_from(["", "timm:", "torchvision:", "hf:", "pypi:"]),
        st.lists(st.tuples(PIECES, GLUE), min_size=1, max_size=3),
    ),
    st.builds(lambda name, at: f"timm:{name[:at]}", st.sampled_from(NAMES), st.integers(1, 30)),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("hf:a/\udc80")
@example("timm:.")
@example("timm:resnet50.")
def test_any_text_is_resolved_or_refused_and_what_is_found_means_itself(text):
    try:
        found = resolve(text)
    except ZooError:
        return

    again = resolve(found.reference)
    assert again.reference.name == found.reference.name
    assert again.entry is found.entry
    assert again.how in ("exact", "as given")


def test_every_exact_name_of_every_provider_is_itself():
    for provider, made in catalogs():
        assert [e.name for e in made.entries if resolve(f"{provider}:{e.name}").entry is not e] == []


def test_every_tag_of_every_provider_is_itself():
    for provider, made in catalogs():
        full = [f"{provider}:{entry.name}.{tag}" for entry in made.entries for tag in entry.tags]
        assert [name for name in full[:: 1 + len(full) // 300] if str(resolve(name).reference) != name] == []


# --- what building by a name says


@pytest.mark.slow
def test_building_by_a_loose_name_logs_one_line_that_explains_it(caplog):
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.build("timm:mobilenetv3?drop_rate=0.1", weights=None)

    assert [record.getMessage() for record in caplog.records if record.name == "zoo"] == [
        "timm:mobilenetv3?drop_rate=0.1 → timm:mobilenetv3_large_100.ra_in1k?drop_rate=0.1 (alias)"
    ]


def test_building_by_the_exact_name_logs_nothing(caplog):
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.build("timm:test_resnet", weights=None)

    assert [record for record in caplog.records if record.name == "zoo"] == []


def test_the_catalog_of_timm_is_the_one_of_the_installed_version():
    import timm

    assert catalog_of("timm").version == timm.__version__

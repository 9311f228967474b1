"""The catalog: which backbone a name means, and why; nothing of a provider's library is imported for it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import zoo
from zoo import catalog
from zoo.catalog import Resolution, catalog_of, list_backbones, resolve
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.errors import InvalidReference, PluginError, UnknownName
from zoo.registry import Plugin, registry
from zoo_timm.families import FAMILIES

ENTRIES = (
    CatalogEntry(name="Big_Net-2", tags=("b", "a"), licenses={"b": "mit", "a": "apache-2.0"}, parameters=900),
    CatalogEntry(name="bare"),
    CatalogEntry(name="bignet_3", tags=("a",)),
    CatalogEntry(name="story", modality="text", tags=("a",), capabilities=("pooled", "tokens"), parameters=10),
    CatalogEntry(name="tiny_maps", tags=("x",), capabilities=("maps", "pooled"), parameters=100, size=(32, 32)),
)
ACME = Catalog(
    library="pluggy",
    version="0",
    entries=ENTRIES,
    aliases={"tiny": "tiny_maps", "story-teller": "story"},
    renames={"oldnet": "bignet_3", "older.z": "Big_Net-2.a", "gone": "nowhere"},
)


@pytest.fixture
def acme(tmp_path, monkeypatch, registry_with):
    """A provider that ships a catalog for the installed version of a library, and notes each time it is asked."""
    asked = []

    class Acme(Provider):
        library = "pluggy"
        spec = build = None

        def catalog(self):
            asked.append("catalog")
            return ACME if fresh is None else fresh

    fresh = None
    folder = tmp_path / "site" / "zoo_acme_shipped"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    registry_with("acme", zoo_provider=lambda: Acme())
    plugin = Plugin("acme", "zoo_acme_shipped", "zoo-acme", "1.2")

    def ship(made: Catalog = ACME, *, library_is: str = "0", remade: Catalog | None = None):
        nonlocal fresh
        fresh = remade
        catalog.write(made, folder / "catalog.json")
        monkeypatch.setattr(catalog, "_installed_version", lambda name: library_is)
        plugin.__dict__.pop("provider", None)
        plugin.__dict__["provider"] = Acme()
        monkeypatch.setitem(registry().claims, "acme", (plugin,))
        catalog_of.cache_clear()
        return asked

    ship.folder = folder
    yield ship
    catalog_of.cache_clear()


@pytest.mark.parametrize(
    ("asked", "reference", "how"),
    [
        ("acme:Big_Net-2", "acme:Big_Net-2.b", "exact"),
        ("acme:Big_Net-2.a", "acme:Big_Net-2.a", "exact"),
        ("acme:Big_Net-2.A", "acme:Big_Net-2.a", "exact"),
        ("acme:bare", "acme:bare", "exact"),
        ("acme:bignet2", "acme:Big_Net-2.b", "folded"),
        ("acme:BIG net_2.a", "acme:Big_Net-2.a", "folded"),
        ("acme:oldnet", "acme:bignet_3.a", "renamed"),
        ("acme:oldnet.a", "acme:bignet_3.a", "renamed"),
        ("acme:older.z", "acme:Big_Net-2.a", "renamed"),
        ("acme:tiny", "acme:tiny_maps.x", "alias"),
        ("acme:Story Teller", "acme:story.a", "alias"),
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


@pytest.mark.parametrize("name", ["acme:Big", "acme:gone", "acme:zzz", "acme:.a"])
def test_a_name_that_no_rule_finds_is_unknown(acme, name):
    acme()

    with pytest.raises(UnknownName, match=r"^acme \(pluggy 0\) has no backbone"):
        resolve(name)


def test_an_unknown_tag_is_answered_with_the_known_ones(acme):
    acme()

    with pytest.raises(UnknownName, match=r"acme:Big_Net-2 has no weights tagged 'q'; its tags are b, a\."):
        resolve("acme:Big_Net-2.q")
    with pytest.raises(UnknownName, match=r"acme:bare has no weights tagged 'q'; its tags are none\."):
        resolve("acme:bare.q")


def test_names_outside_an_open_catalog_are_taken_as_given(acme):
    acme(Catalog(library="pluggy", version="0", entries=ENTRIES, open_names=True))

    for name in ("acme:someone/some.model", "acme:./folder", "acme:~/folder"):
        found = resolve(name)
        assert (str(found.reference), found.how, found.entry) == (name, "as given", None)
    assert resolve("acme:story").how == "exact"


def test_a_closed_catalog_takes_no_hub_id(acme):
    acme()

    with pytest.raises(UnknownName, match="has no backbone 'someone/model'"):
        resolve("acme:someone/model")


def test_a_bare_name_is_accepted_if_one_provider_has_it(acme):
    acme()
    found = resolve("tiny_maps")

    assert (found.asked, str(found.reference)) == ("tiny_maps", "acme:tiny_maps.x")


def test_a_bare_name_that_several_have_is_refused_with_all_of_them():
    with pytest.raises(UnknownName, match=r"^'resnet50' is several backbones: .*; say which\.$") as caught:
        resolve("resnet50")

    assert "timm:resnet50." in str(caught.value)
    assert "torchvision:resnet50." in str(caught.value)


def test_an_exact_bare_name_beats_a_loose_one_elsewhere():
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


@pytest.mark.parametrize("name", ["timm:", ":a", "Timm:a", "timm:a?x"])
def test_a_text_outside_the_grammar_is_no_unknown_name(name):
    with pytest.raises(InvalidReference):
        resolve(name)


def test_an_unknown_provider_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"No plugin is called 'tim'; installed: .*Did you mean 'timm'\?"):
        resolve("tim:resnet18")


def test_mobilenetv3_means_an_architecture_with_weights():
    found = resolve("timm:mobilenetv3")

    assert str(found.reference) == "timm:mobilenetv3_large_100.ra_in1k"
    assert found.how == "alias"


def test_every_loose_name_means_an_architecture_with_weights():
    made = catalog_of("timm")
    entries = {entry.name: entry for entry in made.entries}

    assert set(FAMILIES.values()) <= set(entries)
    assert made.aliases == FAMILIES
    without = {alias for alias, full in FAMILIES.items() if not entries[full].tags}
    begin = {alias: [e for e in made.entries if e.name.startswith(FAMILIES[alias].split("_")[0])] for alias in without}
    assert [alias for alias in without if any(entry.tags for entry in begin[alias])] == []


@pytest.mark.parametrize("alias", sorted(FAMILIES))
def test_a_loose_name_resolves(alias):
    found = resolve(f"timm:{alias}")

    assert found.entry.name == FAMILIES[alias] or found.how in ("exact", "folded")


def test_every_exact_name_of_timm_is_itself():
    assert [e.name for e in catalog_of("timm").entries if resolve(f"timm:{e.name}").entry is not e] == []


def test_the_default_tag_is_the_one_of_timm():
    import timm

    for name in (
        "resnet50",
        "vit_base_patch16_224",
        "efficientnet_b0",
        "convnext_tiny",
        "swin_tiny_patch4_window7_224",
    ):
        assert resolve(f"timm:{name}").reference.name == f"{name}.{timm.get_pretrained_cfg(name).tag}"


def test_the_renames_of_timm_are_followed():
    assert resolve("timm:vit_base_patch16_224_in21k").reference.name == "vit_base_patch16_224.augreg_in21k"
    assert resolve("timm:vit_base_patch16_224_in21k").how == "renamed"


# --- listing


def names(**filters) -> list[str]:
    return [listing.entry.name for listing in list_backbones(provider="acme", **filters)]


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
        ({"license": "apache*"}, ["Big_Net-2"]),
        ({"license": "Apache*"}, ["Big_Net-2"]),
        ({"license": "gpl*"}, []),
        ({"modality": "text"}, ["story"]),
        ({"pretrained": True}, ["Big_Net-2", "bignet_3", "story", "tiny_maps"]),
        ({"pretrained": True, "modality": "image", "max_params": 500}, ["tiny_maps"]),
    ],
    ids=str,
)
def test_a_filter_leaves_what_fits(acme, filters, expected):
    acme()

    assert names(**filters) == expected


def test_the_pattern_may_name_the_provider(acme):
    acme()

    assert [listing.reference for listing in list_backbones("acme:t*")] == ["acme:tiny_maps"]
    assert {listing.provider for listing in list_backbones("timm:resnet1*")} == {"timm"}


def test_all_providers_are_listed_without_one_being_named(acme):
    acme()

    assert {"acme", "timm", "torchvision"} <= {listing.provider for listing in list_backbones()}


def test_listing_an_unknown_provider_is_refused():
    with pytest.raises(UnknownName, match="No plugin is called 'tim'"):
        list_backbones("tim:*")


def test_info_gives_the_resolution_and_the_entry(acme):
    acme()
    found, entry = zoo.info("acme:tiny")

    assert isinstance(found, Resolution)
    assert entry is found.entry
    assert entry.parameters == 100


def test_listing_and_resolving_import_neither_torch_nor_a_provider():
    code = (
        "import sys, zoo; zoo.list('mobilenet*', needs='maps'); zoo.resolve('timm:mobilenetv3');"
        "print([m for m in ('torch', 'timm', 'transformers', 'zoo_timm', 'zoo_huggingface') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.strip() == "[]"


# --- files


def test_a_catalog_is_the_same_after_writing_and_reading(tmp_path):
    catalog.write(ACME, tmp_path / "a" / "catalog.json")

    assert catalog.read(tmp_path / "a" / "catalog.json") == ACME
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["catalog.json"]


def test_the_shipped_catalog_serves_its_own_version_and_no_provider_is_asked(acme):
    asked = acme(library_is="0")

    assert catalog_of("acme") == ACME
    assert asked == []


def test_another_version_of_the_library_is_listed_once_into_the_cache(acme, tmp_path):
    new = CatalogEntry(name="new", tags=("z",))
    known = CatalogEntry(name="tiny_maps", tags=("y",))
    asked = acme(library_is="1", remade=Catalog(library="pluggy", version="1", entries=(new, known)))

    made = catalog_of("acme")
    catalog_of.cache_clear()
    again = catalog_of("acme")

    assert asked == ["catalog"]
    assert again == made
    assert made.version == "1"
    assert [path.name for path in (tmp_path / "zoo-cache" / "catalog").iterdir()] == ["acme-pluggy-1.json"]
    kept = made.entries[1]
    assert (kept.tags, kept.parameters, kept.capabilities) == (("y",), 100, ("maps", "pooled"))
    assert made.entries[0] == new


def test_a_spoilt_catalog_in_the_cache_is_made_again(acme, tmp_path):
    remade = Catalog(library="pluggy", version="1", entries=(CatalogEntry(name="new"),))
    asked = acme(library_is="1", remade=remade)
    spoilt = tmp_path / "zoo-cache" / "catalog" / "acme-pluggy-1.json"
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text('{"entries": [')

    assert catalog_of("acme") == remade
    assert asked == ["catalog"]
    assert catalog.read(spoilt) == remade


def test_a_cache_that_cannot_be_written_is_no_fault(acme, tmp_path, monkeypatch):
    remade = Catalog(library="pluggy", version="1", entries=(CatalogEntry(name="new"),))
    acme(library_is="1", remade=remade)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    assert catalog_of("acme") == remade


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"entries": [], "library": "a"}',
        '{"entries": 3}',
        '{"entries": [{"name": "a", "b": 1}]}',
    ],
)
def test_a_shipped_catalog_that_cannot_be_read_is_the_plugins_fault(acme, text):
    acme()
    (acme.folder / "catalog.json").write_text(text)
    catalog_of.cache_clear()

    with pytest.raises(PluginError, match=r"^The catalog 'catalog\.json' cannot be read"):
        catalog_of("acme")


def test_a_plugin_without_backbones_has_no_catalog():
    with pytest.raises(UnknownName, match="'heads' has no backbones"):
        catalog_of("heads")


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

"""Which catalog serves: shipped, cached, or made anew; and what happens where none can be had."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import pytest

import zoo
from zoo.catalog import catalog_of, index, list_backbones, providers, read, write
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import PluginError, UnknownName
from zoo.registry import Plugin, registry

from .conftest import ACME

NEW = CatalogEntry(name="new", tags=("z",))
FRESH = Catalog(library="pluggy", version="1", entries=(NEW, CatalogEntry(name="tiny_maps", tags=("y",))))


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "zoo"]


@pytest.mark.parametrize("version", ["0", "0+cu130"])
def test_the_shipped_catalog_serves_its_own_version_and_no_provider_is_asked(acme, version):
    provider = acme(library_is=version)

    assert catalog_of("acme") == ACME
    assert provider.asked == []


def test_another_version_of_the_library_is_listed_once_into_the_cache(acme, caplog):
    provider = acme(library_is="1", remade=FRESH)
    with caplog.at_level(logging.INFO, logger="zoo"):
        made = catalog_of("acme")
        catalog_of.cache_clear()
        again = catalog_of("acme")

    assert provider.asked == ["catalog"]
    assert told(caplog) == ["Listing the backbones of pluggy 1, once."]
    assert again == made
    assert made.version == "1"
    assert [path.name for path in acme.cache.iterdir()] == ["acme@1.2@pluggy@1.json"]


def test_what_was_measured_is_kept_for_what_another_version_still_has(acme):
    shipped = replace(ACME, entries=(*ACME.entries, CatalogEntry(name="talk", modality="audio", parameters=5)))
    fresh = replace(FRESH, entries=(NEW, CatalogEntry(name="tiny_maps", tags=("y",)), CatalogEntry(name="talk")))
    acme(shipped, library_is="1", remade=fresh)
    new, kept, talk = catalog_of("acme").entries

    assert new == NEW
    assert (kept.tags, kept.parameters, kept.capabilities, kept.size) == (("y",), 100, ("maps", "pooled"), (32, 32))
    assert (talk.modality, talk.parameters) == ("audio", 5)


def test_a_list_made_anew_has_no_alias_and_no_refusal_of_what_it_does_not_fit(acme):
    fresh = replace(FRESH, aliases={"n": "new", "z": "new.z", "gone": "old"}, refused={"new": "a", "other": "b"})
    acme(library_is="1", remade=fresh)

    made = catalog_of("acme")
    assert made.aliases == {"n": "new", "z": "new.z"}
    assert made.refused == {"other": "b"}


@pytest.mark.parametrize("spoilt", ['{"entries": [', "", '{"library": 1, "version": "1", "entries": []}'])
def test_a_spoilt_catalog_in_the_cache_is_made_again(acme, spoilt):
    provider = acme(library_is="1", remade=FRESH)
    path = acme.cache / "acme@1.2@pluggy@1.json"
    path.parent.mkdir(parents=True)
    path.write_text(spoilt)

    assert [entry.name for entry in catalog_of("acme").entries] == ["new", "tiny_maps"]
    assert provider.asked == ["catalog"]
    assert read(path) == catalog_of("acme")


def test_a_cache_that_cannot_be_written_is_no_fault(acme, tmp_path, monkeypatch, caplog):
    acme(library_is="1", remade=FRESH)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, logger="zoo"):
        assert catalog_of("acme").version == "1"

    assert told(caplog)[1].startswith("The catalog is not kept, since the cache cannot be written: ")


def test_what_another_plugin_version_has_made_is_not_used(acme):
    provider = acme(library_is="1", remade=FRESH)
    write(ACME, acme.cache / "acme@1.1@pluggy@1.json")
    write(ACME, acme.cache / "acme@1.2@pluggy@2.json")

    assert catalog_of("acme").version == "1"
    assert provider.asked == ["catalog"]


@pytest.mark.parametrize(("age", "used"), [(-3600, ACME.version), (3600, "mine")])
def test_of_a_shipped_and_a_built_catalog_for_one_version_the_newer_serves(acme, age, used):
    acme()
    built = acme.cache / "acme@1.2@pluggy@0.json"
    write(replace(ACME, version="mine"), built)
    os.utime(built, (time.time() + age, time.time() + age))

    assert catalog_of("acme").version == used


@pytest.mark.parametrize("error", [RuntimeError("it has changed"), PluginError("it has changed")])
def test_a_provider_that_cannot_list_a_new_version_is_a_warning_and_the_shipped_list_serves(acme, caplog, error):
    acme(library_is="1", remade=error)

    assert catalog_of("acme") == ACME
    assert len(told(caplog)) == 1
    assert "it has changed" in told(caplog)[0]
    assert told(caplog)[0].endswith("The list for pluggy 0 is used.")


def test_a_plugin_without_backbones_has_no_catalog():
    with pytest.raises(UnknownName, match="'heads' has no backbones"):
        catalog_of("heads")
    assert {"heads", "methods"} & set(providers()) == set()


# --- a plugin that ships no catalog


def test_a_provider_that_ships_no_catalog_is_listed_and_resolved_and_asked_once(acme, caplog):
    provider = acme(None, remade=replace(ACME, version="0"))
    with caplog.at_level(logging.INFO, logger="zoo"):
        assert [one.reference for one in list_backbones("acme:t*")] == ["acme:tiny_maps"]
        assert "acme" in {one.provider for one in list_backbones()}
        catalog_of.cache_clear()
        assert str(zoo.resolve("tiny_maps").reference) == "acme:tiny_maps.x"

    assert provider.asked == ["catalog"]
    assert told(caplog) == ["Listing the backbones of zoo-acme 1.2, once."]
    assert [path.name for path in acme.cache.iterdir()] == ["acme@1.2@pluggy@0.json"]


def test_a_plugin_that_does_not_speak_of_the_hook_is_never_imported_for_a_list(acme):
    provider = acme(None)
    (acme.folder / "__init__.py").write_text("raise RuntimeError('imported')")

    assert "acme" not in providers()
    assert "acme" not in {one.provider for one in list_backbones()}
    assert provider.asked == []


def test_a_plugin_in_one_module_takes_no_file_that_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "zoo_single.py").write_text("zoo_provider = None")
    write(ACME, tmp_path / "catalog.json")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = Plugin("single", "zoo_single", "zoo-single", "1.2")
    monkeypatch.setitem(registry().claims, "single", (plugin,))

    assert index.catalog_file(plugin) is None
    assert "single" in providers()


def test_a_provider_that_gives_no_catalog_is_its_plugins_fault(acme, caplog):
    acme(None, remade=["a"])

    with pytest.raises(PluginError, match=r"'acme': catalog\(\) must give a zoo\.Catalog, got list\.$"):
        catalog_of("acme")
    assert "timm" in {one.provider for one in list_backbones()}
    assert any("must give a zoo.Catalog" in text for text in told(caplog))


def test_a_plugin_that_cannot_be_imported_does_not_break_a_list(tmp_path, monkeypatch, caplog):
    (tmp_path / "zoo_broken.py").write_text("import no_such_library  # for zoo_provider")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry().claims, "broken", (Plugin("broken", "zoo_broken", "zoo-broken", "1.2"),))

    assert {"timm", "torchvision"} <= {one.provider for one in list_backbones()}
    assert any("No module named 'no_such_library'" in text for text in told(caplog))


# --- several processes

PACKAGE = """
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.hooks import hookimpl

class Crowd(Provider):
    library, spec, build = "pluggy", None, None

    def catalog(self):
        entries = tuple(CatalogEntry(name=f"net{number:05}") for number in range(20_000))
        return Catalog(library="pluggy", version="now", entries=entries)

@hookimpl
def zoo_provider():
    return Crowd()
"""
RACE = """
import sys, time
from zoo.catalog import catalog_of
while time.time() < float(sys.argv[1]):
    pass
print(len(catalog_of("crowd").entries))
"""


@pytest.mark.slow
def test_processes_that_make_a_catalog_at_once_leave_one_whole_file(tmp_path):
    site = tmp_path / "site"
    (site / "zoo_crowd").mkdir(parents=True)
    (site / "zoo_crowd" / "__init__.py").write_text(PACKAGE)
    (site / "zoo_crowd-1.2.dist-info").mkdir()
    (site / "zoo_crowd-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-crowd\nVersion: 1.2\n")
    (site / "zoo_crowd-1.2.dist-info" / "entry_points.txt").write_text("[zoo]\ncrowd = zoo_crowd\n")
    write(Catalog(library="pluggy", version="0", entries=()), site / "zoo_crowd" / "catalog.json")
    env = {**os.environ, "ZOO_CACHE": str(tmp_path / "shared"), "PYTHONPATH": str(site)}
    run = [sys.executable, "-c", RACE, str(time.time() + 1)]
    crowd = [subprocess.Popen(run, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [child.communicate(timeout=120)[0].strip() for child in crowd]

    assert counts == ["20000"] * 4
    (path,) = (tmp_path / "shared" / "catalog").iterdir()
    assert path.name == f"crowd@1.2@pluggy@{version('pluggy')}.json"
    assert len(read(path).entries) == 20_000

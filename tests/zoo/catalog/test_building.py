"""Making a catalog on purpose: measured entry by entry, stopped, and taken up again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from zoo.catalog import build_catalog, catalog_of, measure_all, read
from zoo.errors import ConfigError, UnknownName, WeightsError

from .conftest import ACME

NAMES = [entry.name for entry in ACME.entries]


def test_a_build_lists_what_is_installed_and_keeps_what_the_shipped_catalog_knows(acme):
    bare = tuple(replace(entry, parameters=None, capabilities=("pooled",)) for entry in ACME.entries)
    provider = acme(remade=replace(ACME, entries=bare))
    built = build_catalog("acme")

    assert provider.asked == ["catalog"]
    assert (built.provider, built.failed) == ("acme", ())
    assert built.catalog.entries == ACME.entries
    assert read(built.path) == built.catalog
    assert built.path == acme.cache / "acme@1.2@pluggy@0.json"


def test_a_build_is_served_at_once(acme):
    acme(library_is="1")
    catalog_of("acme")
    acme(library_is="1", remade=replace(ACME, entries=ACME.entries[:1]))
    build_catalog("acme")

    assert catalog_of("acme").entries == ACME.entries[:1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WeightsError("no hub"), "no hub"), (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero")],
)
def test_one_spec_that_fails_does_not_stop_the_others(acme, error, reason):
    provider = acme()
    provider.answers["bare"] = error
    built = build_catalog("acme", measured=True)

    entries = {entry.name: entry for entry in built.catalog.entries}
    assert provider.asked == ["catalog", *NAMES]
    assert built.failed == ("bare",)
    assert (entries["bare"].capabilities, entries["bare"].requires) == ((), reason)
    for name in set(NAMES) - {"bare"}:
        assert (entries[name].parameters, entries[name].pooled_dim, entries[name].size) == (7, 3, (8, 8))
        assert entries[name].capabilities == ("maps", "pooled")
    assert list(acme.cache.iterdir()) == [built.path]


def test_a_build_that_was_stopped_goes_on_where_it_was(acme):
    provider = acme()
    provider.answers["bignet_3"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_catalog("acme", measured=True)
    stopped = list(provider.asked)
    provider.asked.clear()
    provider.answers.clear()
    built = build_catalog("acme", measured=True)

    assert stopped == ["catalog", *NAMES[:3]]
    assert provider.asked == ["catalog", *NAMES[2:]]
    assert built.failed == ()
    assert [entry.parameters for entry in built.catalog.entries] == [7] * len(NAMES)
    assert list(acme.cache.iterdir()) == [built.path]


def test_what_was_measured_before_a_stop_gets_the_tags_of_today(acme):
    provider = acme()
    provider.answers["bare"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_catalog("acme", measured=True)
    provider.answers.clear()
    provider.made = replace(ACME, entries=(replace(ACME.entries[0], tags=("c",), licenses={}), *ACME.entries[1:]))
    built = build_catalog("acme", measured=True)

    assert (built.catalog.entries[0].tags, built.catalog.entries[0].parameters) == (("c",), 7)


DIES = """
import os, sys
from pathlib import Path
from zoo.catalog import measure_all
from zoo.contracts.catalog import Catalog, CatalogEntry

class Provider:
    def spec(self, reference):
        if reference.name == "b":
            os._exit(9)
        raise ValueError(reference.name)

entries = tuple(CatalogEntry(name=name) for name in "abc")
found = list(measure_all(Provider(), "x", Catalog(library="l", version="1", entries=entries), Path(sys.argv[1])))
print([(one.name, one.requires) for one in found])
"""


def test_an_architecture_at_which_the_process_died_twice_is_not_tried_again(tmp_path):
    journal = tmp_path / "folder" / "journal.part"
    run = [sys.executable, "-c", DIES, str(journal)]
    first = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    with journal.open("a") as file:
        file.write('{"entry": {"name": "c", "tags": ["cut')  # as a death in the middle of a line leaves it
    second = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    third = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)

    assert (first.returncode, second.returncode) == (9, 9)
    assert third.stdout.strip() == str(
        [
            ("a", "ValueError: a"),
            ("b", "the process died while it was measured"),
            ("c", "ValueError: c"),
        ]
    )


def test_a_stream_can_be_followed(acme):
    acme()
    seen = []

    def follow(entries, total):
        for entry in entries:
            seen.append((entry.name, total))
            yield entry

    build_catalog("acme", measured=True, follow=follow)

    assert seen == [(name, len(NAMES)) for name in NAMES]


def test_without_a_journal_nothing_is_kept(acme, tmp_path):
    provider = acme()

    assert [entry.parameters for entry in measure_all(provider, "acme", ACME)] == [7] * len(NAMES)
    assert not acme.cache.exists()


def test_a_cache_that_cannot_be_written_is_told(acme, tmp_path, monkeypatch):
    acme()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    for measured in (False, True):
        with pytest.raises(ConfigError, match=r"^The catalog cannot be kept in .*set ZOO_CACHE to a folder"):
            build_catalog("acme", measured=measured)


def test_a_plugin_without_backbones_cannot_be_built():
    with pytest.raises(UnknownName, match="'heads' has no backbones"):
        build_catalog("heads")


def test_a_shipped_catalog_that_is_spoilt_does_not_stand_in_the_way(acme):
    acme()
    (acme.folder / "catalog.json").write_text("{")

    assert build_catalog("acme").catalog == ACME


def test_a_built_catalog_is_newer_than_a_shipped_one(acme):
    acme(remade=replace(ACME, entries=ACME.entries[:2]))
    past = time.time() - 60
    os.utime(acme.folder / "catalog.json", (past, past))
    build_catalog("acme")

    assert catalog_of("acme").entries == ACME.entries[:2]

"""Catalog files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.catalog import catalog_of, read, write
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.errors import PluginError

from .conftest import ACME

TEXT = st.text(st.characters(codec=None), max_size=8)
TABLE = st.dictionaries(TEXT, TEXT, max_size=3)
WHOLE = st.none() | st.integers(0, 10**12)
ENTRY = st.builds(
    CatalogEntry,
    name=TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    licenses=TABLE,
    modality=TEXT,
    parameters=WHOLE,
    pooled_dim=WHOLE,
    size=st.none() | st.tuples(st.integers(), st.integers()),
    capabilities=st.lists(TEXT, max_size=3).map(tuple),
    requires=st.none() | TEXT,
)
CATALOG = st.builds(
    Catalog,
    library=TEXT,
    version=TEXT,
    entries=st.lists(ENTRY, max_size=4).map(tuple),
    aliases=TABLE,
    renames=TABLE,
    refused=TABLE,
    open_names=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(catalog=CATALOG)
def test_any_catalog_is_the_same_after_writing_and_reading(tmp_path_factory, catalog):
    path = tmp_path_factory.getbasetemp() / "any.json"
    write(catalog, path)

    assert read(path) == catalog


def test_a_file_has_one_line_an_architecture_and_nothing_else_is_left(tmp_path):
    write(ACME, tmp_path / "a" / "catalog.json")

    lines = (tmp_path / "a" / "catalog.json").read_text().splitlines()
    assert sum('"name": ' in line for line in lines) == len(ACME.entries)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["catalog.json"]


def test_a_catalog_of_before_a_field_was_added_is_still_read(tmp_path):
    path = tmp_path / "catalog.json"
    path.write_text('{"library": "a", "version": "1", "entries": [{"name": "b"}]}')

    assert read(path) == Catalog(library="a", version="1", entries=(CatalogEntry(name="b"),))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "catalog.json"
    write(ACME, path)
    before = path.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))

    with pytest.raises(OSError, match="disk"):
        write(Catalog(library="a", version="1", entries=()), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"entries": [], "library": "a"}',
        '{"entries": [], "library": "a", "version": 1}',
        '{"entries": [], "library": "a", "version": "1", "aliases": {"a": 1}}',
        '{"entries": 3, "library": "a", "version": "1"}',
        '{"entries": ["a"], "library": "a", "version": "1"}',
        *(
            json.dumps({"library": "a", "version": "1", "entries": [{"name": "a"} | field]})
            for field in (
                {"b": 1},
                {"name": 1},
                {"tags": "abc"},
                {"tags": [1]},
                {"size": [1]},
                {"size": [1, None]},
                {"parameters": "many"},
                {"licenses": ["mit"]},
                {"requires": 1},
            )
        ),
    ],
)
def test_a_shipped_catalog_that_cannot_be_read_is_the_plugins_fault(acme, text):
    acme()
    (acme.folder / "catalog.json").write_text(text)
    catalog_of.cache_clear()

    with pytest.raises(PluginError, match=r"^The catalog 'catalog\.json' cannot be read: [^\n]+\.$"):
        catalog_of("acme")

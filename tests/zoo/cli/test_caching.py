"""``zoo cache`` as its user runs it."""

import os

import pytest


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """Keep one file of a kind."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "specs" / "timm" / "one.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2_000_000)
    return path


def test_the_cache_is_listed_by_kind(zoo, spec):
    told = zoo("cache", "list")

    assert told.code == 0
    assert any(line.split()[:5] == ["specs", "1", "2.0", "MB", "0"] for line in told.out.splitlines())
    assert told.out.splitlines()[-1].startswith("2.0 MB in ")
    [entry] = zoo("cache", "list", "specs", "--json").json["entries"]
    assert (entry["kind"], entry["path"], entry["bytes"]) == ("specs", str(spec), 2_000_000)
    assert zoo("cache", "list", "features", "--json").json["entries"] == []


def test_the_cache_is_cleared_by_kind_and_age(zoo, spec):
    assert zoo("cache", "clear", "--older-than", "1").out == "0 entries removed, 0.0 MB\n"
    os.utime(spec, (0, 0))
    assert zoo("cache", "clear", "features").out == "0 entries removed, 0.0 MB\n"
    assert zoo("cache", "clear", "--dry-run").out == "1 entries would be removed, 2.0 MB\n"
    assert spec.is_file()
    assert zoo("cache", "clear", "specs", "--older-than", "1", "--json").json["bytes"] == 2_000_000
    assert not spec.exists()


def test_an_unknown_kind_is_one_line(zoo, spec):
    told = zoo("cache", "clear", "spec")

    assert told.code == 2
    assert told.err == (
        "error: The cache has no kind 'spec'; there are features, remote, weights, specs, catalog, verified. "
        "Did you mean specs?\n"
    )
    assert spec.is_file()

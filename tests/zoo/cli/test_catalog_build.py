"""``zoo catalog build``."""

import pytest


def test_a_catalog_is_built_into_the_cache_with_one_line(zoo, tmp_path):
    result = zoo("catalog", "build", "pypi")

    path = next((tmp_path / "zoo-cache" / "catalog").iterdir())
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("pypi: 3 backbones of timm ")
    assert result.out.endswith(f"3 of them measured; in {path}\n")


def test_a_build_in_json_says_how_many_and_where(zoo):
    (told,) = zoo("catalog", "build", "pypi", "--json").json

    assert (told["provider"], told["library"], told["backbones"], told["failed"]) == ("pypi", "timm", 3, {})
    assert told["path"].endswith(".json")


SOURCE = """
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.hooks import hookimpl

class Own(Provider):
    library, build = "pluggy", None

    def catalog(self):
        {}
        return Catalog(library="pluggy", version="1", entries=(CatalogEntry(name="a"), CatalogEntry(name="b")))

    def spec(self, reference):
        raise RuntimeError(reference.name)

@hookimpl
def zoo_provider():
    return Own()
"""


def test_a_build_says_what_could_not_be_measured_and_why(zoo, install):
    install("own", SOURCE.format(""))
    plain = zoo("catalog", "build", "own")
    measured = zoo("catalog", "build", "own", "--measure")
    told = zoo("catalog", "build", "own", "--measure", "--json").json

    assert "own: 2 backbones of pluggy 1, 0 of them measured; --measure measures the others; in " in plain.out
    assert "own: 2 backbones of pluggy 1, 0 of them measured, 2 could not be (a, b); in " in measured.out
    assert told[0]["failed"] == {"a": "RuntimeError: a", "b": "RuntimeError: b"}
    assert zoo("list", "--provider", "own", "--json").json[0]["requires"] == "RuntimeError: a"


def test_one_provider_that_cannot_list_does_not_stop_the_others(zoo, install):
    install("own", SOURCE.format("raise RuntimeError('gone')"))
    several = zoo("catalog", "build", "own", "pypi")
    alone = zoo("catalog", "build", "own")

    assert several.code == 1
    assert several.err == "error: The provider 'own' cannot list its backbones: RuntimeError: gone.\n"
    assert several.out.startswith("pypi: 3 backbones")
    assert (alone.code, alone.out) == (2, "")


@pytest.mark.parametrize(("name", "told"), [("nope", "No plugin is called 'nope'"), ("heads", "has no backbones")])
def test_a_build_of_no_provider_is_refused(zoo, name, told):
    result = zoo("catalog", "build", name)

    assert result.code == 2
    assert told in result.err


def test_an_interruption_says_that_what_was_measured_is_kept(zoo, install):
    install("own", SOURCE.replace("RuntimeError(reference.name)", "KeyboardInterrupt").format(""))
    result = zoo("catalog", "build", "own", "--measure")

    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines() == [
        "What was measured of own is kept; the same command goes on from there.",
        "error: interrupted",
    ]


def test_catalog_alone_shows_its_help(zoo):
    result = zoo("catalog")

    assert result.code == 0
    assert "build" in result.out

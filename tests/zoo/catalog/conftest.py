"""A provider that ships a catalog and notes each time that it is asked; its package cannot be imported."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zoo.catalog import catalog_of, index, write
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.registry import Plugin, registry

ENTRIES = (
    CatalogEntry(
        name="Big_Net-2", tags=("b", "a"), licenses={"b": "mit", "a": "apache-2.0"}, parameters=900, size=(64, 64)
    ),
    CatalogEntry(name="bare"),
    CatalogEntry(name="bignet_3", tags=("a.in1k", "a2_in22k"), licenses={"a2_in22k": "mit"}, size=(64, 32)),
    CatalogEntry(name="story", modality="text", tags=("a",), capabilities=("pooled", "tokens"), parameters=10),
    CatalogEntry(name="tiny_maps", tags=("x",), capabilities=("maps", "pooled"), parameters=100, size=(32, 32)),
)
ACME = Catalog(
    library="pluggy",
    version="0",
    entries=ENTRIES,
    aliases={"tiny": "tiny_maps", "story-teller": "story"},
    renames={"oldnet": "bignet_3", "older.z": "Big_Net-2.a", "gone": "nowhere", "old_Two": "bignet_3.a2"},
    refused={"flow_net": "it sees two pictures"},
)


class Asked(Provider):
    """Gives one catalog, and specs of what it does not refuse; notes each question."""

    library = "pluggy"
    build = None

    def __init__(self):
        self.made: Catalog = ACME
        self.asked: list[str] = []
        self.answers: dict[str, object] = {}

    def catalog(self):
        self.asked.append("catalog")
        if isinstance(self.made, Exception):
            raise self.made
        return self.made

    def spec(self, reference):
        name = reference.name.partition(".")[0]
        self.asked.append(name)
        if isinstance(answer := self.answers.get(name), BaseException):
            raise answer
        size = SimpleNamespace(size=(8, 8))
        return SimpleNamespace(
            modality="image", parameters=7, pooled_dim=3, inputs=(size,), capabilities=("maps", "pooled")
        )


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Install the provider: the catalog that it ships, or None; its library's version; what it lists when asked."""
    provider = Asked()
    folder = tmp_path / "site" / "zoo_acme_shipped"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')  # it would have zoo_provider")
    monkeypatch.syspath_prepend(str(folder.parent))
    real = index._installed_version

    def ship(made: Catalog | None = ACME, *, library_is: str | None = "0", remade: object = ACME) -> Asked:
        if made is not None:
            write(made, folder / "catalog.json")
        plugin = Plugin("acme", "zoo_acme_shipped", "zoo-acme", "1.2")
        plugin.__dict__["provider"] = provider
        provider.made = remade
        monkeypatch.setattr(index, "_installed_version", lambda name: library_is if name == "pluggy" else real(name))
        monkeypatch.setitem(registry().claims, "acme", (plugin,))
        catalog_of.cache_clear()
        return provider

    ship.folder = folder
    ship.cache = tmp_path / "zoo-cache" / "catalog"
    yield ship
    catalog_of.cache_clear()

"""Catalogs: what a provider offers, as a JSON file that is read without importing the provider's library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CAPABILITIES", "Catalog", "CatalogEntry"]

CAPABILITIES = ("dynamic_size", "embed", "grad_checkpointing", "in_channels", "maps", "mask", "pooled", "tokens")
"""What zoo's own words are for what a backbone can give or do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One architecture.

    Args:
        name: The library's own name.
        tags: Tags of the pretrained weights, the default first; empty if there are none.
        licenses: Tag to SPDX identifier, where the library states one.
        modality: What it looks at.
        parameters: Number of parameters without a classifier; None if not known.
        pooled_dim: Width of the pooled vector; None if not known.
        size: Native height and width in pixels; None if it has none.
        capabilities: As in the backbone's spec; of :data:`CAPABILITIES`, or a stranger's own words.
        requires: What to install or to give before it can be built, for a reader; None if nothing.
    """

    name: str
    tags: tuple[str, ...] = ()
    licenses: Mapping[str, str] = field(default_factory=dict)
    modality: str = "image"
    parameters: int | None = None
    pooled_dim: int | None = None
    size: tuple[int, int] | None = None
    capabilities: tuple[str, ...] = ("pooled",)
    requires: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All that one provider offers with one version of its library.

    Args:
        library: The distribution whose version decides whether the catalog still holds.
        version: That version.
        entries: The architectures, sorted by name.
        aliases: Loose name to ``arch`` or ``arch.tag``: what people type and most likely mean. A target that is no
            entry is passed over.
        renames: Old name to new name, ``arch`` or ``arch.tag``, as the library itself keeps them.
        refused: Name that the library has and zoo does not serve, to the reason: the end of the sentence "It is not
            served: …", without a full stop. Such a name is no entry and no target of an alias.
        open_names: Whether names outside the catalog are legal: hub ids (with a slash) and local paths.
    """

    library: str
    version: str
    entries: tuple[CatalogEntry, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    open_names: bool = False

"""The provider contract: one library's backbones, from a name to a module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.contracts.catalog import Catalog
    from zoo.reference import Reference
    from zoo.spec import BackboneSpec

__all__ = ["Provider"]


class Provider(ABC):
    """One library's backbones. A plugin has at most one, and its references begin with the plugin's name.

    A plugin ships ``catalog.json`` beside its ``__init__.py``, so that listing and resolving names import nothing of
    it; ``zoo.catalog.write`` makes that file from :meth:`catalog`.
    """

    library: ClassVar[str]
    """The distribution whose code runs, such as ``timm``."""

    measured_once: ClassVar[bool] = False
    """Whether the spec of an architecture in the catalog depends on nothing but the reference, the library's version
    and this plugin's code, so that it can be kept in the user's cache."""

    def digest(self, reference: Reference) -> str | None:
        """Say what the spec of a hub id or folder rests on, beside the reference and code, so that it can be kept too.

        Args:
            reference: A name outside the catalog, with the options that the user gave.

        Returns:
            A digest of the files that :meth:`spec` reads; None if they are not known, or not worth it.
        """
        return None

    @abstractmethod
    def catalog(self) -> Catalog:
        """List what the installed library offers; may import it and take minutes."""

    @abstractmethod
    def spec(self, reference: Reference) -> BackboneSpec:
        """Say what a backbone takes and gives, without loading weights.

        Args:
            reference: Resolved, with the options that the user gave.

        Raises:
            UnknownName: If an option is not known.
            ConfigError: If an option's value cannot be used.
            WeightsError: If the architecture's own description must be fetched and cannot be had.
        """

    @abstractmethod
    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> Backbone:
        """Build a backbone from its spec alone.

        Args:
            spec: As :meth:`spec` gave it, or as a bundle kept it; with ``weights=None`` this needs no network. A bundle
                may come from a stranger: a provider must check ``construction`` against what it writes itself, and
                never follow a path, an address or a class name in it.
            weights: ``"pretrained"`` for the weights that the reference names; None for random ones; a path to a
                safetensors file with the library's own keys, a classifier's keys in it being left out.

        Raises:
            ConfigError: If the spec holds what the provider never writes.
            WeightsError: If the weights cannot be had or do not fit.
        """

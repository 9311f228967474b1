"""torchvision's names: which models and weights there are, and which of them are no backbones."""

from __future__ import annotations

from typing import Any

import torchvision

from zoo.contracts.catalog import CatalogEntry
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.reference import Reference
from zoo_torchvision.anatomies import anatomy_of
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.options import read_options

__all__ = ["catalog_entry", "find_anatomy", "find_weights", "license_of", "refused", "served", "tags_of"]

# torchvision states a licence by its address; it does so for the SWAG weights only.
LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC-BY-NC-4.0"}

QUANTIZED = "quantized_"
"""What the names of quantized models begin with; the rest is that of the float model."""


def served() -> list[str]:
    """List the architectures that are served: all that the table of families has."""
    return [name for name in torchvision.models.list_models() if _reason(name) is None]


def refused() -> dict[str, str]:
    """Map every other name of the library to the reason why it is not served."""
    reasons = {name: _reason(name) for name in torchvision.models.list_models()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(name: str) -> str | None:
    if name.startswith(QUANTIZED):
        plain = name.removeprefix(QUANTIZED)
        return f"its weights are fixed to whole numbers of 8 bits and cannot be trained, use the float model {plain!r}"
    if name.startswith("raft_"):
        return "it finds the motion between two pictures and has no features of one picture or clip"
    if anatomy_of(name) is None:
        return "it is of a family that this release of zoo does not know"
    return None


def find_anatomy(reference: Reference, architecture: str, tag: str | None = None) -> Anatomy:
    """Find the family's row.

    Raises:
        ConfigError: If the library has the model and it is no backbone; the message has the reason.
        UnknownName: If the library has no such model; the message lists the nearest.
    """
    names = torchvision.models.list_models()
    if architecture not in names:
        near = nearest(architecture, served())
        hint = f" The nearest are {', '.join(near)}." if near else ""
        raise UnknownName(f"torchvision {torchvision.__version__} has no backbone {architecture!r}.{hint}")
    anatomy = anatomy_of(architecture, tag)
    reason = _reason(architecture)
    if anatomy is None or reason is not None:
        raise ConfigError(f"{reference}: {architecture} is not served: {reason}.")
    return anatomy


def tags_of(architecture: str) -> list[str]:
    """Give the tags of an architecture, the default first."""
    enum = torchvision.models.get_model_weights(architecture)
    return sorted(enum.__members__.keys() - {"DEFAULT"}, key=lambda tag: (enum[tag] is not enum.DEFAULT, tag))


def find_weights(reference: Reference, architecture: str, tag: str) -> Any:
    """Find the member of the weights enum, whatever the tag's case; the default one without a tag or for ``DEFAULT``.

    Raises:
        UnknownName: If there is no such tag; the message lists the nearest.
    """
    enum = torchvision.models.get_model_weights(architecture)
    if not tag or tag.casefold() == "default":
        return enum.DEFAULT
    known = tags_of(architecture)
    for one in known:
        if one.casefold() == tag.casefold():
            return enum[one]
    near = ", ".join(nearest(tag, known) or known)
    raise UnknownName(f"{reference}: {architecture} has no weights tagged {tag!r}; its tags are {near}.")


def license_of(entry: Any) -> str | None:
    """Give the SPDX identifier of a member's licence; None if the library states none."""
    return LICENSES.get(entry.meta.get("license"))


def catalog_entry(name: str) -> CatalogEntry:
    """Say of an architecture what is known without building it."""
    tags = tags_of(name)
    enum = torchvision.models.get_model_weights(name)
    licenses = {tag: text for tag in tags if (text := license_of(enum[tag])) is not None}
    reference = Reference("torchvision", name)
    anatomy = find_anatomy(reference, name)
    preprocessing, _ = read_options(reference, name, anatomy, enum.DEFAULT, tags[0])
    return CatalogEntry(
        name=name,
        tags=tuple(tags),
        licenses=licenses,
        modality=anatomy.modality,
        size=preprocessing.size,
    )

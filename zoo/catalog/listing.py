"""``zoo.list``: the backbones that fit, from the catalogs."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from zoo.catalog.index import catalogs
from zoo.contracts.catalog import CAPABILITIES, Catalog, CatalogEntry
from zoo.errors import ConfigError, UnknownName, nearest

__all__ = ["Listing", "list_backbones"]

log = logging.getLogger("zoo")

Sort = Literal["name", "parameters"]


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of ``zoo list``: a backbone and its provider.

    Args:
        provider: The plugin.
        entry: What the catalog knows.
        tag: The first tag that fits what was asked of the weights, where the default one does not; None where it does.
    """

    provider: str
    entry: CatalogEntry
    tag: str | None = None

    @property
    def reference(self) -> str:
        """The shortest reference that builds it with weights that fit what was asked."""
        return f"{self.provider}:{self.entry.name}" + (f".{self.tag}" if self.tag is not None else "")


def list_backbones(
    pattern: str = "*",
    *,
    provider: str | None = None,
    modality: str | None = None,
    needs: str | Sequence[str] = (),
    min_params: float | None = None,
    max_params: float | None = None,
    size: int | tuple[int, int] | None = None,
    max_size: int | None = None,
    tag: str | None = None,
    license: str | None = None,
    pretrained: bool = False,
    sort: Sort | None = None,
) -> list[Listing]:
    """List backbones from the catalogs; imports neither torch nor a provider, and needs no network.

    What is not known of an architecture does not fit a filter that asks for it. Of weights, one and the same tag must
    fit both ``tag`` and ``license``.

    Args:
        pattern: Shell pattern for the name, with or without a provider, such as ``mobilenet*`` or ``timm:vit*``.
        provider: Only this provider's.
        modality: Only this modality: ``image``, ``text``, ``audio``, ``video``, ``image-text``.
        needs: Capabilities that it must have, such as ``maps``.
        min_params: Parameters at the least.
        max_params: Parameters at the most.
        size: Native picture size in pixels: one number for a square, else height and width.
        max_size: Native height and width at the most, in pixels.
        tag: Shell pattern for the tag of some of its weights, such as ``*in22k*``.
        license: Shell pattern for the licence of some of its weights, such as ``apache*``.
        pretrained: Only those with pretrained weights.
        sort: ``name``, or ``parameters`` with the fewest first and those not known last; None for provider by provider.

    Raises:
        UnknownName: If the provider is not installed, or no provider knows the modality or capability.
        ConfigError: If a number or ``sort`` cannot be used.

    Example:
        >>> [one.reference for one in list_backbones("timm:resnet1*t", license="apache*", sort="parameters")]
        ['timm:resnet10t', 'timm:resnet14t']
    """
    if ":" in pattern:
        provider, _, pattern = pattern.partition(":")
    wanted = {needs} if isinstance(needs, str) else set(needs)
    pixels = _pixels(size)
    _check_numbers(min_params=min_params, max_params=max_params, max_size=max_size)
    if sort is not None and sort not in get_args(Sort):
        raise ConfigError(f"zoo.list: sort must be one of {', '.join(get_args(Sort))}, got {sort!r}.")
    found = catalogs(provider)
    _check_words(found, provider, modality, wanted)

    def fits(entry: CatalogEntry) -> bool:
        return (
            _alike(entry.name, pattern or "*")
            and (modality is None or entry.modality == modality)
            and wanted <= set(entry.capabilities)
            and (min_params is None or (entry.parameters is not None and entry.parameters >= min_params))
            and (max_params is None or (entry.parameters is not None and entry.parameters <= max_params))
            and (pixels is None or entry.size == pixels)
            and (max_size is None or (entry.size is not None and max(entry.size) <= max_size))
            and (not pretrained or bool(entry.tags))
        )

    listed = []
    for name, catalog in found:
        for entry in filter(fits, catalog.entries):
            if tag is None and license is None:
                listed.append(Listing(name, entry))
            elif tags := _weights(entry, tag, license):
                listed.append(Listing(name, entry, tags[0] if tags[0] != entry.tags[0] else None))
    if not listed:
        _explain_nothing(found, pattern, tag, license)
    if sort is not None:
        listed.sort(key=_ORDERS[sort])
    return listed


_ORDERS: dict[str, Callable[[Listing], tuple[object, ...]]] = {
    "name": lambda one: (one.entry.name.casefold(), one.entry.name, one.provider),
    "parameters": lambda one: (one.entry.parameters is None, one.entry.parameters or 0, one.entry.name, one.provider),
}


def _weights(entry: CatalogEntry, tag: str | None, license: str | None) -> list[str]:
    """Give the tags that fit, the default first."""
    return [
        known
        for known in entry.tags
        if (tag is None or _alike(known, tag)) and (license is None or _alike(entry.licenses.get(known), license))
    ]


def _alike(text: str | None, pattern: str) -> bool:
    return text is not None and fnmatch.fnmatchcase(text.casefold(), pattern.casefold())


# --- what cannot be asked, and why nothing fits


def _pixels(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"zoo.list: size must be pixels, one number or height and width, got {size!r}.")
    return sides[0], sides[1]


def _check_numbers(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number >= 0:
            raise ConfigError(f"zoo.list: {name} must be a number, 0 or more, got {number!r}.")
    least, most = numbers["min_params"], numbers["max_params"]
    if least is not None and most is not None and least > most:
        raise ConfigError(f"zoo.list: min_params must be at most max_params, got {least:g} and {most:g}.")


def _check_words(
    found: Iterable[tuple[str, Catalog]], provider: str | None, modality: str | None, needs: set[str]
) -> None:
    """Refuse a modality or capability that nothing has: an empty list would say that there are none just now."""
    if modality is not None:
        from zoo.spec import Modality

        if modality not in get_args(Modality):
            raise UnknownName(f"modality must be one of {', '.join(get_args(Modality))}, got {modality!r}.")
    known = set(CAPABILITIES)
    if needs - known:
        everywhere = found if provider is None else catalogs()
        known |= {one for _, catalog in everywhere for entry in catalog.entries for one in entry.capabilities}
    for capability in sorted(needs - known):
        near = nearest(capability, known)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"needs must be of {', '.join(sorted(known))}, got {capability!r}.{hint}")


def _explain_nothing(found: Iterable[tuple[str, Catalog]], pattern: str, tag: str | None, license: str | None) -> None:
    """Log why a list is empty, where a pattern is to blame."""
    entries = [entry for _, catalog in found for entry in catalog.entries]
    licenses = {text for entry in entries for text in entry.licenses.values()}
    if license is not None and not any(_alike(text, license) for text in licenses):
        told = ", ".join(sorted(licenses)) or "none"
        log.info("No weights have a licence like %r; those that are stated: %s.", license, told)
    if tag is not None and not any(_alike(one, tag) for entry in entries for one in entry.tags):
        log.info("No weights have a tag like %r; a part of one is written '*%s*'.", tag, tag.strip("*"))
    for provider, catalog in found:
        for name, reason in catalog.refused.items():
            if pattern != "*" and _alike(name, pattern):
                log.info("%s:%s is not served: %s.", provider, name, reason)

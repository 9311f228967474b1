"""``zoo.save``: to a folder as ever, to a URL by way of a folder, ``zoo.json`` last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo.bundle.loading
import zoo.bundle.saving
from zoo.bundle.manifest import MOST_BYTES
from zoo.bundle.paths import MANIFEST, SIGNATURE, check_paths
from zoo.bundle.plain_json import parse
from zoo.errors import BundleError, ConfigError
from zoo.remote.address import Address, at_home, elsewhere
from zoo.remote.alike import alike
from zoo.remote.places import Place, open_place

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["check_target", "save"]


@alike(zoo.bundle.saving.save)
def save(model: Model | Ensemble, path: str | Path, *, overwrite: bool = False, **options: Any) -> Path | str:
    """Save a bundle to a folder or a URL; the arguments are those of the function that saves to a folder."""
    address = elsewhere(path)
    if address is None:
        return zoo.bundle.saving.save(model, at_home(path), overwrite=overwrite, **options)
    if options.get("members") == "refer":
        raise ConfigError(f"members='refer' is for folders beside one another; save to {address.shown} with 'embed'.")
    if isinstance(options.get("base"), (str, Path)):  # a path of this machine says nothing to who loads it
        options["base"] = zoo.bundle.loading.load_model(options["base"])
    place = open_place(address)
    old = _check(place, address, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="zoo-") as temporary:
        folder = Path(temporary, "bundle")
        zoo.bundle.saving.save(model, folder, **options)
        names = sorted(_files(folder))
        place.send(folder, names, sorted({*old} - {*names}))
    return str(path)


def check_target(url: str, *, overwrite: bool) -> None:
    """Refuse a URL that a bundle could not be saved to, as far as looking can tell.

    Raises:
        BundleError: If it can only be read, or holds a bundle that must stay.
    """
    address = elsewhere(url)
    if address is not None:
        _check(open_place(address), address, overwrite=overwrite)


def _check(place: Place, address: Address, *, overwrite: bool) -> list[str]:
    """Look at what is there; give the files of the bundle that is to be replaced."""
    place.check_writable()
    data = place.manifest()
    if data is None:
        return []
    if not overwrite:
        raise BundleError(f"{address.shown} holds a bundle; save with overwrite=True to replace it.")
    try:
        found = parse(data, MANIFEST, most=MOST_BYTES)
        if not isinstance(found, dict) or found.get("format") != "zoo.bundle" or not isinstance(found["files"], dict):
            raise BundleError("It is another format.")
        check_paths(found["files"], MANIFEST)
    except (BundleError, KeyError):
        raise BundleError(
            f"{address.shown}/{MANIFEST} is no bundle's manifest, so nothing there is replaced; remove it yourself, or "
            "save elsewhere."
        ) from None
    return [*found["files"], SIGNATURE]  # which holds for the old bundle alone


def _files(folder: Path) -> Iterable[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name).relative_to(folder).as_posix()
            if path != MANIFEST:
                yield path

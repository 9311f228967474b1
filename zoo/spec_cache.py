"""Specs that were measured before: a provider measures a backbone once for each version of itself and its library.

Measuring builds the architecture on the meta device and runs it, which takes longer than loading its weights. What
comes out depends on the reference and on code alone, so it is kept in the user's cache, under all that it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

import zoo
from zoo.cache import cache_folder
from zoo.catalog import Resolution, catalog_of
from zoo.contracts.provider import Provider
from zoo.errors import ConfigError
from zoo.reference import Reference
from zoo.registry import Plugin, registry
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json

__all__ = ["spec_of"]

log = logging.getLogger("zoo")


def spec_of(found: Resolution) -> BackboneSpec:
    """Give the spec of a backbone, measured now or before.

    Args:
        found: What its name means. Of hub ids and local folders, the provider must give a digest of the files that the
            spec rests on; without one, and without ``measured_once``, they are measured each time.

    Raises:
        ZooError: As the provider's own ``spec``.
    """
    reference = found.reference
    provider = registry().provider(reference.provider)
    digest = "" if found.entry is not None else provider.digest(reference)
    if digest is None or not provider.measured_once:
        return _measured(provider, reference)
    path = _place(found, digest)
    known = _read(path, str(reference))
    if known is not None:
        return known
    spec = _measured(provider, reference)
    _write(path, str(reference), spec)
    return spec


def _measured(provider: Provider, reference: Reference) -> BackboneSpec:
    """Measure; what an output reads is found by its graph, so the caller's ``no_grad`` must not reach in there."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        return provider.spec(reference)


def _place(found: Resolution, digest: str) -> Path:
    reference = found.reference
    plugin, catalog = registry().plugin(reference.provider), catalog_of(reference.provider)
    depends = [zoo.__version__, plugin.distribution, plugin.version, _code(plugin), str(reference), digest]
    name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]
    return cache_folder("specs", f"{plugin.name}-{catalog.library}-{catalog.version}") / f"{name}.json"


def _code(plugin: Plugin) -> list[tuple[str, int, int]]:
    """Stamp the plugin's own files and ours, so that a change of code counts, without a new version too."""
    package = importlib.util.find_spec(plugin.module.partition(".")[0])
    origin = None if package is None else package.origin
    return [stamp for source in (zoo.__file__, origin) if source for stamp in _stamps(Path(source).parent)]


@lru_cache(maxsize=32)
def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = [(str(file.relative_to(folder)), file.stat()) for file in sorted(folder.rglob("*.py"))]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)


def _read(path: Path, reference: str) -> BackboneSpec | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return from_json(BackboneSpec, kept["spec"]) if kept["asked"] == reference else None
    except (OSError, ValueError, TypeError, LookupError, ConfigError):
        return None


def _write(path: Path, reference: str, spec: BackboneSpec) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"asked": reference, "spec": to_json(spec)}), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        log.info("The spec is not kept, since the cache cannot be written: %s.", error)

"""The examination behind ``zoo doctor``."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["examine"]

LIBRARIES = ("headzoo", "torch", "torchvision", "timm", "transformers", "accelerate", "safetensors")


def examine() -> dict[str, Any]:
    """Look at python, libraries, devices, cache and plugins.

    Returns:
        What was found, JSON; under ``problems`` one sentence for each thing that is not well.
    """
    problems: list[str] = []
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(problems),
        "devices": _devices(problems),
        "cache": _cache(problems),
        "plugins": _plugins(problems),
        "problems": problems,
    }


def _versions(problems: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
            problems.append(f"{library} is not installed; pip install {library}.")
    return found


def _devices(problems: list[str]) -> dict[str, Any]:
    accelerators: list[dict[str, str]] = []
    try:
        import torch

        for index in range(torch.cuda.device_count()):
            accelerators.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
        if torch.backends.mps.is_available():
            accelerators.append({"device": "mps", "name": platform.processor() or "Apple GPU"})
    except Exception as error:  # a broken installation raises anything
        problems.append(f"torch does not work: {type(error).__name__}: {error}.")
    return {"cores": os.cpu_count(), "accelerators": accelerators}


def _cache(problems: list[str]) -> dict[str, Any]:
    from zoo.cache import cache_folder

    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    if not writable:
        problems.append(f"The cache folder {str(folder)!r} cannot be written; set ZOO_CACHE to one that can.")
    return {"folder": str(folder), "bytes": _bytes(folder), "writable": writable}


def _bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total


def _plugins(problems: list[str]) -> list[dict[str, Any]]:
    """Load every plugin, and the class of every head and method it gives."""
    from zoo.catalog import catalog_of
    from zoo.registry import list_plugins, registry

    told = []
    for status in list_plugins():
        faults = [] if status.problem is None else [status.problem]
        checks: list[tuple[Any, str]] = [(registry().head_class, name) for name in status.heads]
        checks += [(registry().method_class, name) for name in status.methods]
        checks += [(catalog_of, status.name)] if status.provider else []
        for check, name in checks:
            try:
                check(name)
            except Exception as error:  # a stranger's code may raise anything
                faults.append(" ".join(str(error).split()))
        problems += [fault for fault in faults if fault not in problems]
        who = {"name": status.name, "distribution": status.distribution, "version": status.version}
        told.append({**who, "state": "broken" if faults else "ok", "faults": faults})
    return told

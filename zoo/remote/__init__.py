"""Bundles at a URL: any address that fsspec knows, and repositories of the Hugging Face hub.

``diff``, ``inspect``, ``load``, ``save`` and ``verify`` here are the public ones: those of :mod:`zoo.bundle`, which
take a URL too. Importing this package imports neither torch nor fsspec; what a folder on this machine does not need is
never imported for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["diff", "inspect", "is_url", "load", "save", "shown", "verify"]

# public name -> the module that has it
_FACE = {
    "diff": "zoo.remote.inspecting",
    "inspect": "zoo.remote.inspecting",
    "is_url": "zoo.remote.address",
    "load": "zoo.remote.loading",
    "save": "zoo.remote.saving",
    "shown": "zoo.remote.address",
    "verify": "zoo.remote.loading",
}

if TYPE_CHECKING:
    from zoo.remote.address import is_url as is_url
    from zoo.remote.address import shown as shown
    from zoo.remote.inspecting import diff as diff
    from zoo.remote.inspecting import inspect as inspect
    from zoo.remote.loading import load as load
    from zoo.remote.loading import verify as verify
    from zoo.remote.saving import save as save
else:

    def __getattr__(name: str) -> object:
        try:
            module = _FACE[name]
        except KeyError:
            raise AttributeError(f"module 'zoo.remote' has no attribute {name!r}") from None
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value

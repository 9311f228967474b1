"""Bundles: a model as a folder of safetensors and JSON, saved at once or not at all, loaded strictly and offline.

Importing this package imports no torch; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["Report", "load", "save", "sign", "verify"]

# public name -> the module that has it
_FACE = {
    "Report": "zoo.bundle.verifying",
    "load": "zoo.bundle.loading",
    "save": "zoo.bundle.saving",
    "sign": "zoo.bundle.signing",
    "verify": "zoo.bundle.verifying",
}

if TYPE_CHECKING:
    from zoo.bundle.loading import load as load
    from zoo.bundle.saving import save as save
    from zoo.bundle.signing import sign as sign
    from zoo.bundle.verifying import Report as Report
    from zoo.bundle.verifying import verify as verify
else:

    def __getattr__(name: str) -> object:
        try:
            module = _FACE[name]
        except KeyError:
            raise AttributeError(f"module 'zoo.bundle' has no attribute {name!r}") from None
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value

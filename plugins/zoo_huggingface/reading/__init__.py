"""One forward pass of a transformers module, and how the uniform features are read from what it gives.

``reader`` runs a module by its plan; what goes in is made by ``vision`` (pictures, clips), ``packed`` (flattened
patches with a grid) and ``sequence`` (texts, sounds); ``recording`` takes the maps of the stages.
"""

from __future__ import annotations

from zoo_huggingface.reading.reader import Reader, Reading, pair, size_of

__all__ = ["Reader", "Reading", "pair", "size_of"]

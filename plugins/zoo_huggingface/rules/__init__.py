"""What each model type of transformers needs said about it: tables, so that a type is served by adding a line.

A type without a line goes the generic way (:data:`GENERIC`): the mean of ``last_hidden_state`` over real tokens or
space, and no maps. ``tests/plugins/huggingface`` holds every line to what the library itself gives.
"""

from __future__ import annotations

from dataclasses import replace

from zoo_huggingface.rules.audio import AUDIO
from zoo_huggingface.rules.composite import COMPOSITES
from zoo_huggingface.rules.dense import DENSE
from zoo_huggingface.rules.dual import PARTS
from zoo_huggingface.rules.inner import INNER
from zoo_huggingface.rules.mended import MENDED, MENDED_PARTS
from zoo_huggingface.rules.packed import PACKED
from zoo_huggingface.rules.rule import GENERIC, Rule
from zoo_huggingface.rules.text import TEXT
from zoo_huggingface.rules.unserved import UNSERVED as UNSERVED_PICTURES
from zoo_huggingface.rules.unserved_sequences import UNSERVED_SEQUENCES
from zoo_huggingface.rules.video import VIDEO
from zoo_huggingface.rules.vision import VISION

__all__ = ["COMPOSITES", "GENERIC", "MENDED_PARTS", "PARTS", "RULES", "UNSERVED", "Rule"]

_ALL: dict[str, Rule] = {**AUDIO, **TEXT, **VISION, **DENSE, **VIDEO, **PACKED, **INNER}
RULES: dict[str, Rule] = _ALL | {name: replace(_ALL[name], defaults=fields) for name, fields in MENDED.items()}
"""Model type to rule."""
UNSERVED: dict[str, str] = {**UNSERVED_PICTURES, **UNSERVED_SEQUENCES}
"""Model type to the reason why it cannot be served."""

"""What each model type of transformers needs said about it: tables, so that a type is served by adding a line.

A type without a line goes the generic way (:data:`GENERIC`): the mean of ``last_hidden_state`` over real tokens or
space, and no maps. ``tests/plugins/huggingface`` holds every line to what the library itself gives.
"""

from __future__ import annotations

from zoo_huggingface.rules.dual import PARTS
from zoo_huggingface.rules.rule import GENERIC, Rule
from zoo_huggingface.rules.text import TEXT
from zoo_huggingface.rules.unserved import UNSERVED
from zoo_huggingface.rules.vision import VISION

__all__ = ["GENERIC", "PARTS", "RULES", "UNSERVED", "Rule"]

RULES: dict[str, Rule] = {**TEXT, **VISION}
"""Model type to rule."""

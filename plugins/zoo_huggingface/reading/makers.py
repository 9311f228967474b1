"""The makers of a module's arguments by name, as the rules' ``takes`` says them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from zoo_huggingface.reading import packed, vision
from zoo_huggingface.reading.sequence import arguments_of
from zoo_huggingface.rules import Rule
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["MAKERS", "Maker"]

Maker = Callable[[Rule, Any, Mapping[str, Tensor]], dict[str, Any]]


def of_sequence(rule: Rule, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give a text or a sound, as the rule's sequence says."""
    return arguments_of(rule.sequence or Sequence(), config, inputs)


MAKERS: dict[str, Maker] = {
    "clip": vision.clip,
    "packed": packed.packed,
    "picture": vision.picture,
    "picture as tile": vision.picture_as_tile,
    "picture in order": vision.picture_in_order,
    "picture with fine": vision.picture_with_fine,
    "picture with mask": vision.picture_with_mask,
    "picture with size": vision.picture_with_size,
    "sequence": of_sequence,
}
"""Name to maker: of a rule, a config and our inputs it makes the arguments of the forward pass."""

"""From what a model is called with to what each of its streams sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo.errors import ShapeError
from zoo.spec import ModelSpec

__all__ = ["by_stream"]


def by_stream(spec: ModelSpec, names: Sequence[str], inputs: Tensor | Mapping[str, Any]) -> Mapping[str, Any]:
    """Give each stream what it sees.

    Args:
        spec: The model.
        names: The names of its inputs.
        inputs: As for :meth:`zoo.Model.forward`.

    Raises:
        ShapeError: If an input is missing.
    """
    streams = spec.streams
    if isinstance(inputs, Tensor):
        if len(names) > 1:
            raise ShapeError(f"The model has the inputs {', '.join(names)}; give a dict of them, got one tensor.")
        return dict.fromkeys(streams, inputs)
    if len(names) == 1 and names[0] not in inputs and not any(stream in inputs for stream in streams):
        return dict.fromkeys(streams, inputs)  # the backbone's own input names, such as input_ids
    given = {}
    for stream, entry in streams.items():
        key = stream if stream in inputs else entry.input
        if key not in inputs:
            raise ShapeError(f"The model needs the input {entry.input!r}, got {', '.join(inputs) or 'none'}.")
        given[stream] = inputs[key]
    return given

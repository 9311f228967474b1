"""What a teacher answers to rows: its outputs, vectors and maps, computed in a step or kept for all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError, ShapeError
from zoo_methods.distilling.losses import attention_of
from zoo_methods.distilling.pairing import Level, TaskPair

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["ATTENTION", "HINTS", "OUTPUTS", "VECTORS", "Questions", "keep", "vector_of"]

OUTPUTS, VECTORS, HINTS, ATTENTION = "outputs/", "vectors/", "hints/", "attention/"


@dataclass(frozen=True)
class Questions:
    """What is asked of a teacher.

    Args:
        teacher: The teacher, in eval mode.
        tasks: Tasks whose outputs are asked for.
        vectors: The student's streams and the teacher's whose pooled vectors are asked for.
        hints: Levels whose maps are asked for.
        attention: Levels of whose maps only the attention is asked for, which is smaller.
    """

    teacher: Model | Ensemble
    tasks: tuple[TaskPair, ...] = ()
    vectors: Mapping[str, str] | None = None
    hints: tuple[Level, ...] = ()
    attention: tuple[Level, ...] = ()

    def wants(self) -> dict[str, Want]:
        """Give what is asked of each stream of the teacher beside what its heads read."""
        found = {stream: Want(pooled=True) for stream in (self.vectors or {}).values()}
        for level in (*self.hints, *self.attention):
            more = Want(pooled=False, maps=(level.taught_stage,))
            found[level.taught_stream] = found.get(level.taught_stream, Want(pooled=False)) | more
        return found

    @torch.no_grad()
    def ask(self, inputs: Any) -> dict[str, Tensor]:
        """Give the answers to a batch as the teacher takes it, in float32.

        Shape:
            - returns: ``(B, …)`` for each answer; classes in the student's order.

        Raises:
            ShapeError: If classes stand in another order and the output has not one score a class.
        """
        wants = self.wants()
        features: Mapping[str, Features] = {}
        if wants:
            teacher: Any = self.teacher
            features = teacher.features(inputs, wants=wants)
            outputs = teacher.score(features) if self.tasks else {}
        else:
            outputs = self.teacher(inputs)
        found = {f"{OUTPUTS}{pair.name}": _in_order(outputs[pair.taught], pair) for pair in self.tasks}
        for stream, other in (self.vectors or {}).items():
            found[f"{VECTORS}{stream}"] = vector_of(features, other)
        for level in self.hints:
            found[f"{HINTS}{level.key}"] = features[level.taught_stream].maps[level.taught_stage]
        for level in self.attention:
            found[f"{ATTENTION}{level.key}"] = attention_of(features[level.taught_stream].maps[level.taught_stage])
        return {name: answer.float() for name, answer in found.items()}


def vector_of(features: Mapping[str, Features], stream: str) -> Tensor:
    """Give the pooled vector of a stream.

    Raises:
        CapabilityError: If it was not computed.
    """
    found = features[stream].pooled
    if found is None:
        raise CapabilityError(f"Relations are between pooled vectors, and the stream {stream!r} gave none.")
    return found


def _in_order(output: Tensor, pair: TaskPair) -> Tensor:
    if pair.order is None:
        return output
    if output.ndim < 2 or output.shape[1] != len(pair.order):
        raise ShapeError(
            f"The teacher has the classes of {pair.name!r} in another order, and gives {tuple(output.shape[1:])} "
            f"scores for {len(pair.order)} classes; give both models the classes in one order."
        )
    return output.index_select(1, torch.tensor(pair.order, device=output.device))


def keep(
    ask: Callable[[Any], Mapping[str, Tensor]], batches: Iterable[Any], rows: int, limit: float
) -> dict[str, Tensor] | None:
    """Give the answers to all rows, by row number; None if they would take too much memory, or differ in shape.

    Args:
        ask: Gives the answers to a batch.
        batches: All rows in their order.
        rows: How many they are.
        limit: How many bytes the answers may take.
    """
    found: dict[str, Tensor] = {}
    start = 0
    for inputs in batches:
        answers = ask(inputs)
        if not found:
            if sum(one[0].numel() * one.element_size() for one in answers.values()) * rows > limit:
                return None
            found = {name: one.new_empty(rows, *one.shape[1:]) for name, one in answers.items()}
        if any(found[name].shape[1:] != one.shape[1:] for name, one in answers.items()):
            return None
        size = len(next(iter(answers.values())))
        for name, one in answers.items():
            found[name][start : start + size] = one
        start += size
    return found

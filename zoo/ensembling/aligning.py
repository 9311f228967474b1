"""Members that speak of the same: their tasks compared, and their classes put in one order, by label."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.contracts.head import Task
from zoo.errors import ConfigError, ShapeError
from zoo.model import Model

__all__ = ["Alignment"]


class Alignment:
    """Where each class of the first member stands in the outputs of the others.

    Args:
        members: Member name to model.

    Raises:
        ConfigError: If the members have no task, or their tasks differ; the message lists the difference.
    """

    def __init__(self, members: Mapping[str, Model]) -> None:
        tasks = {name: model.tasks() for name, model in members.items()}
        first, *others = members
        if not tasks[first]:
            raise ConfigError(f"The member {first!r} has no task; an ensemble combines the outputs of heads.")
        self._orders: dict[tuple[str, str], tuple[int, ...]] = {}
        for other in others:
            _check_names(first, tasks[first], other, tasks[other])
            for name, task in tasks[first].items():
                order = _order(name, first, task, other, tasks[other][name])
                if order is not None:
                    self._orders[other, name] = order

    def apply(self, member: str, task: str, output: Tensor) -> Tensor:
        """Put what a member gave in the order of the first member's classes.

        Raises:
            ShapeError: If its scores are not one a class, so that they cannot be put in another order.
        """
        order = self._orders.get((member, task))
        if order is None:
            return output
        if output.ndim < 2 or output.shape[1] != len(order):
            raise ShapeError(
                f"The member {member!r} has the classes of {task!r} in another order, and gives {output.shape[1:]} "
                f"scores for {len(order)} classes; give all members the classes in one order."
            )
        return output.index_select(1, torch.tensor(order, device=output.device))


def _check_names(first: str, ours: Mapping[str, Task], other: str, theirs: Mapping[str, Task]) -> None:
    if ours.keys() != theirs.keys():
        raise ConfigError(
            f"The members must have the same tasks: {first!r} has {', '.join(ours)}, {other!r} has "
            f"{', '.join(theirs) or 'none'}."
        )


def _order(name: str, first: str, ours: Task, other: str, theirs: Task) -> tuple[int, ...] | None:
    """Give the place of each of our classes among theirs; None if it is the same.

    Raises:
        ConfigError: If the two tasks are not of the same sort, or their classes differ.
    """
    for what, one, two in (
        ("an output that is", _form(ours), _form(theirs)),
        ("the metric", ours.best_metric[0], theirs.best_metric[0]),
    ):
        if one != two:
            raise ConfigError(
                f"The task {name!r} must be the same in all members: in {first!r} ({ours.spec.type}) it has {what} "
                f"{one}, in {other!r} ({theirs.spec.type}) {two}."
            )
    mine, given = _classes(ours), _classes(theirs)
    if mine == given:
        return None
    if mine is None or given is None or set(mine) != set(given):
        only = [f"only in {first!r}: {_few(mine, given)}", f"only in {other!r}: {_few(given, mine)}"]
        raise ConfigError(f"The classes of {name!r} must be the same in all members; {'; '.join(only)}.")
    place = {label: index for index, label in enumerate(given)}
    return tuple(place[label] for label in mine)


def _form(task: Task) -> str:
    return {"softmax": "one class of several", "sigmoid": "a probability each", None: "numbers"}[task.activation]


def _classes(task: Task) -> tuple[str, ...] | None:
    """Give the names of a task's classes, by the setting that all heads over classes have."""
    found = getattr(task.config, "classes", None)
    return None if found is None else tuple(found)


def _few(these: tuple[str, ...] | None, those: tuple[str, ...] | None) -> str:
    missing = [label for label in these or () if label not in (those or ())]
    return ", ".join(map(repr, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "") or "none"

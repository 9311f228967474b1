"""What of a student belongs to what of its teacher: tasks by name and class by label, streams, maps of one level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.contracts.features import Want
from zoo.contracts.head import Task
from zoo.errors import CapabilityError, ConfigError, UnknownName, nearest

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.model import Model

__all__ = ["Level", "TaskPair", "check_room", "levels", "pair_streams", "pair_tasks"]

_FORMS = {"softmax": "one class of several", "sigmoid": "a probability each", None: "numbers"}


@dataclass(frozen=True, slots=True)
class TaskPair:
    """A task of the student and the teacher's that answers it.

    Args:
        name: The student's task.
        taught: The teacher's task.
        activation: How outputs become probabilities; None for numbers.
        order: For each class of the student, its place in the teacher's outputs; None where they stand alike.
    """

    name: str
    taught: str
    activation: Literal["softmax", "sigmoid"] | None
    order: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Level:
    """Two stages whose maps are as many times smaller than the input.

    Args:
        stream: The student's stream.
        stage: Its stage.
        channels: Channels of that stage's map.
        taught_stream: The teacher's stream.
        taught_stage: Its stage.
        taught_channels: Channels of that stage's map.
    """

    stream: str
    stage: str
    channels: int
    taught_stream: str
    taught_stage: str
    taught_channels: int

    @property
    def key(self) -> str:
        """A name for it, that of the student's stage."""
        return f"{self.stream}/{self.stage}"


def pair_tasks(
    ours: Mapping[str, Task], theirs: Mapping[str, Task], asked: Sequence[str] | Mapping[str, str] | None
) -> tuple[TaskPair, ...]:
    """Pair the student's tasks with the teacher's.

    Args:
        ours: The student's tasks.
        theirs: The teacher's tasks.
        asked: The student's tasks that learn from the teacher, or each with the name of the teacher's; None for all,
            with the task of the same name, or the only one of both.

    Raises:
        UnknownName: If a task is not there.
        ConfigError: If the outputs of two are not of one sort, or their classes differ; the message lists which.
    """
    if asked is None:
        alone = len(ours) == len(theirs) == 1
        names = dict(zip(ours, theirs, strict=True)) if alone else {name: name for name in ours}
    else:
        names = dict(asked) if isinstance(asked, Mapping) else {name: name for name in asked}
    found = []
    for name, taught in names.items():
        for who, task, tasks in (("student", name, ours), ("teacher", taught, theirs)):
            if task not in tasks:
                near = ", ".join(nearest(task, tasks) or tasks) or "none"
                raise UnknownName(
                    f"The {who} has no task {task!r} to distil; its tasks are {near}. Name in tasks=… those that learn "
                    "from the teacher, or each with the name of the teacher's."
                )
        found.append(_pair(name, ours[name], taught, theirs[taught]))
    return tuple(found)


def _pair(name: str, ours: Task, taught: str, theirs: Task) -> TaskPair:
    for what, one, two in (
        ("an output that is", _FORMS[ours.activation], _FORMS[theirs.activation]),
        ("the metric", ours.best_metric[0], theirs.best_metric[0]),
    ):
        if one != two:
            raise ConfigError(
                f"The task {name!r} ({ours.spec.type}) has {what} {one}, and the teacher's {taught!r} "
                f"({theirs.spec.type}) {two}; a student learns from a task of its own sort."
            )
    return TaskPair(name, taught, ours.activation, _order(name, _classes(ours), _classes(theirs)))


def _order(name: str, ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None) -> tuple[int, ...] | None:
    """Give the place of each class of the student among the teacher's; None if it is the same."""
    if ours == theirs:
        return None
    if ours is None or theirs is None or set(ours) != set(theirs):
        only = [f"only the student has {_few(ours, theirs)}", f"only the teacher has {_few(theirs, ours)}"]
        raise ConfigError(f"The classes of {name!r} must be those of the teacher: {'; '.join(only)}.")
    return tuple(theirs.index(label) for label in ours)


def _classes(task: Task) -> tuple[str, ...] | None:
    """Give the names of a task's classes, by the setting that all heads over classes have."""
    found: Any = getattr(task.config, "classes", None)
    return None if found is None else tuple(found)


def _few(these: tuple[str, ...] | None, those: tuple[str, ...] | None) -> str:
    missing = [label for label in these or () if label not in (those or ())]
    return ", ".join(map(repr, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "") or "none"


def pair_streams(student: Model, teacher: Model) -> dict[str, str]:
    """Pair the student's streams with the teacher's: by name, or the only one of both.

    Raises:
        ConfigError: If none belongs to none.
    """
    ours, theirs = list(student.spec.streams), list(teacher.spec.streams)
    if len(ours) == len(theirs) == 1:
        return {ours[0]: theirs[0]}
    found = {name: name for name in ours if name in theirs}
    if not found:
        raise ConfigError(
            f"Features are distilled between streams of one name: the student has {', '.join(ours)}, the teacher "
            f"{', '.join(theirs)}; build them with streams of the same names."
        )
    return found


def levels(
    student: Model, teacher: Model, streams: Mapping[str, str], reductions: Sequence[float] | None
) -> tuple[Level, ...]:
    """Give the stages of both whose maps are as many times smaller than the input, the last where several are.

    Args:
        student: The student.
        teacher: The teacher.
        streams: The student's streams and the teacher's.
        reductions: The wanted sizes of the input divided by those of the maps; None for all that both have.

    Raises:
        ConfigError: If there are none, or a wanted one is not there.
    """
    found: list[Level] = []
    told: list[str] = []
    missing = set(reductions or ())
    for stream, other in streams.items():
        ours, theirs = (
            {stage.reduction: stage for stage in model.spec.streams[name].backbone.maps}
            for model, name in ((student, stream), (teacher, other))
        )
        told.append(f"{stream} has {_numbers(ours)}, the teacher's {other} {_numbers(theirs)}")
        for reduction, stage in ours.items():
            if reduction is None or reduction not in theirs or (reductions is not None and reduction not in reductions):
                continue
            missing.discard(reduction)
            taught = theirs[reduction]
            found.append(Level(stream, stage.name, stage.channels or 0, other, taught.name, taught.channels or 0))
    if missing or not found:
        what = f"the reductions {_numbers(sorted(missing))}" if missing else "maps of one reduction"
        raise ConfigError(f"Student and teacher must both have {what}: {'; '.join(told)}. Set reductions=….")
    return tuple(found)


def _numbers(these: Any) -> str:
    return ", ".join(f"{one:g}" for one in these if one is not None) or "none"


def check_room(who: str, backbone: Backbone, want: Want) -> None:
    """Refuse a backbone of which the layers that give what is wanted were cut off.

    Raises:
        CapabilityError: If they were.
    """
    if backbone.kept is not None and not want <= backbone.kept:
        raise CapabilityError(
            f"The {who}'s {backbone.spec.reference} was cut to what its heads read, and the distillation of features "
            "reads more of it; leave out reductions that it has not, or build it with a head that reads them."
        )

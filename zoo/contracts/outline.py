"""What a plan is made from: the stages of each backbone and what is in them; plain data, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import UnknownName, nearest

__all__ = ["BackboneOutline", "StageOutline", "find_stage"]


@dataclass(frozen=True, slots=True)
class StageOutline:
    """A stage of a backbone, as a method sees it.

    Args:
        name: ``stem``, ``s1`` … ``sN`` or ``post``.
        blocks: Number of blocks that follow one another in it, such as a transformer's layers; 0 where it has no
            parameters, 1 where it cannot be divided.
        parameters: Number of parameters; 0 where it has none, or was cut off.
        biases: How many of them are biases, the shifts of norms among them.
        adapters: How many of them an adapter added.
    """

    name: str
    blocks: int
    parameters: int
    biases: int = 0
    adapters: int = 0


@dataclass(frozen=True, slots=True)
class BackboneOutline:
    """A backbone, as a method sees it.

    Args:
        stages: Its stages in the order of execution.

    Example:
        >>> stages = StageOutline("stem", 1, 9), StageOutline("s1", 3, 90), StageOutline("post", 0, 0)
        >>> BackboneOutline(stages).units()
        (('stem',), ('s1', 'post'))
    """

    stages: tuple[StageOutline, ...]

    def units(self) -> tuple[tuple[str, ...], ...]:
        """Give the stages in the steps in which a method goes through them, in the order of execution.

        ``post``, a final norm or a last convolution, is one with the last stage before it, for which it was trained. A
        stage without parameters is one with the next that has some.
        """
        units: list[tuple[str, ...]] = []
        waiting: tuple[str, ...] = ()
        for stage in self.stages:
            waiting = (*waiting, stage.name)
            if stage.name == "post" and units:
                units[-1], waiting = (*units[-1], *waiting), ()
            elif stage.parameters:
                units, waiting = [*units, waiting], ()
        if waiting:
            units = [*units[:-1], (*units[-1], *waiting)] if units else [waiting]
        return tuple(units)

    def stage(self, name: str) -> StageOutline:
        """Find a stage by name.

        Raises:
            UnknownName: If there is none; the message lists what there is.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UnknownName(f"There is no stage {name!r}; the stages are {', '.join(one.name for one in self.stages)}.")


def find_stage(streams: Mapping[str, BackboneOutline], name: str) -> dict[str, str]:
    """Find a stage in the streams that have it.

    Args:
        streams: Stream name to the outline of its backbone.
        name: ``s3``, in every stream, or ``stream.s3``.

    Returns:
        Stream name to the stage's name.

    Raises:
        UnknownName: If there is no such stream, or one of them has no such stage; the message lists what there is.
    """
    stream, _, stage = name.rpartition(".")
    if stream and stream not in streams:
        near = nearest(stream, streams) or list(streams)
        raise UnknownName(f"There is no stream {stream!r} for the stage {name!r}; there is {', '.join(near)}.")
    return {one: streams[one].stage(stage).name for one in ([stream] if stream else streams)}

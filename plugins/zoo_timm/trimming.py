"""What each output of a timm model reads of it, found once on the meta device, and the cut that follows.

The rule is the order of the stages: a map reads its own stage and those before it, the pooled vector and the tokens
read all. What an output does not read although it stands in a stage that it reads is written down as an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.spec import Want

__all__ = ["POOLED", "TOKENS", "Reading", "cut", "outputs_of", "readings"]

POOLED, TOKENS = "pooled", "tokens"
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
StageOf = Callable[[str], str]


class _Gone(nn.Identity):
    """Stands where a layer was cut off, for the library's code that goes over all layers."""

    def set_grad_checkpointing(self, *arguments: object, **more: object) -> None:
        """Do nothing: there is nothing left to be computed again."""


@dataclass(frozen=True)
class Reading:
    """What one output reads, where it is not all of its stage and those before it.

    Args:
        until: The last stage of which it reads something.
        idle: Paths of modules and parameters up to there that it does not read and that do not run for it.
        beside: Paths of modules and parameters that run for it and that it does not read; their results go elsewhere.
    """

    until: str
    idle: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {"until": self.until, "idle": list(self.idle), "beside": list(self.beside)}

    @classmethod
    def from_json(cls, data: Any) -> Reading:
        """Read it from plain JSON values.

        Raises:
            ConfigError: If they are none that :meth:`as_json` gives.
        """
        try:
            until, idle, beside = data["until"], tuple(data["idle"]), tuple(data["beside"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"The spec says {data!r} of what is read, which zoo never writes.") from error
        if not all(isinstance(path, str) for path in (until, *idle, *beside)):
            raise ConfigError(f"The spec says {data!r} of what is read, which zoo never writes.")
        return cls(until, idle, beside)


def outputs_of(want: Want) -> list[str]:
    """Name the outputs that are wanted: ``pooled``, ``tokens``, and the stages of the maps."""
    return [*([POOLED] if want.pooled else []), *([TOKENS] if want.tokens else []), *want.maps]


def readings(
    native: nn.Module,
    stages: Sequence[str],
    stage_of: StageOf,
    outputs: Mapping[str, Sequence[Tensor]],
    run: Callable[[str], object],
) -> dict[str, Reading]:
    """Find the outputs that do not read just what the order of the stages says.

    Args:
        native: The model.
        stages: Names of the stages, in order.
        stage_of: The stage of a path.
        outputs: Output to the tensors that were computed for it, with their graph.
        run: Computes one output alone; what runs then is observed.
    """
    place = {stage: i for i, stage in enumerate(stages)}
    parameters = dict(native.named_parameters(remove_duplicate=False))
    at = {name: place[stage_of(name)] for name in parameters}
    found = {}
    for output, tensors in outputs.items():
        reached = _reached(tensors)
        read = {name for name, parameter in parameters.items() if id(parameter) in reached}
        ruled = place.get(output, len(stages) - 1)
        until = max([ruled, *(at[name] for name in read)])
        unread = {name for name in parameters if name not in read and at[name] <= until}
        crossed = any(at[name] > until for name in _beside_earlier(native, at, until))
        if unread or crossed:
            whole = not crossed and all("." not in name for name in unread)  # the model's own: it runs in any case
            ran = {""} if whole else _observed(native, run, output)
            unread |= {name for name in parameters if at[name] > until and name.rpartition(".")[0] in ran}
            idle, beside = _divide(native, unread, ran)
            found[output] = Reading(stages[until], tuple(idle), tuple(beside))
        elif until != ruled:
            found[output] = Reading(stages[until])
    return {output: one for output, one in found.items() if one != Reading(output if output in place else stages[-1])}


def _beside_earlier(native: nn.Module, at: Mapping[str, int], until: int) -> set[str]:
    """Give the parameters that share a layer with some up to a stage, and so may run where that stage ends."""
    shared: set[str] = set()
    for path, module in native.named_modules():
        if path and not isinstance(module, _CONTAINERS):
            inside = [f"{path}.{name}" for name, _ in module.named_parameters()]
            if any(at[name] <= until for name in inside):
                shared.update(inside)
    return shared


def _reached(tensors: Iterable[Tensor]) -> set[int]:
    """Walk the graphs of tensors and give the identities of the leaves."""
    seen: set[Any] = set()
    leaves: set[int] = set()
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
        waiting += [before for before, _ in node.next_functions]
    return leaves


def _observed(native: nn.Module, run: Callable[[str], object], output: str) -> set[str]:
    """Compute one output and give the paths of the modules that were called."""
    ran: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, __, path=path: ran.add(path))
        for path, module in native.named_modules(remove_duplicate=False)
    ]
    try:
        run(output)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _divide(native: nn.Module, unread: set[str], ran: set[str]) -> tuple[list[str], list[str]]:
    """Say of unread parameters, by the largest modules that hold no others, whether their modules run."""
    idle: list[str] = []
    beside: list[str] = []

    def visit(path: str, module: nn.Module) -> None:
        prefix = path + "." if path else ""
        inside = [prefix + name for name, _ in module.named_parameters(remove_duplicate=False)]
        if not any(name in unread for name in inside):
            return
        if path and all(name in unread for name in inside):
            if not isinstance(module, _CONTAINERS) and not any(_within(name, path) for name in ran):
                idle.append(path)
                return
            if {name.rpartition(".")[0] for name in inside} <= ran:
                beside.append(path)
                return
        beside.extend(prefix + name for name in module._parameters if prefix + name in unread)
        for name, child in module.named_children():
            visit(prefix + name, child)

    visit("", native)
    return idle, beside


def cut(
    native: nn.Module, stages: Sequence[str], stage_of: StageOf, found: Mapping[str, Reading], outputs: Sequence[str]
) -> bool:
    """Take away, in place, what none of the outputs reads.

    A module that does not run for them is replaced by one that does nothing. A parameter that takes part in the run and
    not in its results becomes a buffer that is not saved: the library's code finds it, and nobody else.

    Args:
        native: The model.
        stages: Names of the stages, in order.
        stage_of: The stage of a path.
        found: As :func:`readings` gave it.
        outputs: What will be asked for.

    Returns:
        Whether anything was taken away.

    Raises:
        ConfigError: If a path in ``found`` is none of the model's.
    """
    place = {stage: i for i, stage in enumerate(stages)}
    read = [found.get(output) or Reading(output if output in place else stages[-1]) for output in outputs]
    if Reading(stages[-1]) in read:  # the usual case, of a classifier: all of it is read
        return False
    names = {name for name, _ in native.named_parameters(remove_duplicate=False)}
    tensors = names | set(native.state_dict())
    gone, resting = set(tensors), set(tensors)
    for reading in read:
        _check(native, reading, place, names)
        beside = {name for name in tensors if any(_within(name, path) for path in reading.beside)}
        idle = {name for name in tensors if place[stage_of(name)] > place[reading.until]} - beside
        idle |= {name for name in tensors if any(_within(name, path) for path in reading.idle)}
        gone &= idle | beside
        resting &= idle
    if not gone & names:
        return False
    _replace(native, "", sorted(tensors), gone, resting)
    return True


def _check(native: nn.Module, reading: Reading, place: Mapping[str, int], names: set[str]) -> None:
    """Refuse paths that are not the model's; a spec may come from a stranger's bundle."""
    known = names | {path for path, _ in native.named_modules(remove_duplicate=False)}
    for path in (*reading.idle, *reading.beside):
        if path not in known:
            raise ConfigError(f"The spec says that {path!r} is not read, which {type(native).__name__} does not have.")
    if reading.until not in place:
        raise ConfigError(f"The spec says that the stage {reading.until!r} is read, which the backbone does not have.")


def _replace(module: nn.Module, prefix: str, tensors: Sequence[str], gone: set[str], resting: set[str]) -> None:
    """Cut a module, given the full names of its own tensors and those of its children."""
    inside: dict[str, list[str]] = {}
    for tensor in tensors:
        name, below, _ = tensor.removeprefix(prefix).partition(".")
        if below:
            inside.setdefault(name, []).append(tensor)
        elif tensor in gone and name in module._parameters:
            parameter = module._parameters.pop(name)
            module.register_buffer(name, None if parameter is None else parameter.detach(), persistent=False)
    for name, theirs in inside.items():
        child = module.get_submodule(name)
        if not isinstance(child, _CONTAINERS) and all(tensor in resting for tensor in theirs):
            setattr(module, name, _Gone())
        else:
            _replace(child, f"{prefix}{name}.", theirs, gone, resting)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")

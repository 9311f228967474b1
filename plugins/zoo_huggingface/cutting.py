"""Cutting off what does not run, or leads to nothing that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from torch import nn

from zoo_huggingface.reading.recording import End, Skip
from zoo_huggingface.tracing import Trace

__all__ = ["bearable", "cut", "idle_parts", "rest", "skip", "under"]

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_SOMETIMES = ("experts",)
"""Names of modules of which each input runs some: a trial pass does not show what the others need."""


def idle_parts(native: nn.Module, trace: Trace, used: set[str], stop: float = inf) -> list[str]:
    """List the modules and parameters that may be cut off.

    Args:
        native: The module, whole.
        trace: The order in which its parts run.
        used: Names of the parameters that what is wanted rests on.
        stop: Moment after which nothing is wanted.
    """
    found: list[str] = []
    _visit(native, "", trace, used, stop, found)
    return found


def _visit(module: nn.Module, path: str, trace: Trace, used: set[str], stop: float, found: list[str]) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad and path + name not in used:
            found.append(path + name)
    for name, child in module.named_children():
        if name in _SOMETIMES:
            continue
        here = path + name
        names = [key for key, _ in child.named_parameters(here, remove_duplicate=False)]
        began = trace.starts.get(here)
        if any(key in used for key in names) or (began is None and (isinstance(child, _LISTS) or not names)):
            _visit(child, f"{here}.", trace, used, stop, found)
        elif began is None or began > stop:
            found.append(here)
        # What ran in time and has nothing that is used may still decide something, such as which token is chosen.


def cut(native: nn.Module, paths: Iterable[str]) -> None:
    """Cut modules and parameters off: a module's place is taken by one that ends the pass, a parameter's by None."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        holder = native.get_submodule(owner)
        if name in holder._parameters:
            holder._parameters[name] = None
        elif name in holder._modules:
            holder._modules[name] = End()


def rest(native: nn.Module, names: Iterable[str]) -> None:
    """Turn parameters into buffers of the same name: they are read, but nothing that is wanted learns through them."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        holder = native.get_submodule(owner)
        parameter = holder._parameters.pop(leaf, None)
        if parameter is not None:
            holder.register_buffer(leaf, parameter.detach())


def skip(native: nn.Module, paths: Iterable[str]) -> None:
    """Let modules give what they get; of a list, each member."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        module, holder = native.get_submodule(path), native.get_submodule(owner)
        if isinstance(module, _LISTS):
            skip(native, [f"{path}.{member}" for member, _ in module.named_children()])
        else:
            holder._modules[name] = Skip()


def under(name: str, paths: Iterable[str]) -> bool:
    """Say whether a tensor's name is one of the paths, or below one of them."""
    return any(name == path or name.startswith(path + ".") for path in paths)


def bearable(paths: list[str], runs: Callable[[list[str]], bool]) -> list[str]:
    """Leave out of a list of cuts those without which the module does not run, by halves.

    Args:
        paths: What might be cut off.
        runs: Says whether the module runs without some of it.
    """
    kept: list[str] = []

    def add(more: list[str]) -> None:
        if not more or runs([*kept, *more]):
            kept.extend(more)
        elif len(more) > 1:
            add(more[: len(more) // 2])
            add(more[len(more) // 2 :])

    add(paths)
    return kept

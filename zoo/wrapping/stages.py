"""Where the stages of a wrapped module end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from zoo.contracts.backbone import StageMap
from zoo.errors import ConfigError, nearest
from zoo.wrapping.layouts import Seen
from zoo.wrapping.tracing import Trace

__all__ = ["Cut", "find_stages", "moved_of", "named_stages"]

QUARTERS = 4
"""Number of stages that a network of one resolution is divided into."""
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Cut:
    """A stage and where it ends.

    Args:
        stage: Its name.
        module: Path of the module in which it ends.
        map: What that module gives, read as a map; None if it is none.
    """

    stage: str
    module: str
    map: Seen | None


Reader = Callable[[str], Seen | None]


def named_stages(module: nn.Module, named: Mapping[str, str], found: Trace, read: Reader) -> list[Cut]:
    """Take the stages that the user named.

    Raises:
        ConfigError: If a name or a path cannot be one, or they do not stand in the order in which they run.
    """
    names = [name for name in named if name != "stem"]
    if not names or names != [f"s{i + 1}" for i in range(len(names))] or "stem" in list(named)[1:]:
        raise ConfigError(f"stages must be called stem (if any), s1, s2, …, in this order, got {', '.join(named)}.")
    paths = {path for path, _ in module.named_modules() if path}
    for stage, path in named.items():
        if path not in paths:
            near = ", ".join(nearest(path, paths)) or ", ".join(name for name, _ in module.named_children())
            raise ConfigError(f"{type(module).__name__} has no module {path!r} for {stage} to end in; there is {near}.")
        if path not in found.order:
            raise ConfigError(f"{path!r}, in which {stage} is to end, does not run in a forward pass; choose another.")
    places = [found.order[path] for path in named.values()]
    if places != sorted(places):
        raise ConfigError(f"stages must be given in the order in which they run, got {', '.join(named.values())}.")
    return [Cut(stage, path, read(path)) for stage, path in named.items()]


def find_stages(module: nn.Module, found: Trace, read: Reader) -> list[Cut]:
    """Find the stages of a module.

    A pyramid has one stage a resolution, ending in the last part of that resolution that has parameters, or in the
    activation after it; a first resolution of single layers, before any block, is the stem. What has one resolution
    only is divided into quarters.

    Raises:
        ConfigError: If no part that has parameters can be one.
    """
    units = list(_units(module, "", found, read))
    groups: list[list[str]] = []
    last: tuple[int, int] | None = None
    for path in units:
        seen = read(path)
        if seen is None:
            continue
        if last is None or seen.grid != last:
            if last is not None and seen.grid[0] * seen.grid[1] > last[0] * last[1]:
                break  # it grows again: a decoder
            groups.append([])
            last = seen.grid
        groups[-1].append(path)
    ends = [end for group in groups if (end := _end(module, group)) is not None]
    if len(ends) > 1:
        blocks = [any(_is_block(module, path) for path in group) for group in groups if _end(module, group)]
        stem = not blocks[0] and any(blocks[1:])
        names = (["stem"] if stem else []) + [f"s{i + 1}" for i in range(len(ends) - stem)]
        return [Cut(name, path, read(path)) for name, path in zip(names, ends, strict=True)]
    quarters = _quarters(module, found)
    if not quarters:
        quarters = ends or [path for path in units if _has_parameters(module, path)][-1:]
    if not quarters:
        raise ConfigError(
            f"{type(module).__name__} shows no part in which a stage could end; "
            "pass stages={'s1': 'path.of.a.module'}."
        )
    return [Cut(f"s{i + 1}", path, read(path)) for i, path in enumerate(quarters)]


def _units(module: nn.Module, prefix: str, found: Trace, read: Reader) -> Iterator[str]:
    """Walk the parts that run one after the other, in the order in which they do.

    A list of several resolutions is taken apart, and so is the only part that has parameters.
    """
    children = [(prefix + name, child) for name, child in module.named_children()]
    holding = [path for path, child in children if any(True for _ in child.parameters())]
    parts: list[str] = []
    for path, child in children:
        inside = list(_units(child, path + ".", found, read)) if isinstance(child, _LISTS) or [path] == holding else []
        grids = {seen.grid for part in inside if (seen := read(part)) is not None}
        if inside and (len(grids) > 1 or path not in found.order or ([path] == holding and len(inside) > 1)):
            parts += inside
        elif path in found.shapes:
            parts.append(path)
    yield from sorted(parts, key=lambda path: found.order[path])


def _end(module: nn.Module, group: list[str]) -> str | None:
    """Give the last part with parameters, or the activation right after it."""
    holding = [i for i, path in enumerate(group) if _has_parameters(module, path)]
    if not holding:
        return None
    at = holding[-1]
    while at + 1 < len(group) and type(module.get_submodule(group[at + 1])).__module__.endswith("modules.activation"):
        at += 1
    return group[at]


def _is_block(module: nn.Module, path: str) -> bool:
    return any(True for _ in module.get_submodule(path).children())


def _has_parameters(module: nn.Module, path: str) -> bool:
    return any(True for _ in module.get_submodule(path).parameters())


def _quarters(module: nn.Module, found: Trace) -> list[str]:
    """Divide the longest list of parts that give one shape, as the blocks of a transformer do."""
    best: list[str] = []
    for prefix, part in [("", module), *((path + ".", part) for path, part in module.named_modules() if path)]:
        paths = [prefix + name for name, _ in part.named_children()]
        paths = [path for path in paths if path in found.shapes and _is_block(module, path)]
        if len(paths) > len(best) and len({found.shapes[path] for path in paths}) == 1:
            best = paths
    if len(best) < QUARTERS:
        return best[-1:]
    return [best[round((part + 1) * len(best) / QUARTERS) - 1] for part in range(QUARTERS)]


def moved_of(module: nn.Module, cuts: list[Cut], found: Trace) -> dict[str, str]:
    """Give the parts that run in another stage than they are defined in: path to the stage in which they run."""
    defined = StageMap(module, {cut.stage: cut.module for cut in cuts})
    ends = {cut.stage: found.order[cut.module] for cut in cuts}
    moved: dict[str, str] = {}
    for path, part in module.named_modules():
        own = any(True for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
        if path in found.order and own:
            runs = next((stage for stage, end in ends.items() if found.order[path] <= end), "post")
            if runs != defined[path]:
                moved[path] = runs
    return moved

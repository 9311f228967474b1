"""The search for a backbone's frozen prefix: by trial on a few samples, and checked bit for bit.

What can be recorded is found, not declared, so it works for every provider. A trial pass notes the outermost modules
that have nothing of a stage that ever trains and whose outputs depend on no parameter that trains. They are replayed on
a pass in training mode; which of their outputs something above reads, the gradient of the features says. The others are
then poisoned with NaN, and the features must be equal to those of the live pass in every bit. If anything of this
fails, there is no prefix, and the reason is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.errors import ZooError
from zoo.model import Model
from zoo.training.features.flat import to_flat
from zoo.training.features.replay import Call, Leaf, Prefix, record, replay

__all__ = ["NoPrefix", "find_prefix", "frozen_below"]

Found = TypeVar("Found")

SEED = 20261
CLOSE = 1e-2
"""How far the outputs for one sample may lie apart between batches, as a share of the largest; kernels differ."""


class NoPrefix(ZooError):
    """A backbone's frozen part cannot be recorded; the message has the reason."""


def frozen_below(stages: tuple[str, ...], trained: frozenset[str]) -> tuple[str, ...]:
    """Give the stages below the lowest that ever trains.

    Args:
        stages: All stages in the order of execution.
        trained: Those that train in some epoch.
    """
    lowest = next((at for at, stage in enumerate(stages) if stage in trained), len(stages))
    return stages[:lowest]


def find_prefix(model: Model, stream: str, stages: tuple[str, ...], images: Tensor) -> Prefix:
    """Find what is recorded of a stream's backbone.

    Args:
        model: The model; it is as it was afterwards, and so are the global generators.
        stream: The stream.
        stages: The stages that never train, in the order of execution.
        images: Prepared pictures of three or more samples that differ, on the device of the model.

    Raises:
        NoPrefix: If nothing can be recorded, or the check failed.
    """
    backbone, want = model.backbones[stream], model.wants[stream]
    if len(images) < 3:
        raise NoPrefix("there are fewer than 3 samples to try it on")
    with _trial(model, stream, frozenset(stages)):
        try:
            return _find(backbone, stages, want, images)
        except NoPrefix:
            raise
        except Exception as error:  # a library may stumble over anything that is done to it here
            raise NoPrefix(f"a pass on recorded outputs ended with {type(error).__name__}: {error}") from error


def _find(backbone: Backbone, stages: tuple[str, ...], want: Want, images: Tensor) -> Prefix:
    noted = _note(backbone, frozenset(stages), want, images)
    few = _note(backbone, frozenset(stages), want, images[[2, 0]])
    if [one.path for one in noted] != [one.path for one in few]:
        raise NoPrefix("which modules run depends on the batch")
    free = _free(noted)
    calls = tuple(_call(one, other, len(images)) for one, other in zip(noted, few, strict=True) if one.path in free)
    if not any(leaf.rows for call in calls for leaf in call.leaves):
        raise NoPrefix("no module lies below what trains")
    prefix = Prefix(stages, calls, want, tuple(images.shape[1:]))
    backbone.train()
    live = _flat(_seeded(backbone, partial(backbone, images, want)))
    backbone.eval()
    recorded = record(backbone, prefix, images)
    backbone.train()
    prefix = _narrowed(backbone, prefix, recorded, live)
    for candidate in (prefix, replace(prefix, dense=True)):
        kept = {key: recorded[key] for key, _, _ in candidate.kept()}
        try:
            played = _flat(_seeded(backbone, partial(replay, backbone, candidate, kept)))
        except RuntimeError:
            if candidate.dense:
                raise
            continue  # something writes to what nobody reads
        if _equal(live, played):
            return candidate
    raise NoPrefix("the features of a pass on recorded outputs are not those of the live pass")


@dataclass(frozen=True, slots=True)
class _Noted:
    """A call of an outermost frozen module on a trial pass: the leaves of its output, and whether one can learn."""

    path: str
    structure: pytree.TreeSpec
    leaves: list[Any]
    learns: bool


def _note(backbone: Backbone, frozen: frozenset[str], want: Want, images: Tensor) -> list[_Noted]:
    """Run a pass in eval mode, and note what the outermost frozen modules gave."""
    noted: list[_Noted] = []
    inside: list[str] = []

    def enter(path: str, module: nn.Module, given: Any) -> None:
        inside.append(path)

    def leave(path: str, module: nn.Module, given: Any, output: Any) -> None:
        inside.pop()
        if inside:
            return
        leaves, structure = pytree.tree_flatten(output)
        learns = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        copies = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if any(isinstance(a, Tensor) and a.stride() != b.stride() for a, b in zip(leaves, copies, strict=True)):
            copies = [_laid(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        noted.append(_Noted(path, structure, copies, learns))

    hooks = []
    for path in _frozen_modules(backbone, frozen):
        module = backbone.native.get_submodule(path)
        hooks.append(module.register_forward_pre_hook(partial(enter, path)))
        hooks.append(module.register_forward_hook(partial(leave, path)))
    try:
        backbone.eval()
        backbone(images, want)
    finally:
        for hook in hooks:
            hook.remove()
    return noted


def _laid(leaf: Tensor) -> Tensor:
    """Copy a tensor with its order in memory."""
    order = _order(leaf)
    back = [order.index(at) for at in range(leaf.ndim)]
    return leaf.detach().permute(order).clone(memory_format=torch.contiguous_format).permute(back)


def _frozen_modules(backbone: Backbone, frozen: frozenset[str]) -> list[str]:
    """Name the modules in which everything is of a frozen stage: they, what is in them, and all tensors."""
    native = backbone.native
    mixed = set()
    names = [*(n for n, _ in native.named_modules(remove_duplicate=False) if n)]
    tensors = [
        *(n for n, _ in native.named_parameters(remove_duplicate=False)),
        *(n for n, _ in native.named_buffers()),
    ]
    for name in (*names, *tensors):
        if backbone.stage_of(name) not in frozen:
            parts = name.split(".")
            mixed |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    seen: set[int] = set()
    kept = []
    for name, module in native.named_modules(remove_duplicate=False):
        if name and name not in mixed and id(module) not in seen:
            seen.add(id(module))
            kept.append(name)
    shared = {id(native.get_submodule(name)) for name in names if name in mixed}
    return [name for name in kept if id(native.get_submodule(name)) not in shared]


def _free(noted: list[_Noted]) -> set[str]:
    """Name the modules of which no call depends on what trains."""
    return {one.path for one in noted} - {one.path for one in noted if one.learns}


def _call(one: _Noted, other: _Noted, batch: int) -> Call:
    """Describe a call from two passes: on all samples, and on the third and the first."""
    if one.structure != other.structure:
        raise NoPrefix(f"the output of {one.path} is built up differently for each batch")
    leaves = tuple(_leaf(one.path, a, b, batch) for a, b in zip(one.leaves, other.leaves, strict=True))
    return Call(one.path, one.structure, leaves, tuple(leaf.rows for leaf in leaves))


def _leaf(path: str, whole: Any, few: Any, batch: int) -> Leaf:
    if not isinstance(whole, Tensor) or not isinstance(few, Tensor):
        if isinstance(whole, Tensor) or isinstance(few, Tensor) or not bool(whole == few):
            raise NoPrefix(f"{path} gives a {type(whole).__name__} that depends on the batch")
        return Leaf(whole)
    if whole.shape == few.shape:
        if not torch.equal(whole, few):
            raise NoPrefix(f"{path} gives a tensor in which the samples cannot be told apart")
        return Leaf(whole)
    fold = len(whole) // batch
    if len(whole) != fold * batch or few.shape != (fold * 2, *whole.shape[1:]):
        raise NoPrefix(f"{path} gives a tensor in which the samples cannot be told apart")
    rows = whole.unflatten(0, (batch, fold))[[2, 0]].flatten(0, 1)
    if not _near(rows, few):
        raise NoPrefix(f"what {path} gives for a sample depends on the others in its batch")
    order = _order(whole)
    return Leaf(None, True, fold, tuple(whole.shape[1:]), order, whole.dtype)


def _order(value: Tensor) -> tuple[int, ...]:
    """Give the dimensions, the one with the longest steps in memory first, and the first of all where it is."""
    return (0, *sorted(range(1, value.ndim), key=lambda at: (-value.stride()[at], at)))


def _near(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    span = float(one.abs().max()) if one.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=0.0, atol=CLOSE * span, equal_nan=True))


def _narrowed(backbone: Backbone, prefix: Prefix, recorded: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Prefix:
    """Mark what the features need; what has no gradient by its dtype is kept."""
    leaves = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in recorded.items()}
    asked = {key: leaf for key, leaf in leaves.items() if leaf.requires_grad}

    def run() -> tuple[Features, set[str]]:
        written = {key: value.clone() for key, value in leaves.items()}  # may be worked on in place
        features = replay(backbone, prefix, written)
        outputs = [value.sum() for value in _flat(features).values() if value.requires_grad]
        found = (
            torch.autograd.grad(outputs, list(asked.values()), allow_unused=True) if outputs else [None] * len(asked)
        )
        return features, {key for key, gradient in zip(asked, found, strict=True) if gradient is None}

    features, unused = _seeded(backbone, run)
    if not _equal(live, _flat(features)):
        raise NoPrefix("the features of a pass on recorded outputs are not those of the live pass")
    calls = []
    for number, call in enumerate(prefix.calls):
        needed = tuple(n and f"replay/{number}/{at}" not in unused for at, n in enumerate(call.needed))
        calls.append(replace(call, needed=needed))
    if not any(any(call.needed) for call in calls):
        raise NoPrefix("nothing above reads what lies below what trains")
    return replace(prefix, calls=tuple(calls))


def _seeded(backbone: Backbone, run: Callable[[], Found]) -> Found:
    """Run a pass from one state of the generators, and put running statistics back."""
    held = {name: buffer.clone() for name, buffer in backbone.native.named_buffers()}
    torch.manual_seed(SEED)
    found = run()
    with torch.no_grad():
        for name, buffer in backbone.native.named_buffers():
            buffer.copy_(held[name])
    return found


def _flat(features: Features) -> dict[str, Tensor]:
    return to_flat({"": features})


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@contextmanager
def _trial(model: Model, stream: str, stages: frozenset[str]) -> Iterator[None]:
    """Freeze exactly the prefix for a while; mode, frozen stages and generators come back."""
    was, training = model.frozen()[stream], model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        try:
            model.set_frozen(stream, stages)
            yield
        finally:
            model.set_frozen(stream, was)
            model.train(training)

"""What a frozen prefix gave, recorded once and given again: the rest of the backbone runs as it always does.

The modules of a prefix are those that the backbone calls and that have nothing of a stage that ever trains. Their
outputs are noted by hooks, and on a replay their ``forward`` answers with what was noted, on the instance and for that
one pass, so no class is swapped and no key renamed. What nothing above reads is not kept; it is answered by a tensor of
the right shape full of NaN, and the search for the prefix (:mod:`zoo.training.features.prefixes`) has checked that none
arrives.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.model import Model

__all__ = ["Call", "Leaf", "Prefix", "answering", "given_out", "playing", "record", "replay"]

MARK = "replay"
"""First part of the key of everything that was recorded, ``replay/call/leaf``."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """One value in the output of a call.

    Args:
        constant: The value itself, where it is the same for all samples; a tensor or anything else.
        rows: Whether it is a tensor of which each sample has its own part.
        fold: How many consecutive entries of the first dimension are one sample's.
        shape: The other dimensions.
        order: Its dimensions, the one with the longest steps in memory first; the first is always 0.
        dtype: Its dtype.
    """

    constant: Any = None
    rows: bool = False
    fold: int = 1
    shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    def pack(self, value: Tensor, batch: int) -> Tensor:
        """Bring it into the form that is stored, ``(B, …)`` and contiguous."""
        laid = value.detach().permute(self.order)
        return laid.reshape(batch, self.fold, *laid.shape[1:]).clone(memory_format=torch.contiguous_format)

    def unpack(self, stored: Tensor) -> Tensor:
        """Give it as it was, its layout in memory too."""
        laid = stored.flatten(0, 1).to(self.dtype)
        return laid.permute([self.order.index(at) for at in range(len(self.order))])

    def poison(self, batch: int, device: torch.device, *, dense: bool) -> Tensor:
        """Give NaN in its shape; not dense, it takes no memory and cannot be written to."""
        shape = (batch * self.fold, *self.shape)
        empty = torch.full(shape if dense else (1,) * len(shape), float("nan"), dtype=self.dtype, device=device)
        return empty.expand(shape)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module of the prefix.

    Args:
        path: Its path in the native module.
        structure: How the leaves make up the output.
        leaves: The values in it.
        needed: Which of them something above reads.
    """

    path: str
    structure: pytree.TreeSpec
    leaves: tuple[Leaf, ...]
    needed: tuple[bool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The part of a backbone that is recorded.

    Args:
        stages: Its stages, in the order of execution.
        calls: The calls whose outputs are given out, in the order in which they are made.
        want: What the backbone is asked for.
        size: The input of one sample, without the batch.
        dense: Whether what nobody reads is answered with tensors that can be written to.
    """

    stages: tuple[str, ...]
    calls: tuple[Call, ...]
    want: Want
    size: tuple[int, ...]
    dense: bool = False

    def kept(self) -> Iterator[tuple[str, int, int]]:
        """Give the key of every value that is kept, with the numbers of its call and of its leaf."""
        for number, call in enumerate(self.calls):
            for at, needed in enumerate(call.needed):
                if needed and call.leaves[at].rows:
                    yield f"{MARK}/{number}/{at}", number, at

    @property
    def row_bytes(self) -> int:
        """How many bytes a sample takes."""
        leaves = [self.calls[number].leaves[at] for _, number, at in self.kept()]
        return sum(leaf.fold * _count(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


class _Enough(BaseException):
    """Everything is recorded: what comes above need not run. It is no error, so nobody may handle it as one."""


def record(backbone: Backbone, prefix: Prefix, inputs: Any) -> dict[str, Tensor]:
    """Run a backbone as far as its prefix goes, and give what is kept of it.

    Args:
        backbone: The backbone, in eval mode; it may be of another dtype than the one that replays.
        prefix: What to record.
        inputs: What the backbone takes, of ``B`` samples.

    Shape:
        - returns: ``replay/call/leaf`` to ``(B, fold, …)``.
    """
    wanted = {number for number, call in enumerate(prefix.calls) if any(call.needed)}
    turns = _turns(prefix)
    found: dict[int, Any] = {}

    def enter(path: str, module: nn.Module, given: Any) -> None:
        inside.append(path)

    def note(path: str, module: nn.Module, given: Any, output: Any) -> None:
        inside.pop()
        if inside:
            return  # a part of another one's output
        turn = counts[path]
        counts[path] += 1
        number = turns[path][turn]
        if number in wanted:
            found[number] = [_copied(leaf) for leaf in pytree.tree_leaves(output)]
        if len(found) == len(wanted):
            raise _Enough

    counts = dict.fromkeys(turns, 0)
    inside: list[str] = []
    modules = {path: backbone.native.get_submodule(path) for path in turns}
    hooks = [module.register_forward_pre_hook(partial(enter, path)) for path, module in modules.items()]
    hooks += [module.register_forward_hook(partial(note, path)) for path, module in modules.items()]
    try:
        with torch.no_grad():
            backbone(inputs, prefix.want)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    batch = _batch(inputs)
    return {key: prefix.calls[number].leaves[at].pack(found[number][at], batch) for key, number, at in prefix.kept()}


def replay(backbone: Backbone, prefix: Prefix, recorded: Mapping[str, Tensor]) -> Features:
    """Run a backbone above its prefix.

    Args:
        backbone: The backbone.
        prefix: What was recorded.
        recorded: As :func:`record` gave it, of any rows.
    """
    first = next(iter(recorded.values()))
    batch, place = len(first), first.device
    outputs = [given_out(call, number, recorded, batch, place, prefix) for number, call in enumerate(prefix.calls)]
    image = torch.full((1,), float("nan"), dtype=backbone.dtype, device=place).expand(batch, *prefix.size)
    with answering(backbone, prefix, outputs):
        return backbone.extract({backbone.spec.inputs[0].name: image}, prefix.want)


def given_out(
    call: Call, number: int, recorded: Mapping[str, Tensor], batch: int, place: torch.device, prefix: Prefix
) -> Any:
    """Give the output of a call from what was recorded."""
    values = []
    for at, (leaf, needed) in enumerate(zip(call.leaves, call.needed, strict=True)):
        if not leaf.rows:
            values.append(leaf.constant.to(place) if isinstance(leaf.constant, Tensor) else leaf.constant)
        elif needed:
            values.append(leaf.unpack(recorded[f"{MARK}/{number}/{at}"]))
        else:
            values.append(leaf.poison(batch, place, dense=prefix.dense))
    return pytree.tree_unflatten(values, call.structure)


@contextmanager
def answering(backbone: Backbone, prefix: Prefix, outputs: Sequence[Any]) -> Iterator[None]:
    """Let the modules of a prefix answer with given outputs, one for each call of the prefix."""
    turns = _turns(prefix)
    modules = {path: backbone.native.get_submodule(path) for path in turns}
    before = {path: vars(module).get("forward") for path, module in modules.items()}
    try:
        for path, module in modules.items():
            queue = iter([outputs[number] for number in turns[path]])
            vars(module)["forward"] = partial(_answer, queue)
        yield
    finally:
        for path, module in modules.items():
            if (old := before[path]) is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = old


def _answer(queue: Iterator[Any], *given: Any, **named: Any) -> Any:
    return next(queue)


@contextmanager
def playing(model: Model, prefixes: Mapping[str, Prefix]) -> Iterator[None]:
    """Let a model's backbones take what was recorded in place of their inputs, for as long as the context is open.

    Args:
        model: The model.
        prefixes: Stream name to what is recorded of its backbone; inputs of other forms go the usual way.
    """
    try:
        for stream, prefix in prefixes.items():
            backbone = model.backbones[stream]
            vars(backbone)[_HELD] = prefix
            vars(backbone)["forward"] = types.MethodType(_forward, backbone)  # a copy of the model has its own
        yield
    finally:
        for stream in prefixes:
            for name in (_HELD, "forward"):
                vars(model.backbones[stream]).pop(name, None)


_HELD = "_replayed_prefix"


def _forward(backbone: Backbone, inputs: Any, want: Want | None = None) -> Features:
    if isinstance(inputs, Mapping) and any(key.startswith(f"{MARK}/") for key in inputs):
        return replay(backbone, vars(backbone)[_HELD], inputs)
    return type(backbone).forward(backbone, inputs, want)


def _turns(prefix: Prefix) -> dict[str, list[int]]:
    """Give, for each module, the numbers of its calls in their order."""
    turns: dict[str, list[int]] = {}
    for number, call in enumerate(prefix.calls):
        turns.setdefault(call.path, []).append(number)
    return turns


def _copied(leaf: Any) -> Any:
    """Copy a tensor, since a module after it may work in place."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _batch(inputs: Any) -> int:
    return len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total

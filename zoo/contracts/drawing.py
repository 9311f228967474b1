"""Building a module with random weights: a draw that another draw replaces is not made.

Torch's layers draw their own defaults when they are made, and most libraries then draw again by their own rules: 45 %
of the time that a ResNet-50 takes to build. Inside :func:`draw_once` a draw over a whole tensor waits until somebody
looks at the tensor, or changes it otherwise; the next draw over the whole of it takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["draw_once"]

# Draws over a whole tensor, which read nothing of what it held, and what costs nothing and replaces all of it. Those of
# torch.nn.init go by their names, since a library may have put its own in their place, for a time.
_DRAWS: dict[object, Callable[..., Any]] = {
    **{draw.__name__: draw for draw in (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)},
    **{draw: draw for draw in (Tensor.uniform_, Tensor.normal_)},
}
_FILLS = frozenset({"constant_", Tensor.fill_, Tensor.zero_, Tensor.copy_})
# What tells of a tensor without looking at its numbers, what makes new ones, and what is about none.
_TELLS = frozenset({
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.requires_grad_),
    *(Tensor.data.__get__, Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__),  # type: ignore[attr-defined]
    *(Tensor.ndim.__get__, Tensor.requires_grad.__get__, Tensor.is_meta.__get__),  # type: ignore[attr-defined]
    *(torch.empty, torch.zeros, torch.ones, torch._C._set_grad_enabled),
})  # fmt: skip


class _Draw(NamedTuple):
    """A draw that waits."""

    draw: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def make(self) -> None:
        with torch.no_grad():
            self.draw(*self.args, **self.kwargs)


class _DrawingOnce(TorchFunctionMode):
    """Keeps draws waiting, by the memory that they are for; in this thread only."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, _Draw] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _TELLS:
            return func(*args, **kwargs)
        known = func.__name__ if isinstance(func, FunctionType) else func
        if known in _DRAWS:
            subject = args[0] if args else kwargs["tensor"]
            memory = _whole(subject)
            if memory and kwargs.get("generator") is None:
                self.waiting[memory] = _Draw(_DRAWS[known], args, kwargs)
                return subject
        elif known in _FILLS and self.waiting:
            self.waiting.pop(_whole(args[0] if args else kwargs["tensor"]), None)
        if self.waiting:
            self._settle(args)
            self._settle(kwargs.values())
        return func(*args, **kwargs)

    def _settle(self, values: Any) -> None:
        """Make the draws that the numbers of these values wait for."""
        for value in values:
            if isinstance(value, Tensor):
                waiting = self.waiting.pop(_memory(value), None)
                if waiting is not None:
                    waiting.make()
            elif isinstance(value, (list, tuple)):
                self._settle(value)
            elif isinstance(value, dict):
                self._settle(value.values())


def _memory(tensor: Tensor) -> int:
    """Name the memory that a tensor lies in; 0 where it has none of the usual kind."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else 0


def _whole(tensor: Tensor) -> int:
    """Name the memory of a tensor that fills it, as a parameter does; 0 for a part of one, or off the CPU."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return 0
    memory = tensor.untyped_storage()
    return memory._cdata if memory.nbytes() == tensor.numel() * tensor.itemsize else 0


@contextmanager
def draw_once() -> Iterator[None]:
    """Make each whole-tensor draw of what is built inside once, after all that would replace it.

    The numbers are of the very distributions that the library asks for, and equal for equal seeds; they are others than
    the library's own for that seed, since torch's generator was not asked for those that are replaced. It holds for
    the calling thread alone. If the block fails, its modules are lost, and so are the draws that wait.
    """
    mode = _DrawingOnce()
    with mode:
        yield
    for draw in mode.waiting.values():
        draw.make()

"""Building a module whose every tensor will be replaced: random numbers that nobody reads are not drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["are_skipped", "skip_initialisers"]

# In-place draws, which cost the time; on a parameter any in-place change is passed over.
_DRAWS = frozenset(
    {
        *("normal_", "uniform_", "erfinv_", "random_", "bernoulli_"),
        *("exponential_", "log_normal_", "cauchy_", "geometric_"),
    }
)
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class _Skipping(TorchFunctionMode):
    """Passes over in-place changes of parameters, ``torch.nn.init`` among them, in this thread only."""

    def __init__(self) -> None:
        super().__init__()
        self._owned: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        subject = args[0] if args else (kwargs or {}).get("tensor")
        if isinstance(subject, nn.Parameter):
            if name.endswith("_") and not name.endswith("__") and name != "copy_":  # weights may be loaded inside
                return subject
            if name == "__get__" and func == _DATA:
                self._owned.add(subject.untyped_storage()._cdata)
        elif name in _DRAWS and isinstance(subject, Tensor) and subject.untyped_storage()._cdata in self._owned:
            return subject
        return func(*args, **(kwargs or {}))


# Two initialisers read back what they have drawn, to draw again or to decompose it; they are passed over whole, in the
# threads that asked.
_READING_BACK = ("_no_grad_trunc_normal_", "orthogonal_")
# Layers whose ``reset_parameters`` does nothing but fill parameters, and running statistics that are new already: going
# through it operation by operation is a third of what building a small network costs.
_FILLING = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_here = threading.local()
_lock = threading.Lock()
_inside = 0
_originals: dict[tuple[Any, str], Callable[..., Any]] = {}


@contextmanager
def skip_initialisers() -> Iterator[None]:
    """Leave the parameters of modules that are built inside uninitialised; buffers are computed as ever.

    Only for what gets all its parameters from a file right afterwards, strictly: what stayed would be whatever the
    memory held. Building a ViT-Base this way takes a fiftieth of the time, and its memory is not touched before the
    weights come; on the meta device each operation costs more, and buffers that the constructor computes are lost. It
    holds for the calling thread alone, so others may draw random weights meanwhile.
    """
    _enter()
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        with _Skipping():
            yield
    finally:
        _here.depth -= 1
        _leave()


def are_skipped() -> bool:
    """Say whether this thread is inside :func:`skip_initialisers`."""
    return getattr(_here, "depth", 0) > 0


def _enter() -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            places = [
                *((nn.init, name) for name in _READING_BACK),
                *((layer, "reset_parameters") for layer in _FILLING),
            ]
            for place, name in places:
                _originals[place, name] = getattr(place, name)
                setattr(place, name, _passing_over(_originals[place, name]))


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            for (place, name), original in _originals.items():
                setattr(place, name, original)
            _originals.clear()


def _passing_over(original: Callable[..., Any]) -> Callable[..., Any]:
    def initialise(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor if are_skipped() else original(tensor, *args, **kwargs)

    return initialise

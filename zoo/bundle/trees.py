"""The state of an optimizer, a schedule or a generator as JSON and named tensors, and back; no pickle.

JSON has no tuples, no keys but strings and no infinities, and states have all of them. So a container is written as a
mapping with one key that says what it is: ``tensor`` and the tensor's name, ``tuple`` and its items, ``dict`` and its
pairs, ``float`` and its name. Lists, strings, finite numbers, booleans and null stand for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.bundle.header import check_name
from zoo.bundle.tensors import check_tensor
from zoo.errors import BundleError

__all__ = ["pack", "unpack"]


def pack(value: Any, where: str) -> tuple[Any, dict[str, Tensor]]:
    """Write a state as JSON and the tensors in it.

    Args:
        value: Dicts, lists, tuples, tensors, strings, numbers, booleans and None, in each other as they like.
        where: What it is called; the tensors' names begin with it.

    Returns:
        The JSON, and name to contiguous tensor on the CPU.

    Raises:
        BundleError: If there is anything else in it; the message has its path.

    Example:
        >>> import torch
        >>> tree, tensors = pack({0: (torch.zeros(2), 0.5)}, "state")
        >>> tree, list(tensors)
        ({'dict': [[0, {'tuple': [{'tensor': 'state/0/0'}, 0.5]}]]}, ['state/0/0'])
    """
    tensors: dict[str, Tensor] = {}
    return _pack(value, where, tensors), tensors


def _pack(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Tensor):
        name = check_name(where, "a state")
        if name in tensors:
            raise BundleError(f"{where} cannot be kept in a bundle: two of its keys are written alike.")
        check_tensor(name, value.data)
        tensors[name] = value.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{where}/{n}", tensors) for n, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        return {"dict": [[key, _pack(item, f"{where}/{key}", tensors)] for key, item in value.items()]}
    raise BundleError(
        f"{where} cannot be kept in a bundle: it is of {type(value).__name__}, and a state holds tensors, "
        "numbers, strings, lists and dicts."
    )


def unpack(tree: Any, tensors: Mapping[str, Tensor], where: str) -> Any:
    """Read what :func:`pack` wrote.

    Raises:
        BundleError: If it is not that.

    Example:
        >>> unpack(*pack({"betas": (0.9, float("inf"))}, "state"), "state")
        {'betas': (0.9, inf)}
    """
    if isinstance(tree, list):
        return [unpack(item, tensors, where) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        kind, held = next(iter(tree.items()))
        if kind == "tensor" and isinstance(held, str) and held in tensors:
            return tensors[held]
        if kind == "float" and held in ("nan", "inf", "-inf"):
            return float(held)
        if kind == "tuple" and isinstance(held, list):
            return tuple(unpack(item, tensors, where) for item in held)
        if kind == "dict" and isinstance(held, list) and all(map(_is_pair, held)):
            return {key: unpack(item, tensors, where) for key, item in held}
    raise BundleError(f"{where} does not follow the format: a part of a state is {str(tree)[:60]!r}.")


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], (str, int))

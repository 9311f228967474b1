"""JSON without its traps: no duplicate keys, no NaN, no numbers beyond 64 bits, no depth without end."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from zoo.errors import BundleError

__all__ = ["canonical", "parse", "plain"]

DEPTH = 32
_INTEGERS = range(-(2**63), 2**64)
_HOLDING = (dict, list)
_DOUBTFUL = re.compile(rb"-0|[0-9]{19}")
"""What only numbers have that need a look; hardly any text has it, and looking at each number takes long."""


def parse(data: bytes, where: str, *, most: int, depth: int = DEPTH) -> Any:
    """Read JSON that someone else may have written.

    Args:
        data: The bytes.
        where: What they are, for the message.
        most: Size from which they are refused, in bytes.
        depth: Levels of nesting that are allowed.

    Raises:
        BundleError: If they are too large, no UTF-8, no JSON, too deep, have a key twice, half a Unicode character, or
            a number that is not finite, does not fit 64 bits or is ``-0``.
    """
    if len(data) > most:
        raise BundleError(f"{where} must have {most} bytes or fewer, got {len(data)}.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_int=_integer if _DOUBTFUL.search(data) else None,
            parse_float=_finite,
        )
        if b"\\u" in data:  # half a character can be written as an escape only
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BundleError(f"{where} is damaged: {reason}. Get the bundle again, or save the model again.") from error
    _check_depth(value, where, depth)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} stands in it twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 2**64
    if number not in _INTEGERS:
        raise ValueError(f"the number {digits[:24]}… does not fit 64 bits")
    if digits == "-0":  # a fraction to some parsers, a whole number to others
        raise ValueError("the number -0 is not written as 0")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:24]} is not finite")
    return number


def _check_depth(value: Any, where: str, most: int) -> None:
    level = [value] if isinstance(value, _HOLDING) else []
    for _ in range(most):
        inside = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for each in inside for inner in each if isinstance(inner, _HOLDING)]
        if not level:
            return
    raise BundleError(f"{where} must be nested {most} levels deep at the most.")


def canonical(value: Any) -> bytes:
    """Write JSON in its one form: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def plain(value: Any, where: str) -> Any:
    """Copy a value as what JSON has; tuples become lists.

    Args:
        value: The value.
        where: Its path, for the message.

    Raises:
        BundleError: If something in it is not JSON; the message has its path.

    Example:
        >>> plain({"epochs": (1, 2)}, "provenance")
        {'epochs': [1, 2]}
    """
    return _plain(value, where, DEPTH)


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth < 0:
        raise BundleError(f"{where[:200]} is nested too deeply; a bundle keeps {DEPTH} levels of JSON.")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise BundleError(f"{where} must be JSON to be saved: the key {key!r} is no string.")
        return {_text(key, where): _plain(item, f"{where}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth - 1) for i, item in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value in _INTEGERS:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise BundleError(
        f"{where} must be JSON to be saved, got {type(value).__name__} {str(value)[:60]!r}; "
        "use strings, finite numbers, lists and dicts."
    )


def _text(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BundleError(f"{where} must be JSON to be saved, got half a Unicode character in {text!r}.") from None
    return str(text)

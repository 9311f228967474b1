"""The header of a safetensors file, checked in full before the library parses a byte of it.

The library accepts a header with 300,000 tensors (43 s), a key that stands in it twice, and shapes that overflow; the
format has no checksum. Here all of that is refused, by arithmetic on the header alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.bundle.plain_json import parse
from zoo.errors import BundleError

__all__ = ["DTYPES", "Entry", "header_length", "read_entries", "read_header"]

MOST_HEADER = 16 * 2**20
MOST_TENSORS = 100_000
MOST_NAME = 512

DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
}
"""The format's dtypes that a bundle may hold: torch's name, and bytes of one element."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a safetensors file.

    Args:
        dtype: Its dtype, as torch names it.
        shape: Its shape.
        start: Where its bytes begin in the file.
        stop: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(data: bytes, where: str) -> dict[str, Entry]:
    """Read the header of a whole safetensors file.

    Args:
        data: All bytes of the file.
        where: Its path, for the message.

    Returns:
        Name to entry.

    Raises:
        BundleError: If the header is cut or too long, has too many tensors, unusable names, unknown dtypes or
            impossible shapes, or if the tensors do not fill the file exactly.
    """
    length = header_length(data[:8], len(data), where)
    return read_entries(data[8 : 8 + length], len(data), where)


def header_length(start: bytes, size: int, where: str) -> int:
    """Give the length of a header from the first 8 bytes of its file.

    Args:
        start: These bytes.
        size: The size of the file, in bytes.
        where: Its path, for the message.

    Raises:
        BundleError: If a header cannot be so long.
    """
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MOST_HEADER, size - 8):
        raise _damaged(where, f"its header cannot have {length} of {size} bytes")
    return length


def read_entries(text: bytes, size: int, where: str) -> dict[str, Entry]:
    """Read the text of a header, the bytes behind the first 8; the arguments and errors are as above.

    Args:
        text: The header.
        size: The size of the whole file, in bytes.
        where: Its path, for the message.
    """
    if text[:1] != b"{":
        raise _damaged(where, f"its header cannot begin with {text[:1]!r}")
    if text.count(b"{") > MOST_TENSORS + 2:  # one a tensor, however else it is spelt; before any of it is parsed
        raise _damaged(where, f"it has more than {MOST_TENSORS} tensors")
    header = parse(text, where, most=MOST_HEADER, depth=4)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(where, "its metadata must be texts")
    if len(header) > MOST_TENSORS:
        raise _damaged(where, f"it has more than {MOST_TENSORS} tensors")
    base = 8 + len(text)
    entries = {name: _entry(name, raw, base, where) for name, raw in header.items()}
    _check_filled(entries, base, size, where)
    return entries


def check_name(name: object, where: str) -> str:
    """Refuse a tensor's name that a safetensors file cannot hold safely.

    Raises:
        BundleError: If it is no text of 1 to 512 printable characters, or ``__metadata__``.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.isprintable():
        raise BundleError(
            f"{where}: a tensor's name must be 1 to {MOST_NAME} printable characters, got {str(name)[:60]!r}."
        )
    if name == "__metadata__":
        raise BundleError(f"{where}: no tensor may be called '__metadata__', a word of the format; rename it.")
    return name


def _entry(name: str, raw: Any, base: int, where: str) -> Entry:
    check_name(name, where)
    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(where, f"{name!r} must have a dtype, a shape and offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _damaged(where, f"{name!r} has the dtype {str(dtype)[:24]!r}, which a bundle cannot hold")
    if not _naturals(shape) or len(shape) > 16 or not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(where, f"{name!r} has an impossible shape or offsets")
    torch_name, size = DTYPES[dtype]
    if math.prod(max(1, length) for length in shape) * size >= 2**63:
        raise _damaged(where, f"{name!r} has a shape that overflows")
    if math.prod(shape) * size != offsets[1] - offsets[0]:
        raise _damaged(where, f"{name!r} has another size than its shape")
    return Entry(torch_name, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(value: Any) -> bool:
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        return False
    return not value or (min(value) >= 0 and max(value) < 2**48)


def _check_filled(entries: Mapping[str, Entry], base: int, size: int, where: str) -> None:
    reached = base
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != reached:
            raise _damaged(where, "its tensors overlap or leave a gap")
        reached = entry.stop
    if reached != size:
        raise _damaged(where, f"its tensors end at byte {reached}, the file at {size}")


def _damaged(where: str, reason: str) -> BundleError:
    return BundleError(f"{where} is damaged: {reason}. Get the bundle again, or save the model again.")

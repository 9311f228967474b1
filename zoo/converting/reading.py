"""A checkpoint's tensors: of a safetensors file directly, of a pickled one through a child process."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from zoo.bundle.header import read_header
from zoo.converting.child import unpickle
from zoo.errors import BundleError, WeightsError

__all__ = ["Checkpoint", "read_checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        path: The file.
        sha256: Digest of its bytes.
        tensors: Its tensors, by the keys in it.
        wrapper: The keys under which they were, such as ``("state_dict",)``.
        classes: Names of classes that it brings; None if it brings none.
        left_out: What else it holds, such as an optimizer's state.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    wrapper: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    A file that begins like safetensors is read as such, whatever it is called; any other is a pickle, which this
    process does not touch.

    Raises:
        WeightsError: If it is no file, damaged, or holds something else than tensors.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise WeightsError(f"{path} must be a file of weights; give the one that torch.save or safetensors wrote.")
    with file.open("rb") as opened:
        begin = opened.read(9)
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if _is_safetensors(begin, file.stat().st_size):
        return Checkpoint(file, digest, _tensors(file, file))
    with tempfile.TemporaryDirectory(prefix="zoo-convert-") as folder:
        target = Path(folder) / "tensors.safetensors"
        said = unpickle(file, target)
        tensors = _tensors(target, file)
    classes = said.get("classes")
    return Checkpoint(
        file,
        digest,
        tensors,
        wrapper=tuple(map(str, said.get("wrapper") or ())),
        classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
        left_out=tuple(map(str, said.get("left_out") or ())),
    )


def _is_safetensors(begin: bytes, size: int) -> bool:
    return begin[8:9] == b"{" and 2 <= int.from_bytes(begin[:8], "little") <= size - 8


def _tensors(file: Path, named: Path) -> dict[str, Tensor]:
    """Read a safetensors file whose header passes our own checks.

    Raises:
        WeightsError: If it is damaged.
    """
    try:
        data = file.read_bytes()
        read_header(data, str(named))
        return dict(safetensors.torch.load(data))
    except (OSError, BundleError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).partition(". Get the bundle")[0].removeprefix(f"{named} is damaged: ")
        raise WeightsError(f"{named} cannot be converted: its tensors cannot be read: {reason}.") from error

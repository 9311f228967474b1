"""Running the program that unpickles: in a child process, bounded, and whatever becomes of it is one clean error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.bundle.plain_json import parse
from zoo.errors import BundleError, WeightsError

__all__ = ["check_torch", "unpickle"]

PROGRAM = Path(__file__).with_name("unpickling.py")
LEAST_TORCH = (2, 10)
SECONDS = 120
"""Processor time that reading may take, in seconds; as much again for each 2 GB of the file."""

SPACE = 2**30
"""Memory beyond four times the file, in bytes."""

_MOST_ANSWER = 2**24
_ENDS = {"SIGKILL": "ran out of memory or was killed", "SIGXCPU": "took longer than it may", "SIGSEGV": "crashed"}


def check_torch(version: str) -> None:
    """Refuse a torch whose restricted reader can be made to write where it must not (CVE-2026-24747).

    Args:
        version: Version of torch.

    Raises:
        WeightsError: If it is older than 2.10.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < LEAST_TORCH:
        raise WeightsError(
            f"Pickled checkpoints are read with torch 2.10 or newer only, since CVE-2026-24747 is in older ones; this "
            f"is torch {version}. Update it with: pip install -U torch."
        )


def unpickle(path: Path, target: Path, *, seconds: int | None = None, space: int | None = None) -> dict[str, Any]:
    """Have a child process read a file of ``torch.save`` and write its tensors as safetensors.

    Args:
        path: The file.
        target: Where the tensors are written; its folder is the only one that the child may write to.
        seconds: Processor time that it may take; None for what suits the file's size.
        space: Memory that it may take beyond that of torch itself, in bytes; None likewise.

    Returns:
        What it says of the file: ``wrapper``, ``left_out``, ``classes`` and ``count``.

    Raises:
        WeightsError: If the file is no checkpoint of tensors, asks for anything else, or takes too much.
    """
    import torch

    check_torch(str(torch.__version__))
    size = path.stat().st_size
    seconds = SECONDS * (1 + size // 2**31) if seconds is None else seconds
    space = SPACE + 4 * size if space is None else space
    command = [sys.executable, "-I", str(PROGRAM), str(path), str(target), str(seconds), str(space)]
    environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**environment, **kept},
            timeout=60 + 4 * seconds,
            check=False,
            cwd=target.parent,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{path} cannot be converted: reading it took longer than it may.") from error
    return _answer(path, done)


def _answer(path: Path, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """Read what the child said, as what someone else may have written."""
    if done.returncode != 0:
        name = _signal(-done.returncode)
        told = _ENDS.get(name, f"ended with {name or done.returncode}")
        if b"MemoryError" in done.stderr or b"bad_alloc" in done.stderr:
            told = _ENDS["SIGKILL"]
        raise WeightsError(f"{path} cannot be converted: the process that read it {told}; nothing was written.")
    try:
        answer = parse(done.stdout.strip().rpartition(b"\n")[2], "The answer", most=_MOST_ANSWER)
    except BundleError as error:
        raise WeightsError(f"{path} cannot be converted: the process that read it gave no answer.") from error
    if not isinstance(answer, Mapping) or "error" in answer:
        reason = answer.get("error") if isinstance(answer, Mapping) else "it gave no answer"
        raise WeightsError(f"{path} cannot be converted: {reason}.")
    return dict(answer)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""

"""A program, not a module: it reads a file of ``torch.save`` and writes the tensors as safetensors.

Nothing imports this file. It takes the file, the path to write to, and the seconds and bytes that it may use beyond
what it has after importing torch; it answers with one line of JSON on stdout. torch's restricted reader makes tensors
and plain containers only; should that ever fail, an audit hook stops what a checkpoint has no business with, and the
limits stop what takes too long or too much.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable

import torch
from safetensors.torch import save_file

_FORBIDDEN = (
    *("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.", "socket."),
    *("os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link", "os.chmod", "shutil.", "ctypes.dlopen"),
)
"""Beginnings of the names of audit events that reading a checkpoint never raises."""

_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state")
_NAMES = ("classes", "class_names", "labels", "label_names", "id2label", "class_to_idx", "idx_to_class")
_MOST_NAMES = 100_000
_FULL = "allocate memory"
_TOO_MUCH = "it needs more memory than a checkpoint of its size may"


def main(source: str, target: str, seconds: int, space: int) -> dict[str, object]:
    """Read the file and write its tensors; give what to answer."""
    _limit(seconds, space)
    sys.addaudithook(_audit(target))
    try:
        held = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        return {"error": _TOO_MUCH}
    except Exception as error:  # what a damaged or hostile file raises has no common type
        return {"error": _reason(error)}
    wrapper, tensors, others = _unwrap(held)
    if not tensors:
        return {"error": f"it holds no tensors, but a {type(held).__name__}"}
    bad = [key for key, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if bad:
        return {"error": f"the tensor {bad[0]!r} is sparse or quantised"}
    try:
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, target)
    except Exception as error:  # dtypes that safetensors lacks, no space, no memory
        told = " ".join(str(error).split())
        return {"error": _TOO_MUCH if _FULL in told else f"its tensors cannot be written: {told[:200]}"}
    return {"wrapper": wrapper, "left_out": others, "classes": _classes(held), "count": len(tensors)}


def _unwrap(held: object) -> tuple[list[str], dict[str, torch.Tensor], list[str]]:
    """Give the keys that lead to the state dict, its tensors, and the names of all that was beside them."""
    wrapper: list[str] = []
    others: list[str] = []
    while isinstance(held, dict):
        inner = next((key for key in _WRAPPERS if isinstance(held.get(key), dict)), None)
        if inner is None or any(isinstance(value, torch.Tensor) for value in held.values()):
            break
        others += [".".join((*wrapper, str(key))) for key in held if key != inner]
        wrapper.append(inner)
        held = held[inner]
    if not isinstance(held, dict):
        return wrapper, {}, others
    tensors = {str(key): value for key, value in held.items() if isinstance(value, torch.Tensor)}
    others += [".".join((*wrapper, str(key))) for key, value in held.items() if not isinstance(value, torch.Tensor)]
    return wrapper, tensors, others


def _classes(held: object) -> list[str] | None:
    """Give the names of the classes that the checkpoint brings, in the order of the logits."""
    for name in _NAMES if isinstance(held, dict) else ():
        found = held.get(name)  # type: ignore[attr-defined]
        if isinstance(found, (list, tuple)) and all(isinstance(one, str) for one in found):
            return list(found)[:_MOST_NAMES]
        if not isinstance(found, dict) or not found or len(found) > _MOST_NAMES:
            continue
        pairs = {str(k): v for k, v in found.items()}
        if all(isinstance(value, int) for value in pairs.values()):  # name to place
            pairs = {str(place): key for key, place in pairs.items()}
        with contextlib.suppress(KeyError):
            ordered = [pairs[str(place)] for place in range(len(pairs))]
            if all(isinstance(one, str) for one in ordered):
                return ordered
    return None


def _reason(error: Exception) -> str:
    """Say in a few words why torch refused the file."""
    told = " ".join(str(error).split())
    named = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|[Uu]nsupported class) ([\w.]+)", told)
    if named:
        return f"its pickle asks for {named[1]!r}, which is no tensor and could run code"
    if "stopped here: " in told:
        return told.partition("stopped here: ")[2][:200]
    if _FULL in told:
        return _TOO_MUCH
    if "Weights only load failed" in told:
        return "its pickle holds something else than tensors and plain values, which could run code"
    return f"torch cannot read it as a file of torch.save ({type(error).__name__})"


def _audit(target: str) -> Callable[[str, tuple[object, ...]], None]:
    """Make the hook that stops what reading a checkpoint never does."""
    allowed = (os.path.dirname(target) + os.sep, os.devnull)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN) and not event.startswith("socket.__new__"):
            raise PermissionError(f"stopped here: its pickle asks for {event}")
        if event == "open" and len(arguments) > 2 and isinstance(arguments[2], int):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if writes and not str(arguments[0]).startswith(allowed):
                raise PermissionError("stopped here: its pickle asks to write a file")

    return hook


def _limit(seconds: int, space: int) -> None:
    """Bound the processor time and the memory of this process, where the system can."""
    try:
        import resource
    except ImportError:  # not on this system; the parent bounds the time
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 5))  # first a signal, then the end
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + space, held + space))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))

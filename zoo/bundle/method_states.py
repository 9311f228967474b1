"""What methods keep in a model from one run to the next, as files of its bundle: JSON and safetensors, no pickle.

Each method's tree is ``state/<name>/state.json``, in the form of :mod:`zoo.bundle.trees`; its tensors are beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.bundle.paths import METHODS
from zoo.bundle.plain_json import canonical, parse
from zoo.errors import BundleError, ConfigError
from zoo.spec import check_name

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.bundle.entries import FileEntry
    from zoo.bundle.folder import BundleFolder

__all__ = ["check_state_files", "is_state", "read_states", "state_files"]

TREE, TENSORS = "state.json", "state.safetensors"
MOST_TREE = 64 * 2**20
"""Size of a tree in bytes, at the most."""
_DEPTH = 64
_FILE = re.compile(rf"{METHODS}/([A-Za-z0-9_-]{{1,64}})/(state\.json|state\.safetensors)", re.ASCII)


def is_state(path: str) -> bool:
    """Say whether a file of a bundle is of a method's state."""
    return path.startswith(f"{METHODS}/")


def check_state_files(paths: Iterable[str], where: str, *, kind: str) -> None:
    """Refuse files among the methods' states that are none: before any is opened.

    Args:
        paths: All files of a bundle.
        where: Its manifest's path, for the message.
        kind: The bundle's kind.

    Raises:
        BundleError: If one is no state's, has no tree beside it, or the bundle is a checkpoint, which has none.
    """
    found = [path for path in paths if is_state(path)]
    for path in found:
        read = _FILE.fullmatch(path)
        if read is None or kind == "checkpoint" or f"{METHODS}/{read[1]}/{TREE}" not in found:
            raise BundleError(f"{where} does not follow the format: {path[:80]!r} is no file of a method's state.")


def state_files(states: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Mapping[str, Tensor]]]:
    """Write the states as files.

    Args:
        states: Method's name to what it keeps: dicts, lists, tuples, tensors, strings, numbers, booleans and None.

    Returns:
        Path to content, and path to tensors.

    Raises:
        BundleError: If a name is none, or there is something else in a state; the message has its path.
    """
    from zoo.bundle.trees import pack

    texts: dict[str, bytes] = {}
    held: dict[str, Mapping[str, Tensor]] = {}
    for name, state in states.items():
        try:
            check_name("method's state", name)
        except ConfigError as error:
            raise BundleError(f"model.state cannot be kept: {error}") from error
        tree, tensors = pack(state, name)
        texts[f"{METHODS}/{name}/{TREE}"] = written = canonical(tree)
        if len(written) > MOST_TREE:
            raise BundleError(f"model.state[{name!r}] must be {MOST_TREE} bytes as JSON or fewer, got {len(written)}.")
        if tensors:
            held[f"{METHODS}/{name}/{TENSORS}"] = tensors
    return texts, held


def read_states(folder: BundleFolder, files: Mapping[str, FileEntry]) -> dict[str, Any]:
    """Read the states of a bundle, every file of them checked; each must be as :func:`state_files` writes it.

    Args:
        folder: The bundle.
        files: All its files.

    Returns:
        Method's name to what it keeps.

    Raises:
        BundleError: If a file is missing, cut or edited, too large, or holds what no state is.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in files if is_state(path) and path.endswith(TREE)):
        from zoo.bundle.reading import read_file

        name = path.split("/")[1]
        where, beside = f"{folder.path}/{path}", f"{METHODS}/{name}/{TENSORS}"
        if files[path].size > MOST_TREE:
            raise BundleError(f"{where} must have {MOST_TREE} bytes or fewer, got {files[path].size}.")
        data = folder.read(path, files[path])
        tree = parse(data, where, most=MOST_TREE, depth=_DEPTH)
        tensors: dict[str, Tensor] = {}
        if beside in files:
            with folder.file(beside, files[beside]) as opened:
                tensors = read_file(opened)
        found[name] = _unpacked(tree, tensors, data, name, where)
    return found


def _unpacked(tree: Any, tensors: Mapping[str, Tensor], data: bytes, name: str, where: str) -> Any:
    """Give a state of which nothing is left over, stands there twice, or is written otherwise."""
    from zoo.bundle.trees import pack, unpack

    state = unpack(tree, tensors, where)
    again, used = pack(state, name)
    if used.keys() != tensors.keys() or canonical(again) != data:
        raise BundleError(f"{where} does not follow the format: it is not spelled as a state and its tensors are.")
    return state

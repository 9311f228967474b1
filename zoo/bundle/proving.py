"""Proving that what is saved can be loaded again: the model is rebuilt from what is written, once for each structure.

Whether a rebuild succeeds follows from the spec, the names, shapes, dtypes and layouts of the tensors, the libraries'
own files and the adapters; the numbers in the tensors have no say. So a process that has rebuilt a structure once knows
it of every later save with the same one, such as those of a training run.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict

from zoo.bundle.hashing import hasher
from zoo.bundle.plain_json import canonical
from zoo.bundle.rebuilding import rebuild
from zoo.bundle.tensors import TensorSet
from zoo.model import Model
from zoo.registry import Registry, registry
from zoo.strict import to_json
from zoo.wrapping import WRAPPED

__all__ = ["prove"]

MOST = 256
"""Structures that are remembered."""

_proven: OrderedDict[str, Registry] = OrderedDict()
"""The digest of each structure that was rebuilt, with the plugins that built it."""


def prove(
    model: Model, tensors: TensorSet, texts: Mapping[str, bytes], read: Callable[[], TensorSet], *, wanted: bool
) -> Model | None:
    """Rebuild a model from what is written of it, unless its structure has been rebuilt before.

    Args:
        model: The model; of wrapped modules, copies are filled.
        tensors: All its tensors.
        texts: Path to content of the bundle's other files.
        read: Gives the tensors as they were written.
        wanted: Whether the rebuilt model is needed in any case.

    Returns:
        The rebuilt model, in eval mode; None where it was not rebuilt.

    Raises:
        BundleError: If it cannot be rebuilt.
        PluginError: If a plugin that it needs is broken.
    """
    adapters = [adapter.spec for adapter in model.adapters]
    own = {name: copy.deepcopy(b.native) for name, b in model.backbones.items() if b.spec.provider == WRAPPED}
    structure = None if own else _digest(model, tensors, texts)
    plugins = registry()
    if not wanted and structure is not None and _proven.get(structure) is plugins:
        return None
    rebuilt = rebuild(model.spec, read(), texts=texts, where="memory", modules=own, adapters=adapters)
    if structure is not None:
        _proven[structure] = plugins
        while len(_proven) > MOST:
            _proven.popitem(last=False)
    return rebuilt


def _digest(model: Model, tensors: TensorSet, texts: Mapping[str, bytes]) -> str:
    """Give a digest of all that a rebuild depends on."""
    told = {
        "spec": to_json(model.spec),
        "adapters": [asdict(adapter.spec) for adapter in model.adapters],
        "tied": tensors.tied,
        "memory_formats": dict(tensors.memory_formats),
    }
    found = hasher()
    found.update(canonical(told))
    for file, held in tensors.files.items():
        shapes = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in held.items()]
        found.update(repr((file, shapes)).encode())
    for path, content in sorted(texts.items()):
        if path.startswith("backbones/"):
            found.update(repr((path, content)).encode())
    return found.hexdigest()

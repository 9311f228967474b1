"""The teacher: a model, an ensemble, or the bundle of one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["check_teacher", "load_teacher", "tell_teacher"]


def check_teacher(given: object) -> None:
    """Refuse what cannot be a teacher; None is not known yet.

    Raises:
        ConfigError: If it is neither a model, nor an ensemble, nor a path.
    """
    import zoo

    if not (given is None or (isinstance(given, (zoo.Model, zoo.Ensemble, str, Path)) and given != "")):
        raise ConfigError(f"teacher must be a zoo.Model, a zoo.Ensemble or the path of a bundle, got {given!r}.")


def load_teacher(given: Any, student: Model) -> Model | Ensemble:
    """Give the teacher, loaded if it is a bundle.

    Raises:
        ConfigError: If there is none, or it is the student itself.
        BundleError: If the bundle cannot be loaded.
    """
    import zoo

    if given is None:
        raise ConfigError(
            "The method 'distillation' needs a teacher: teacher= a model, an ensemble or the path of a bundle."
        )
    if given is student:
        raise ConfigError("The teacher is the very model that is to learn from it; give a copy: copy.deepcopy(model).")
    return zoo.load(given) if isinstance(given, (str, Path)) else given


def tell_teacher(given: Any) -> dict[str, Any] | None:
    """Say as JSON which teacher it is: a bundle's name and id, or references of backbones and a digest of the state.

    Raises:
        BundleError: If the bundle cannot be read.
    """
    import zoo

    if given is None:
        return None
    if isinstance(given, (str, Path)):
        found = zoo.inspect(given)
        return {"bundle": Path(found.path).name, "id": found.id}
    if isinstance(given, zoo.Ensemble):
        told: dict[str, Any] = {"members": {name: _references(one) for name, one in given.members.items()}}
    else:
        told = {"backbones": _references(given)}
    return {**told, "state": _digest(given)}


def _references(model: Model) -> dict[str, str]:
    return {stream: entry.backbone.reference for stream, entry in model.spec.streams.items()}


def _digest(teacher: Model | Ensemble) -> str:
    """Digest names, types, shapes and bytes of all tensors."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(teacher.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        held = tensor.detach().cpu().contiguous()
        found.update(memoryview(held.reshape(-1).view(torch.uint8).numpy()))
    return f"sha256:{found.hexdigest()}"

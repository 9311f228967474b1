"""Several views of one picture: made, run as one batch, and their outputs averaged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.augmentation import Views
from zoo.data import PRESENT, Preparer
from zoo.ensembling.combining import Activation, mixture
from zoo.ensembling.spec import ViewSpec
from zoo.errors import ConfigError, ShapeError

__all__ = ["expanded", "merged", "viewing"]

_DRAWING = threading.Lock()
"""Views borrow torch's global generator, so one thread makes them at a time."""


@dataclass(frozen=True, slots=True)
class ManyViews:
    """From a picture to all its views, ``(views, C, H, W)``; the first is the picture as it is.

    Args:
        prepare: What makes the first one.
        views: What makes the others.
        count: Number of views.
        seed: Seed of the second one; each further one has the next.
    """

    prepare: Callable[[Any], Any]
    views: Views
    count: int
    seed: int

    def __call__(self, picture: Any) -> Tensor:
        """Make the views of one picture."""
        first = self.prepare(picture)
        with _DRAWING:
            return torch.stack([first, *(self.views(picture, self.seed + n) for n in range(1, self.count))])


def viewing(preparer: Preparer, spec: ViewSpec | None) -> Preparer:
    """Make a preparer give all views of a picture, where they differ by more than a mirror; others stay as they are.

    Raises:
        ConfigError: If what is done to a picture is no recipe, in which a view could end.
    """
    if spec is None or spec.augmentation is None or preparer.modality != "image":
        return preparer
    if preparer.recipe is None:
        raise ConfigError(
            f"A backbone on the input {preparer.input!r} prepares pictures by its library's own processor, and views "
            "need a recipe; use tta='flip', or none."
        )
    views = spec.augmentation.views(preparer.recipe)
    return replace(preparer, prepare=ManyViews(preparer.prepare, views, spec.views, spec.seed))


def expanded(inputs: Any, spec: ViewSpec | None, modalities: Mapping[str, str]) -> Any:
    """Turn a batch into one of all views, ``(views * B, …)``, view after view.

    Args:
        inputs: A tensor, or what the preparers gave, by key.
        spec: The views; None leaves the batch as it is.
        modalities: Key to what its samples are; a key that is not there holds pictures.

    Raises:
        ShapeError: If views were to be made of tensors.
    """
    if spec is None:
        return inputs
    if isinstance(inputs, Tensor):
        return _views_of(inputs, spec)
    made: dict[str, Any] = {}
    for key, value in inputs.items():
        if key == PRESENT:
            made[key] = {name: _repeated(mask, spec) for name, mask in value.items()}
        elif modalities.get(key, "image") == "image":
            made[key] = _nested(value, lambda tensor: _views_of(tensor, spec))
        else:
            made[key] = _nested(value, lambda tensor: _repeated(tensor, spec))
    return made


def _nested(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _nested(inner, change) for key, inner in value.items()}
    return change(value)


def _views_of(tensor: Tensor, spec: ViewSpec) -> Tensor:
    if spec.augmentation is None:
        mirror = tensor.flip(-1) if tensor.ndim >= 4 and tensor.is_floating_point() else tensor
        return torch.cat([tensor, mirror])
    if tensor.ndim != 5 or tensor.shape[1] != spec.views:
        raise ShapeError(
            f"The ensemble makes {spec.views} views of each picture, got tensors of shape {tuple(tensor.shape)}; "
            "give it pictures, or use tta='flip'."
        )
    return tensor.transpose(0, 1).flatten(0, 1)


def _repeated(tensor: Tensor, spec: ViewSpec) -> Tensor:
    return tensor.repeat(spec.views, *[1] * (tensor.ndim - 1))


def merged(output: Tensor, spec: ViewSpec | None, activation: Activation) -> Tensor:
    """Average a member's outputs over the views: probabilities, or numbers.

    Shape:
        - ``output``: ``(views * B, …)``; returns: ``(B, …)``.

    Raises:
        ShapeError: If it has a place for every pixel, and the views are more than mirror images.
    """
    if spec is None:
        return output
    views = output.reshape(spec.views, -1, *output.shape[1:])
    if output.ndim == 4:
        if spec.augmentation is not None:
            raise ShapeError("Outputs with a place for every pixel can be averaged over tta='flip' only.")
        views = torch.stack([views[0], views[1].flip(-1)])
    return mixture(views.to(torch.promote_types(views.dtype, torch.float32)), activation)

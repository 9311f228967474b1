"""What is run to have the features that are kept: the whole backbones, or as far as a frozen prefix goes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.bundle.digest import state_digest
from zoo.contracts.backbone import Backbone
from zoo.contracts.blocks import layer_of
from zoo.contracts.features import Features
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.spec import BackboneSpec
from zoo.strict import to_json
from zoo.training.features.flat import to_flat
from zoo.training.features.replay import Prefix, record
from zoo.wrapping import WrappedBackbone

__all__ = ["FORMAT", "Pass", "PrefixPass", "WholePass", "check_lowered"]

FORMAT = 3
"""Version of what is kept; a new one leaves the old stores to those who remove what is not used."""


class Pass(Protocol):
    """Gives what is kept of a batch."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams whose features it gives."""
        ...

    def key(self, stream: str) -> dict[str, Any]:
        """Say what the features of a stream depend on, but for the samples and the stream's name: JSON."""
        ...

    def ready(self, device: torch.device) -> Any:
        """Give a context in which :meth:`run` may be called, in eval mode and on a device."""
        ...

    def run(self, inputs: Any, streams: Collection[str] | None = None) -> dict[str, Tensor]:
        """Give the features of a batch, flat; of some streams alone, whose backbones alone run."""
        ...


class WholePass:
    """The whole backbones of a model.

    Args:
        model: The model.
        lowered: Whether to compute in bfloat16, channels last, on a copy of the backbones.
    """

    def __init__(self, model: Model, *, lowered: bool = False) -> None:
        self._model, self._lowered = model, lowered
        self._run: Callable[[str, Any], Features] | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams of the model."""
        return tuple(self._model.spec.streams)

    def key(self, stream: str) -> dict[str, Any]:
        """Say what the features depend on: weights, preprocessing, library version and what is asked for."""
        return {"precision": _precision(self._lowered), **_dependence(self._model, stream)}

    def full(self) -> WholePass:
        """Give the same in full precision."""
        return WholePass(self._model)

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Bring the model to the device and to eval mode; its mode comes back."""
        model, was_training = self._model, self._model.training
        model.eval().to(device)
        try:
            if self._lowered:
                copies = {stream: lowered(one) for stream, one in model.backbones.items()}
                self._run = lambda stream, seen: copies[model.spec.owner(stream)](seen, model.wants[stream])
            yield
        finally:
            self._run = None
            model.train(was_training)

    def run(self, inputs: Any, streams: Collection[str] | None = None) -> dict[str, Tensor]:
        """Give the features of the streams."""
        wanted = self.streams if streams is None else streams
        own = self._run or self._own
        run = lambda stream, seen: own(stream, seen) if stream in wanted else Features()  # noqa: E731
        found = self._model.features(inputs, run=run)
        return to_flat({stream: found[stream] for stream in wanted})

    def _own(self, stream: str, seen: Any) -> Features:
        return self._model.backbones[self._model.spec.owner(stream)](seen, self._model.wants[stream])


class PrefixPass:
    """The frozen prefixes of a model's backbones.

    Args:
        model: The model; each of its streams is of pictures and has a backbone of its own.
        prefixes: Stream name to prefix, for every stream.
        lowered: As for :class:`WholePass`.
    """

    def __init__(self, model: Model, prefixes: Mapping[str, Prefix], *, lowered: bool = False) -> None:
        self._model, self.prefixes, self._lowered = model, dict(prefixes), lowered
        self._backbones: dict[str, Backbone] = {}

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that have a prefix."""
        return tuple(self.prefixes)

    def key(self, stream: str) -> dict[str, Any]:
        """Say what the outputs depend on: as for the whole, but of the weights those of the prefix alone."""
        prefix = self.prefixes[stream]
        calls = [(c.path, [str(leaf.order) for leaf in c.leaves], c.needed) for c in prefix.calls]
        own = {"stages": prefix.stages, "calls": calls, "size": prefix.size}
        return {"precision": _precision(self._lowered), **_dependence(self._model, stream, prefix.stages), **own}

    def full(self) -> PrefixPass:
        """Give the same in full precision."""
        return PrefixPass(self._model, self.prefixes)

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Bring the model to the device and to eval mode; its mode comes back."""
        model, was_training = self._model, self._model.training
        model.eval().to(device)
        try:
            owned = {stream: model.backbones[stream] for stream in self.prefixes}
            self._backbones = {s: lowered(one) for s, one in owned.items()} if self._lowered else owned
            yield
        finally:
            self._backbones = {}
            model.train(was_training)

    def run(self, inputs: Any, streams: Collection[str] | None = None) -> dict[str, Tensor]:
        """Give what the prefixes gave, ``stream/replay/call/leaf``."""
        seen = inputs_by_stream(self._model, inputs)
        return {
            f"{stream}/{key}": value
            for stream in (self.streams if streams is None else streams)
            for key, value in record(self._backbones[stream], self.prefixes[stream], seen[stream]).items()
        }


def inputs_by_stream(model: Model, inputs: Any) -> dict[str, Any]:
    """Give what each stream sees of a batch."""
    if isinstance(inputs, Tensor):
        return dict.fromkeys(model.spec.streams, inputs)
    return {s: inputs[s] if s in inputs else inputs[entry.input] for s, entry in model.spec.streams.items()}


def check_lowered(place: torch.device) -> None:
    """Refuse features in bfloat16 where the processor does not compute in it.

    Raises:
        ConfigError: If it does not.
    """
    if place.type == "cuda":
        there = torch.cuda.is_bf16_supported()
    else:
        there = place.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not there:
        raise ConfigError(
            f"feature_precision='bf16' needs a processor that computes in bfloat16, which this {place.type} device "
            "does not; leave it at fp32."
        )


def lowered(backbone: Backbone) -> Backbone:
    """Copy a backbone in bfloat16, its convolutions channels last.

    Raises:
        ConfigError: If it cannot be copied.
    """
    try:
        made = copy.deepcopy(backbone).to(torch.bfloat16)
    except Exception as error:  # a stranger's module
        raise ConfigError(
            f"{backbone.spec.reference} cannot be copied in bfloat16 ({error}); use feature_precision='fp32'."
        ) from error
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return made.eval()


def _precision(low: bool) -> str:
    return "bf16" if low else "fp32"


def _dependence(model: Model, stream: str, below: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Say what the features of a stream depend on; with ``below``, of the weights only those of these stages."""
    entry, owner = model.spec.streams[stream], model.spec.owner(stream)
    spec, backbone, want = entry.backbone, model.backbones[owner], model.wants[stream]
    return {
        "format": FORMAT,
        "weights": state_digest(_tensors(backbone, below)),
        "adapters": [
            {key: value for key, value in asdict(one.spec).items() if key != "stream"}
            for one in model.adapters
            if one.spec.stream == owner
        ],
        "architecture": [spec.library, spec.library_version, spec.architecture],
        "construction": dict(spec.construction),
        "pooling": spec.pooling,
        "preprocessing": _preparing(spec, backbone),
        "code": backbone.fingerprint() if isinstance(backbone, WrappedBackbone) else None,
        "want": [want.pooled, want.tokens, want.embed, list(want.maps)],
    }


def _tensors(backbone: Backbone, stages: tuple[str, ...] | None) -> dict[str, Tensor]:
    """Give the tensors that decide the features; of stages that train, buffers that are no running statistics too."""
    if stages is None:
        return backbone.state_dict()
    found = {}
    for name, tensor in (*backbone.native.named_parameters(), *backbone.native.named_buffers()):
        buffer = not isinstance(tensor, torch.nn.Parameter) and not name.endswith(_DRIFTING)
        if backbone.stage_of(name) in stages or buffer:
            found[name] = tensor
    for name, tensor in backbone.adapters.named_parameters("adapters"):
        if backbone.stage_of(layer_of(backbone, name) or "") in stages:
            found[name] = tensor
    return found


_DRIFTING = ("running_mean", "running_var", "num_batches_tracked")


def _preparing(spec: BackboneSpec, backbone: Backbone) -> object:
    """Say what prepares a picture: the recipe, or a digest of the files by which the backbone does it without one."""
    if spec.preprocessing is not None:
        return to_json(spec.preprocessing)
    found = hashlib.sha256()
    for name, content in sorted(backbone.native_files().items()):
        written = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        found.update(f"{name} {len(written)} ".encode() + written)
    return found.hexdigest()

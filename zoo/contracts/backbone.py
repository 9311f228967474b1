"""The backbone contract: one uniform feature extractor over every library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features, Want
from zoo.contracts.modules import ModuleMap
from zoo.errors import CapabilityError, ConfigError, ShapeError, UnknownName
from zoo.spec import BackboneSpec, InputSpec

__all__ = ["Backbone", "StageMap", "tensor_names"]

Inputs = Tensor | Mapping[str, Tensor]


class StageMap:
    """A total function from every module, parameter and buffer of a native module to its stage.

    A provider names where each stage ends; the rest follows from the order of definition: what comes before the first
    stage is ``stem``, what stands between two belongs to the later one, what comes after the last is ``post``.

    Args:
        native: The library's module.
        ends: Stage name to the path of the module in which it ends, in the order of execution; ``stem`` may be among
            them.
        begins: Path of the module in which the first numbered stage begins, if it is not where it ends.
        moved: Module or parameter path to stage, for what is defined out of the order in which it runs.
    """

    def __init__(
        self,
        native: nn.Module,
        ends: Mapping[str, str],
        *,
        begins: str | None = None,
        moved: Mapping[str, str] | None = None,
    ) -> None:
        self._moved = dict(moved or {})
        order = [name for name, _ in _walk(native)]
        numbered = {stage: path for stage, path in ends.items() if stage not in ("stem", "post")}
        self.names: tuple[str, ...] = ("stem", *numbered, "post")
        spans = {stage: _span(order, path) for stage, path in numbered.items()}
        for stage, (first, last) in spans.items():
            if first == last:
                path = numbered[stage]
                raise UnknownName(f"Stage {stage} ends in {path!r}, which {type(native).__name__} does not have.")
        start = _span(order, begins or next(iter(numbered.values())))[0] if numbered else len(order)
        self._stage: dict[str, str] = {}
        for position, name in enumerate(order):
            if position < start and not any(first <= position < last for first, last in spans.values()):
                self._stage[name] = "stem"
            else:
                self._stage[name] = next((s for s, (_, last) in spans.items() if position < last), "post")

    def __getitem__(self, name: str) -> str:
        """Give the stage of a module, parameter or buffer by its path."""
        for path, stage in self._moved.items():
            if _within(name, path):
                return stage
        try:
            return self._stage[name]
        except KeyError:
            raise UnknownName(f"The backbone has no module, parameter or buffer {name!r}.") from None


def _walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Name tensors (True) and modules (False) as they are defined, a module's own tensors before its children."""
    for held in (module._parameters, module._buffers):
        for name, tensor in held.items():
            if tensor is not None:
                yield prefix + name, True
    for name, child in module._modules.items():
        if child is not None:
            yield prefix + name, False
            yield from _walk(child, prefix + name + ".")


def tensor_names(module: nn.Module) -> Iterator[str]:
    """Name the tensors of a module, without touching them."""
    return (name for name, is_tensor in _walk(module) if is_tensor)


def _span(order: list[str], path: str) -> tuple[int, int]:
    """Give where a path and all below it stand in the order, as a half-open range; empty if it is not there."""
    if path not in order:
        return 0, 0
    first = last = order.index(path)
    while last < len(order) and _within(order[last], path):
        last += 1
    return first, last


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


class Backbone(nn.Module, ABC):
    """A pretrained network without its classifier, behind the one interface.

    A provider subclasses it once for its library, implements :meth:`extract`, and leaves the native module's
    state-dict keys untouched under ``native.``.

    Args:
        spec: What it takes and gives.
        native: The library's own module, classifier removed.
        stages: The stage of every parameter.
    """

    def __init__(self, spec: BackboneSpec, native: nn.Module, stages: StageMap) -> None:
        super().__init__()
        self.spec = spec
        self.native = native
        self.adapters: ModuleMap[nn.Module] = ModuleMap({})
        self._stages = stages
        self._typed: tuple[tuple[str, ...], str] = ((), "")
        self._accepted: tuple[torch.Size, torch.dtype, Want] | None = None
        self.kept: Want | None = None
        """What it was cut to; None while it is whole."""

    @abstractmethod
    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the native module once and give what is wanted; inputs are already checked."""

    def forward(self, inputs: Inputs, want: Want | None = None) -> Features:
        """Give the wanted features of a batch.

        Args:
            inputs: The main input, or a mapping of input names to tensors.
            want: What to give; the pooled vector by default.

        Shape:
            - ``inputs``: as ``spec.inputs`` says, ``(B, C, H, W)`` float for pictures.

        Raises:
            ShapeError: If an input is missing, or has the wrong rank, channels, size or dtype.
            CapabilityError: If the backbone cannot give what is wanted, or it was cut off.
        """
        want = want or Want()
        tensors = {self.spec.inputs[0].name: inputs} if isinstance(inputs, Tensor) else dict(inputs)
        alike = None  # batches are mostly like the one before, which was checked
        if isinstance(inputs, Tensor) and not torch.compiler.is_compiling():
            alike = inputs.shape, inputs.dtype, want
        if alike is None or alike != self._accepted:
            check_inputs(self.spec, tensors)
            check_want(self.spec, want)
            self._check_kept(want)
            if alike is not None:
                self._accepted = alike
        own = self.dtype
        for name, tensor in tensors.items():
            if tensor.dtype != own and tensor.is_floating_point():
                tensors[name] = tensor.to(own)
        return self.extract(tensors, want)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of its parameters, to which inputs are converted."""
        held = self._first_parameter()
        if held is None or not held.is_floating_point():
            found = next(((name, p) for name, p in self.native.named_parameters() if p.is_floating_point()), None)
            if found is None:
                return torch.float32
            (*path, name), held = found[0].split("."), found[1]
            self._typed = tuple(path), name
        return held.dtype

    def _first_parameter(self) -> Tensor | None:
        """Give the parameter where it was last time: a walk through all modules costs more than a small layer does."""
        module: nn.Module | None = self.native
        for name in self._typed[0]:
            module = module._modules.get(name) if module is not None else None
        return None if module is None else module._parameters.get(self._typed[1])

    def stage_of(self, name: str) -> str:
        """Give the stage of a module, parameter or buffer, by its path in the native module.

        Raises:
            UnknownName: If the native module has no such path.
        """
        return self._stages[name]

    def trim(self, want: Want) -> None:
        """Cut off, for good, every layer that nothing wanted runs through; its tensors leave the state dict.

        Afterwards each parameter that is left gets a gradient from what is wanted, and the backbone gives that, or less
        of it, and nothing else. Where nothing could be cut off it stays whole, and gives all that it did.

        Args:
            want: What will be asked for.

        Raises:
            CapabilityError: If the backbone cannot give it, was cut to something else before, or nothing is wanted.
        """
        check_want(self.spec, want)
        self._check_kept(want)
        if len(self.adapters):
            raise CapabilityError(f"{self.spec.reference} has an adapter; merge it or take it off before it is cut.")
        if not _outputs(want):
            raise CapabilityError(f"{self.spec.reference}: nothing is wanted, so nothing would be left of it.")
        if self.cut(want):
            self.kept, self._accepted = want, None

    def cut(self, want: Want) -> bool:
        """Do what :meth:`trim` says; a provider that cannot leaves the backbone whole, which is what this does.

        Args:
            want: What is to be left; it was checked.

        Returns:
            Whether anything was cut off.
        """
        return False

    def _check_kept(self, want: Want) -> None:
        if self.kept is not None and not want <= self.kept:
            raise CapabilityError(
                f"{self.spec.reference} was cut to what gives {_told(self.kept)}, and {_told(want)} is wanted; "
                "build it anew with a head that needs it, or without heads."
            )

    def preprocess(self, sample: Any) -> Tensor | dict[str, Tensor]:
        """Turn one sample into what the backbone takes, without the batch dimension, as :meth:`preprocessor` does.

        Args:
            sample: A Pillow image for pictures, a list of them for video; text or sound where the backbone brings a
                tokenizer or a feature extractor.

        Returns:
            The main input; input name to tensor where there are several.

        Raises:
            ConfigError: If the backbone has no way from a sample to its input.
            DataError: If the sample cannot be used.
        """
        return self.preprocessor()(sample)

    def preprocessor(self) -> Callable[[Any], Tensor | dict[str, Tensor]]:
        """Give the function from one sample to what the backbone takes, as the weights were trained.

        It pickles and holds no weights, so that it can go to other processes, and what it gives is decided by itself
        and the sample alone. By default it is the recipe in the spec. A provider whose backbones have none brings a
        function of its own here, whose files :meth:`native_files` gives and :meth:`take_files` takes.

        Returns:
            A function as :meth:`preprocess`; two of them that compare equal do the same.

        Raises:
            ConfigError: If the backbone has no way from a sample to its input.
        """
        if self.spec.preprocessing is None:
            raise ConfigError(
                f"{self.spec.reference} ({self.spec.modality}) brings no preprocessing; give it tensors: "
                f"{', '.join(entry.name for entry in self.spec.inputs)}."
            )
        return self.spec.preprocessing.apply

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Trade compute for memory in training, where the library can.

        Returns:
            Whether it is now on; False where the library does not support it.
        """
        return False

    def undecayed(self) -> frozenset[str]:
        """Give the parameters of the native module that its library wants no weight decay on, by path, if it says."""
        return frozenset()

    def native_files(self) -> dict[str, object]:
        """Give the files that let the library load the saved folder by itself, beside ``model.safetensors``.

        Returns:
            File name to content: JSON values, or bytes.
        """
        return {}

    def take_files(self, files: Mapping[str, bytes]) -> None:
        """Take back what :meth:`native_files` gave, from a bundle, such as a tokenizer; unknown names are passed over.

        Args:
            files: File name to content, whose digests were checked; a bundle may still come from a stranger.

        Raises:
            ConfigError: If a file that it needs cannot be used.
        """


def check_inputs(spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> None:
    """Refuse inputs that the backbone cannot take, before any library sees them.

    Raises:
        ShapeError: If an input is missing or unknown, or has the wrong rank, channels, size or dtype.
    """
    known = [entry.name for entry in spec.inputs]
    for name in tensors:
        if name not in known:
            raise ShapeError(f"{spec.reference} takes {', '.join(known)}, got an input called {name!r}.")
    for entry in spec.inputs:
        if entry.name in tensors:
            _check_input(spec.reference, entry, tensors[entry.name])
        elif entry.required:
            raise ShapeError(f"{spec.reference} needs the input {entry.name!r}, got {', '.join(tensors) or 'none'}.")


def _check_input(reference: str, entry: InputSpec, tensor: Tensor) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != entry.rank:
        raise ShapeError(f"{reference} takes {_describe(entry)}, got rank {len(shape)} {shape}.")
    if tensor.is_floating_point() != entry.dtype.startswith("float"):
        got = str(tensor.dtype).removeprefix("torch.")
        raise ShapeError(f"{reference} takes {_describe(entry)} of {entry.dtype}, got {got}.")
    if entry.kind == "spectrogram" and shape[1] != entry.channels:
        raise ShapeError(
            f"{reference} takes {_describe(entry)}, got {shape[1]} bins {shape}; are bins and steps exchanged?"
        )
    if entry.channels is not None and shape[1] != entry.channels:
        raise ShapeError(
            f"{reference} takes {_describe(entry)}, got {shape[1]} channels {shape}; "
            f"build it with '?in_channels={shape[1]}' or convert the input."
        )
    _check_length(reference, entry, shape)
    if entry.kind not in ("image", "video") or entry.size is None:
        return
    height, width = shape[-2:]
    if entry.fixed_size and (height, width) != entry.size:
        raise ShapeError(
            f"{reference} takes pictures of {entry.size[0]}×{entry.size[1]} pixels only, got {height}×{width}; "
            f"resize them or build it with '?img_size={height}' where the architecture allows it."
        )
    if min(height, width) < entry.least:
        raise ShapeError(
            f"{reference} takes pictures of {entry.least}×{entry.least} pixels or more, got {height}×{width}; "
            "enlarge them."
        )
    if height % entry.divisor or width % entry.divisor:
        fit = [-(-side // entry.divisor) * entry.divisor for side in (height, width)]
        raise ShapeError(
            f"{reference} takes heights and widths divisible by {entry.divisor}, got {height}×{width}; "
            f"pad to {fit[0]}×{fit[1]}."
        )


def _check_length(reference: str, entry: InputSpec, shape: tuple[int, ...]) -> None:
    if entry.length is None or entry.kind == "image":
        return
    got = shape[2] if entry.kind == "video" else shape[-1]
    what = {"video": "frames", "waveform": "samples", "spectrogram": "steps"}.get(entry.kind, "tokens")
    if entry.fixed_length and got != entry.length:
        raise ShapeError(f"{reference} takes {entry.length} {what} only, got {got}; pad or cut them.")
    if got > entry.length and entry.kind != "video":
        raise ShapeError(f"{reference} takes {entry.length} {what} at the most, got {got}; cut them.")


def _describe(entry: InputSpec) -> str:
    if entry.kind == "image":
        return f"{entry.name} as (batch, {entry.channels}, height, width)"
    if entry.kind == "video":
        return f"{entry.name} as (batch, {entry.channels}, frames, height, width)"
    if entry.kind == "spectrogram":
        return f"{entry.name} as (batch, {entry.channels}, steps)"
    if entry.rank == 2:
        return f"{entry.name} as (batch, {'samples' if entry.kind == 'waveform' else 'tokens'})"
    return f"{entry.name} of rank {entry.rank}"


def _outputs(want: Want) -> list[str]:
    flags = {"pooled": want.pooled, "tokens": want.tokens, "embed": want.embed}
    return [*(name for name, on in flags.items() if on), *want.maps]


def _told(want: Want) -> str:
    return " and ".join(_outputs(want)) or "nothing"


def check_want(spec: BackboneSpec, want: Want) -> None:
    """Refuse to want what the backbone cannot give.

    Raises:
        CapabilityError: If a capability or a stage's map is missing.
    """
    if want.pooled and "pooled" not in spec.capabilities:
        raise CapabilityError(f"{spec.reference} gives no pooled vector; it gives {', '.join(spec.capabilities)}.")
    if want.embed and "embed" not in spec.capabilities:
        raise CapabilityError(
            f"{spec.reference} gives no embed, which a part of a dual-tower model does; it gives "
            f"{', '.join(spec.capabilities)}."
        )
    if want.tokens and "tokens" not in spec.capabilities:
        raise CapabilityError(f"{spec.reference} gives no tokens; it gives {', '.join(spec.capabilities)}.")
    have = [stage.name for stage in spec.maps] if want.maps else []
    for name in want.maps:
        if name not in have:
            raise CapabilityError(f"{spec.reference} gives no map {name!r}; its maps are {', '.join(have) or 'none'}.")

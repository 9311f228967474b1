"""A model taken apart: the one backbone and the one linear layer of a library's classifier; all else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.head import Head
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import ConfigError
from zoo.model import Model

__all__ = ["Layout", "Parts", "linear_of", "only_linear", "take_apart"]

_CLASSIFIER = "classifier"
_REASONS = {
    "LayerNorm": "a normalisation in front of its linear layer (norm=True)",
    "GELU": "a hidden layer (hidden=…)",
    "Cosine": "cosine scores instead of a linear layer (cosine=True)",
}
_TRAINING_ONLY = ("class_weights",)
"""Tensors of a head that its loss reads, and its output does not."""


@dataclass(frozen=True)
class Parts:
    """What a library's classifier is made of.

    Args:
        stream: Name of the stream.
        backbone: The backbone, whole.
        head: The head.
        linear: Its linear layer.
        classes: Names of its classes, in the order of the logits.
        left_out: What the library has no place for, and its outputs do not depend on.
    """

    stream: str
    backbone: Backbone
    head: Head
    linear: nn.Linear
    classes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several of the classes."""
        return bool(getattr(self.head.config, "multi_label", False))


class Layout(Protocol):
    """A library's form of a classifier; one module for each implements it."""

    library: str
    """The library that loads it."""

    def native(self, parts: Parts) -> nn.Module:
        """Make the library's own model with the tensors of the parts.

        Raises:
            ConfigError: If the library has no such model.
        """
        ...

    def files(self, parts: Parts, native: nn.Module) -> Mapping[str, bytes]:
        """Give the files of the folder, all but the tensors."""
        ...

    def load(self, folder: str) -> nn.Module:
        """Load a folder as a user of the library does."""
        ...

    def logits(self, native: nn.Module, pictures: Tensor) -> Tensor:
        """Run the library's own model."""
        ...


def take_apart(model: Model | Ensemble, library: str) -> Parts:
    """Give the parts of a model that a library's own classifier has too.

    Args:
        model: The model.
        library: The library.

    Raises:
        ConfigError: If the model has something that such a classifier lacks; the message names it.
    """
    if isinstance(model, Ensemble):
        raise _refused(library, f"an ensemble of {len(model.members)} members", "export each member's bundle")
    if len(model.spec.streams) > 1:
        raise _refused(library, f"several streams ({', '.join(model.spec.streams)})", "it takes one backbone")
    if len(model.heads) != 1:
        told = ", ".join(model.heads) or "none"
        raise _refused(library, f"{len(model.heads)} heads ({told})", "it takes one classifier")
    (stream, backbone), (name, head) = next(iter(model.backbones.items())), next(iter(model.heads.items()))
    spec = backbone.spec
    if spec.library != library:
        raise _refused(library, f"a backbone of {spec.library} ({spec.reference})", f"it takes {library}'s own")
    if head.spec.type != _CLASSIFIER:
        raise _refused(library, f"the head {name!r} of the type {head.spec.type!r}", "it takes a 'classifier'")
    if backbone.kept is not None:
        raise _refused(library, "a backbone of which layers were cut off", "build it with a head on its pooled vector")
    if spec.widths:
        raise _refused(library, "a pruned backbone", f"{library} builds its layers at their full widths only")
    if spec.modality != "image":
        raise _refused(library, f"a backbone for {spec.modality}", "it takes pictures")
    own = [key for key in backbone.state_dict() if not key.startswith("native.")]
    if own:
        raise _refused(library, f"tensors beside the library's module ({own[0]!r})", "it takes the module alone")
    _check_dtype(model, library)
    linear = only_linear(head, library)
    return Parts(stream, backbone, head, linear, tuple(head.config.classes), tuple(_left_out(head)))


def _check_dtype(model: Model, library: str) -> None:
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            found = str(tensor.dtype).removeprefix("torch.")
            raise _refused(library, f"tensors of {found} ({key!r})", "turn it into float32 first, with model.float()")


def only_linear(head: Head, library: str) -> nn.Linear:
    """Give the one linear layer of a head.

    Raises:
        ConfigError: If it has others that its output depends on.
    """
    found = linear_of(head)
    if isinstance(found, nn.Linear):
        return found
    raise _refused(library, f"a head with {found}", "it takes one linear layer")


def linear_of(head: Head) -> nn.Linear | str:
    """Give the one linear layer of a head, or say what else it has."""
    leaves = [module for module in head.modules() if not any(True for _ in module.children()) and module is not head]
    acting = [leaf for leaf in leaves if not isinstance(leaf, (nn.Dropout, nn.Identity))]
    for leaf in acting:
        if type(leaf).__name__ in _REASONS:
            return _REASONS[type(leaf).__name__]
    linears = [leaf for leaf in acting if isinstance(leaf, nn.Linear)]
    if len(linears) != 1 or len(acting) != 1:
        return f"{len(linears)} linear layers among {', '.join(type(leaf).__name__ for leaf in acting) or 'none'}"
    held = {id(tensor) for tensor in linears[0].state_dict(keep_vars=True).values()}
    others = [k for k, t in head.state_dict(keep_vars=True).items() if id(t) not in held and k not in _TRAINING_ONLY]
    return f"the tensor {others[0]!r} beside its linear layer" if others else linears[0]


def _left_out(head: Head) -> list[str]:
    config: Any = head.config
    asked: dict[str, Callable[[], bool]] = {
        "class_weights": lambda: config.class_weights is not None,
        "label_smoothing": lambda: config.label_smoothing != 0,
        "threshold": lambda: config.multi_label and config.threshold != 0.5,
        "dropout": lambda: config.dropout != 0,
    }
    return [name for name, is_set in asked.items() if is_set()]


def _refused(library: str, what: str, do: str) -> ConfigError:
    return ConfigError(f"A classifier of {library} cannot have {what}; {do}.")

"""``zoo.export``: the folder written beside its place, loaded by the library and compared, then put there at once."""

from __future__ import annotations

import copy
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from zoo.bundle.paths import NATIVE, bundle_path
from zoo.bundle.probe import probe_input
from zoo.bundle.staging import StagedFolder, staged
from zoo.bundle.tensors import encode
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import BundleError, ConfigError
from zoo.exporting.onnx_file import ONNX, import_onnxruntime, onnx_file
from zoo.exporting.parts import Layout, Parts, take_apart
from zoo.exporting.timm_layout import TimmLayout
from zoo.exporting.transformers_layout import TransformersLayout
from zoo.model import Model
from zoo.remote import load

__all__ = ["LAYOUTS", "Exported", "check_layout", "export", "pictures_of"]

LayoutName = Literal["timm", "transformers", "onnx"]
LAYOUTS: dict[str, type[Layout]] = {"timm": TimmLayout, "transformers": TransformersLayout}
"""The layouts that are a library's own classifier, by name, which is that of the library that loads them."""

_PICTURES = 2


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export` wrote.

    Args:
        path: The folder.
        layout: Its layout.
        files: Name to size of its files, in bytes.
        classes: Names of the classes, in the order of the logits; none for ``onnx``, whose file tells them.
        left_out: Settings of the head that the layout has no place for; the logits do not depend on them.
    """

    path: str
    layout: str
    files: dict[str, int]
    classes: tuple[str, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def export(model: Model | Ensemble | str | Path, folder: str | Path, *, layout: LayoutName) -> Exported:
    """Write a model as a folder that needs no zoo: the flat one that its own library loads, or an ONNX file.

    For a library, the model must be one backbone of that library and one classifier of one linear layer; anything else
    is refused by name. The folder is loaded by the library before it is put in its place, and its logits must be
    bit-equal.

    ``onnx`` takes any heads and streams on pictures and writes ``model.onnx``: a float32 graph for batches of any size,
    with each task's output by name, at the size of the backbone's preprocessing. That and the heads stand in the file's
    metadata under ``zoo``, as JSON. Before it is put in its place, its outputs in ONNX Runtime must be within ``1e-4``
    of the model's. Adapters are merged into what is written.

    Args:
        model: The model, or its bundle's folder or URL.
        folder: Where the folder is to be; nothing must be there.
        layout: ``timm``, for ``timm.create_model("local-dir:FOLDER", pretrained=True)``, or ``transformers``, for
            ``AutoModelForImageClassification.from_pretrained(FOLDER)``, or ``onnx``.

    Returns:
        What was written.

    Raises:
        ConfigError: If the layout is not known, or cannot say what the model is.
        PluginError: If ``onnx`` needs a library that is not installed.
        BundleError: If the bundle is not well, or the folder exists or cannot be written.
    """
    check_layout(layout)
    target = bundle_path(folder)
    if os.path.lexists(target):
        raise BundleError(f"{target} exists; give a folder that is not there yet.")
    if layout == "onnx":
        import_onnxruntime()
    held = load(model) if isinstance(model, (str, Path)) else model
    if not isinstance(held, (Model, Ensemble)):
        raise ConfigError(f"zoo.export takes a model or the path of a bundle, got {type(held).__name__}.")
    if layout == "onnx":
        data = onnx_file(held)
        with staged(target, overwrite=False) as writing:
            files = {ONNX: writing.write(ONNX, data).size}
        return Exported(path=str(target), layout=layout, files=files, classes=(), left_out=())
    chosen = LAYOUTS[layout]()
    if isinstance(held, Model) and held.adapters:
        held = copy.deepcopy(held)
        held.merge_adapters()
    parts = take_apart(held, chosen.library)
    native = chosen.native(parts)
    texts = chosen.files(parts, native)
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in native.state_dict().items()}
    with staged(target, overwrite=False) as writing:
        sizes = {name: writing.write(name, data).size for name, data in texts.items()}
        sizes[NATIVE] = writing.write(NATIVE, encode(tensors)).size
        _prove(held, parts, chosen, writing)
    return Exported(path=str(target), layout=layout, files=sizes, classes=parts.classes, left_out=parts.left_out)


def check_layout(layout: object) -> None:
    """Refuse a layout that is not known.

    Raises:
        ConfigError: If it is none.
    """
    if layout not in get_args(LayoutName):
        raise ConfigError(f"layout must be {' or '.join(map(repr, get_args(LayoutName)))}, got {layout!r}.")


def _prove(model: Any, parts: Parts, layout: Layout, writing: StagedFolder) -> None:
    """Load the folder with the library, and compare its logits with the model's.

    Raises:
        ConfigError: If they are not bit-equal.
    """
    who = parts.backbone.spec.reference
    try:
        with torch.random.fork_rng(devices=[]):
            alone = layout.load(str(writing.path))
        with torch.inference_mode():
            theirs = layout.logits(alone, pictures_of(parts))
    except Exception as error:  # what a library raises over a folder has no common type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{who}: {layout.library} cannot load it as a folder of its own: {reason}") from error
    was_training = model.training
    with torch.inference_mode():
        ours = model.eval()(pictures_of(parts).to(parts.linear.weight.device))[parts.head.spec.name].cpu()
    model.train(was_training)
    if not torch.equal(ours, theirs):
        largest = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        raise ConfigError(
            f"{who}: {layout.library}'s own classifier gives other logits with these weights (difference "
            f"{largest:.3g}): it reads the backbone otherwise, so the model cannot be exported."
        )


def pictures_of(parts: Parts) -> torch.Tensor:
    """Make the pictures that two models are compared on, ``(2, C, H, W)``."""
    first = parts.backbone.spec.inputs[0]
    height, width = first.size or (224, 224)
    return probe_input(0, first.name, (_PICTURES, first.channels or 3, height, width))

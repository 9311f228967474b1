"""``zoo.convert``: from a checkpoint to a model, strictly, and to its bundle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from zoo.assembly import build
from zoo.bundle.paths import bundle_path
from zoo.bundle.saving import save
from zoo.bundle.staging import check_target
from zoo.contracts.head import Head
from zoo.converting.mapping import Classifying, classifier_of, left_over, prefix_of
from zoo.converting.reading import Checkpoint, read_checkpoint
from zoo.errors import ConfigError, WeightsError
from zoo.exporting.parts import linear_of, take_apart
from zoo.exporting.writing import LAYOUTS, pictures_of
from zoo.model import Model
from zoo.reference import Reference
from zoo.spec import HeadSpec

__all__ = ["Converted", "convert", "read_classes"]

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What :func:`convert` did.

    Args:
        path: The bundle's folder.
        source: The checkpoint.
        prefix: What the backbone's keys began with in it.
        backbone: Number of the backbone's tensors, all of which are from it.
        classifier: The path in it of what is in the head now; None with ``backbone_only``.
        classes: Names of the classes; empty with ``backbone_only``.
        left_out: What of it is not in the bundle.
    """

    path: str
    source: str
    prefix: str
    backbone: int
    classifier: str | None
    classes: tuple[str, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    backbone: str | Reference,
    head: HeadSpec | str | Mapping[str, Any] = "classifier",
    classes: Sequence[str] | str | Path | None = None,
    backbone_only: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Turn a checkpoint of a library's own model into a bundle.

    A pickled checkpoint is read by torch's restricted reader in a child process with bounded time and memory; this
    process never unpickles. Every tensor must find its place: those of the backbone in it, the classifier's weight and
    bias in the head. What the library's own model gives with these weights the bundle gives too, to the last bit;
    where the library can be asked, it is.

    Args:
        checkpoint: The file: safetensors, or of ``torch.save``; a state dict, or one under ``state_dict`` or ``model``,
            with or without ``module.``, ``_orig_mod.``, ``model.`` or ``backbone.`` in front of the keys.
        out: The bundle's folder.
        backbone: The architecture, such as ``timm:resnet50``.
        head: The classifier that takes the weights, as for ``zoo.build``.
        classes: Names of the classes in the order of the logits, or a file with one a line or a JSON list; None for
            those of ``head`` or of the checkpoint.
        backbone_only: Take the backbone alone, and only tell what else there is.
        overwrite: Whether to replace a bundle that is there.

    Returns:
        What went where.

    Raises:
        WeightsError: If the checkpoint cannot be read, holds anything but tensors and plain values, or does not fit.
        ConfigError: If the classes are not known or are of another number.
        BundleError: If the target exists or cannot be written.
    """
    target = bundle_path(out)
    check_target(target, overwrite=overwrite)
    named = None if classes is None else read_classes(classes)
    spec = HeadSpec.of(head)
    empty = build(backbone, (), weights=None)
    own = next(iter(empty.backbones.values())).native.state_dict()
    held = read_checkpoint(checkpoint)
    prefix = prefix_of(held.tensors, own, held.path)
    inside = {key.removeprefix(prefix): t for key, t in held.tensors.items() if key.startswith(prefix)}
    outside = {key: tensor for key, tensor in held.tensors.items() if not key.startswith(prefix)}
    plain = _poured(backbone, (), inside, held)
    native = next(iter(plain.backbones.values())).native.state_dict()
    over = {**left_over(inside, native), **outside}
    origin = {"checkpoint": held.path.name, "sha256": held.sha256, "torch": str(torch.__version__)}
    if backbone_only:
        model, found = plain, None
    else:
        found = classifier_of(over, plain.spec.streams["main"].backbone.pooled_dim)
        if found is None:
            raise WeightsError(_unplaced(held.path, over))
        model = _with_head(backbone, spec, inside, held, found, named)
        _check(model, held)
        over = {key: tensor for key, tensor in over.items() if key.rpartition(".")[0] != found.path}
    model.provenance = {"converted": origin}
    save(model, target, overwrite=overwrite)
    return Converted(
        path=str(target),
        source=str(held.path),
        prefix=prefix,
        backbone=len(native),
        classifier=None if found is None else found.path,
        classes=() if found is None else tuple(next(iter(model.heads.values())).config.classes),
        left_out=(*held.left_out, *sorted(over)),
    )


def _poured(backbone: str | Reference, heads: Any, tensors: Mapping[str, Tensor], held: Checkpoint) -> Model:
    """Build a model whose provider reads the backbone's tensors from a file, as it reads any."""
    with tempfile.TemporaryDirectory(prefix="zoo-convert-") as folder:
        file = Path(folder) / f"{held.path.stem or 'checkpoint'}.safetensors"
        safetensors.torch.save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, file)
        try:
            return build(backbone, heads, weights=file)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(file), str(held.path))) from error


def _with_head(
    backbone: str | Reference,
    spec: HeadSpec,
    tensors: Mapping[str, Tensor],
    held: Checkpoint,
    found: Classifying,
    named: Sequence[str] | None,
) -> Model:
    """Build the model with a head, and pour the classifier into it."""
    names = _names(spec, held, named, len(found.weight))
    model = _poured(backbone, spec.with_config(classes=list(names)), tensors, held)
    head: Head = next(iter(model.heads.values()))
    layer = linear_of(head)
    if isinstance(layer, str):
        raise ConfigError(f"The head {spec.name!r} has {layer}, and a checkpoint's classifier is one linear layer.")
    if layer.weight.shape != found.weight.shape or not found.weight.is_floating_point():
        raise WeightsError(f"{held.path} cannot be converted: {found.path}.weight does not fit the head {spec.name!r}.")
    with torch.no_grad():
        layer.weight.copy_(found.weight)
        layer.bias.zero_()
        if found.bias is not None:
            layer.bias.copy_(found.bias)
    return model


def _names(spec: HeadSpec, held: Checkpoint, named: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Give the names of the classes.

    Raises:
        ConfigError: If they are not known, or are of another number than the classifier's rows.
    """
    own = spec.config.get("classes")
    names = named if named is not None else own if own is not None else held.classes
    if names is None:
        raise ConfigError(
            f"{held.path} does not say what its {count} classes are called; give their names in the order of the "
            "logits: classes=[…] or a file of them, one a line (--classes FILE)."
        )
    if len(names) != count:
        raise ConfigError(f"The classifier of {held.path} has {count} classes, and {len(names)} names were given.")
    return tuple(map(str, names))


def _check(model: Model, held: Checkpoint) -> None:
    """Compare the model with the library's own, where there is one that reads the backbone as we do.

    Raises:
        WeightsError: If its logits differ: its classifier reads another vector.
    """
    library = next(iter(model.backbones.values())).spec.library
    if library not in LAYOUTS:
        return
    layout = LAYOUTS[library]()
    try:
        parts = take_apart(model, library)
        native = layout.native(parts)
    except ConfigError as error:
        raise WeightsError(f"{held.path} cannot be converted: {error}") from error
    with torch.inference_mode():
        ours, theirs = model(pictures_of(parts))[parts.head.spec.name], layout.logits(native, pictures_of(parts))
    if not torch.equal(ours, theirs):
        raise WeightsError(
            f"{held.path} cannot be converted with its classifier: {library}'s own model gives other logits, since its "
            "classifier reads another vector than the pooled one; take the backbone alone (backbone_only, "
            "--backbone-only)."
        )


def _unplaced(path: Path, over: Mapping[str, Tensor]) -> str:
    told = [f"{key} ({' × '.join(map(str, tensor.shape)) or 'one number'})" for key, tensor in sorted(over.items())]
    shown = ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
    what = f"what is left is no linear classifier on the pooled vector: {shown}" if told else "it has no classifier"
    return f"{path} cannot be converted with a head: {what}; take the backbone alone (backbone_only, --backbone-only)."


def read_classes(given: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Give names of classes, or read them from a file: one a line, or a JSON list.

    Raises:
        ConfigError: If the file cannot be read, or holds no names.
    """
    if not isinstance(given, (str, Path)):
        return tuple(map(str, given))
    try:
        text = Path(given).read_text("utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The names of the classes cannot be read from {given}: {error}.") from error
    while names and names[-1] == "":
        names.pop()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{given} must have one name of a class a line, or a JSON list of them.")
    return tuple(names)

"""An ONNX file: a picture model's forward pass for any batch, with what goes in and out told in its metadata."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.bundle.probe import probe_input
from zoo.ensembling.ensemble import Ensemble
from zoo.errors import ConfigError, PluginError
from zoo.exporting.integers import fold, is_quantized, write_integers
from zoo.model import Model
from zoo.preprocessing import Preprocessing

__all__ = ["METADATA", "ONNX", "import_onnxruntime", "onnx_file"]

ONNX = "model.onnx"
"""Name of the file in the folder."""
METADATA = "zoo"
"""Key of the file's metadata under which inputs and heads are told, as JSON."""

_TOLERANCE = 1e-4
"""The most by which outputs differ, absolute, and relative to what is above 1."""
_ROUNDED = 0.2
"""The most by which outputs of a quantized model differ, as a share of their size (in the Euclidean norm).

A number that lies between two integers falls to one or the other by the last bit of a float, and the layers behind see
that: EfficientNet-Lite 0 with real weights differs by 0.045 between float32 and float64, and by 0.09 where biases are
integers too, as quick layers ask for. What is wrong in a graph differs by more than its size.
"""
_TRACED, _CHECKED = 2, (1, 3)
"""Rows of the batch that is traced, and of those that are compared."""


@cache
def import_onnxruntime() -> Any:
    """Import ONNX Runtime, and see that what writes ONNX files is there too.

    Raises:
        PluginError: If one of them is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PluginError(
            f"The layout 'onnx' needs onnx, onnxscript and onnxruntime ({error}); install them with: "
            "pip install 'headzoo[onnx]'."
        ) from error
    return onnxruntime


def onnx_file(model: Model | Ensemble) -> bytes:
    """Write a model as an ONNX file, and compare it with the model in ONNX Runtime.

    Inputs and outputs are those of the model's forward pass: prepared pictures by the name of the input, at the size of
    the backbone's preprocessing, and what each task gives, by its name. The first axis of each is the batch, of any
    size. Adapters are merged into what is written. Where a backbone rounds, the file has integers.

    Args:
        model: The model; every input must be a picture, and all tensors float32. It stays as it is.

    Returns:
        The content of the file.

    Raises:
        ConfigError: If the model has something that the file cannot have, torch cannot trace it for any batch, or the
            outputs of ONNX Runtime differ by more than ``1e-4``; those of a quantized model by more than a fifth.
        PluginError: If a library that is needed is not installed.
    """
    runtime = import_onnxruntime()
    recipes = _recipes(model)
    assert isinstance(model, Model)  # _recipes refuses the others
    alone = copy.deepcopy(model).cpu().eval()
    if alone.adapters:
        alone.merge_adapters()
    who = ", ".join(entry.backbone.reference for entry in alone.spec.streams.values())
    rounds = is_quantized(alone)
    written = copy.deepcopy(alone) if rounds else alone
    if rounds:
        write_integers(written)
    data = _traced(who, _Positional(written, tuple(recipes)), recipes, _metadata(alone, recipes), rounds)
    _compare(who, runtime, alone, recipes, data, rounds)
    return data


class _Positional(nn.Module):
    """A model that takes and gives tuples, since a graph's inputs and outputs are in order.

    Args:
        model: The model.
        names: Names of its inputs.
    """

    def __init__(self, model: Model, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.tasks = tuple(model.tasks())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Give the outputs of all tasks."""
        outputs = self.model(dict(zip(self.names, inputs, strict=True)))
        return tuple(outputs[name] for name in self.tasks)


def _recipes(model: Model | Ensemble) -> dict[str, Preprocessing]:
    """Give each input's preprocessing, and refuse what has none, or no place in the file."""
    if not isinstance(model, Model):
        raise _refused(f"an ensemble of {len(model.members)} members", "export each member's bundle")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise _refused(f"tensors of {dtype} ({key!r})", "turn it into float32 first, with model.float()")
    if not model.heads:
        raise _refused("no head", "build it with one, which says what is to come out")
    found: dict[str, Preprocessing] = {}
    for name, preparer in model.preparers().items():
        if preparer.recipe is None:
            raise _refused(f"the input {name!r}, whose preprocessing is no recipe for pictures", "it takes pictures")
        if preparer.optional:
            raise _refused(f"the input {name!r}, which may be missing", "build it without optional inputs")
        found[name] = preparer.recipe
    both = sorted(found.keys() & model.tasks().keys())
    if both:
        raise _refused(f"the name {both[0]!r} for an input and a task", "rename the task")
    return found


def _metadata(model: Model, recipes: Mapping[str, Preprocessing]) -> str:
    """Tell what goes in and out: each input's recipe, and each head's type and settings."""
    heads = [{"name": head.name, "type": head.type, "config": dict(head.config)} for head in model.spec.heads]
    told = {"inputs": {name: {"preprocessing": asdict(recipe)} for name, recipe in recipes.items()}, "heads": heads}
    return json.dumps(told, ensure_ascii=False)


def _pictures(recipes: Mapping[str, Preprocessing], rows: int) -> dict[str, Tensor]:
    return {name: probe_input(0, name, (rows, r.channels, *r.size)) for name, r in recipes.items()}


def _traced(who: str, module: nn.Module, recipes: Mapping[str, Preprocessing], metadata: str, rounds: bool) -> bytes:
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's own, over what it does inside
            program: Any = torch.onnx.export(
                module,
                tuple(_pictures(recipes, _TRACED).values()),
                dynamo=True,
                verbose=False,
                input_names=list(recipes),
                output_names=list(module.tasks),  # type: ignore[arg-type]
                dynamic_shapes={"inputs": tuple({0: batch} for _ in recipes)},
            )
        program.model.metadata_props[METADATA] = metadata
        proto = program.model_proto
        if rounds:
            fold(proto)
        data: bytes = proto.SerializeToString()
    except Exception as error:  # what tracing a stranger's module raises has no common type
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{who}: torch cannot write it as ONNX for a batch of any size: {reason}") from error
    return data


def _compare(
    who: str, runtime: Any, model: Model, recipes: Mapping[str, Preprocessing], data: bytes, rounds: bool
) -> None:
    """Run the file and the model on batches of other sizes than the traced one.

    Raises:
        ConfigError: If ONNX Runtime cannot, or its outputs are others.
    """
    names = list(model.tasks())
    for rows in _CHECKED:
        pictures = _pictures(recipes, rows)
        try:
            session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
            theirs = session.run(names, {name: picture.numpy() for name, picture in pictures.items()})
        except Exception as error:  # the runtime's exceptions have no common type
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ConfigError(f"{who}: ONNX Runtime cannot run it on {rows} rows: {reason}") from error
        with torch.inference_mode():
            ours = model(pictures)
        for name, found in zip(names, theirs, strict=True):
            wanted = ours[name].numpy()
            if wanted.shape != found.shape or not _alike(found, wanted, rounds):
                beyond = f"{_ROUNDED} of their size" if rounds else str(_TOLERANCE)
                raise ConfigError(
                    f"{who}: the task {name!r} gives other outputs in ONNX Runtime than in torch, beyond {beyond}, "
                    f"on {rows} rows; the model cannot be exported."
                )


def _alike(found: Any, wanted: Any, rounds: bool) -> bool:
    """Compare outputs: number by number, or, where numbers fall to one or the other integer, all together."""
    if not rounds:
        return bool(np.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE))
    return bool(np.linalg.norm(found - wanted) <= _ROUNDED * np.linalg.norm(wanted) + _TOLERANCE)


def _refused(what: str, do: str) -> ConfigError:
    return ConfigError(f"An ONNX file cannot be made of a model with {what}; {do}.")

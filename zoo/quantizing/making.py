"""``zoo.quantize``: backbones begin to round to eight bits, by ranges that are found on data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from zoo.contracts.backbone import Backbone
from zoo.contracts.rounding import attach, rounding_of, takes, weight_of
from zoo.data import Table, placed
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.model import Model
from zoo.quantizing.placing import places_of
from zoo.quantizing.ranges import Observer, find_ranges, library
from zoo.quantizing.report import QuantizeReport
from zoo.spec import BackboneSpec, Quantized
from zoo.training.rows.looking import look_at

__all__ = ["check_quantizing", "quantize"]

BATCH = 16


def quantize(
    model: Model,
    data: Any,
    *,
    observer: Observer = "minmax",
    calibration_rows: int = 256,
    streams: Sequence[str] | None = None,
) -> QuantizeReport:
    """Quantize the backbones of a model in place to integers of eight bits, after training.

    From then on the model computes what integers compute, to rounding: weights of convolutions and linear layers in 255
    steps a channel, what goes into them and what comes out in 256 steps. It is still the model that it was: its float
    weights are the parameters, it trains on, with the rounding in every pass, its bundle loads anywhere, and
    ``zoo.export(…, layout="onnx")`` writes real integers. Heads stay in float. A model that is quantized already gets
    new ranges.

    Args:
        model: The model; its parameters stay the objects that they are.
        data: By what the ranges of activations are found: what :func:`zoo.fit` takes, of which the training rows count,
            without labels; or what an objective sees of the rows of its run (:class:`zoo.TrainingRows`).
        observer: ``minmax`` for ranges that hold all that was seen; ``histogram`` for those of the least squared error,
            which may cut off far outliers.
        calibration_rows: How many rows are looked at, evenly spread over the training rows.
        streams: The streams to quantize; None for all.

    Returns:
        What was done.

    Raises:
        ConfigError: If a setting cannot be used, or the model is of a kind that cannot be quantized; it is as it was.
        DataError: If ``data`` cannot be used.
        PluginError: If torchao is not installed, which finds the ranges.
        UnknownName: If there is no such stream.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        2018, arXiv:1712.05877, equation 1; Krishnamoorthi, 2018, arXiv:1806.08342, for channels apart. A norm of the
        batch after a convolution scales whole channels, and so do the steps of a weight: rounding the weight before the
        norm is folded into it gives the very integers that rounding it afterwards does, and is what happens here.
    """
    check_quantizing(observer, calibration_rows)
    if not isinstance(model, Model):
        raise ConfigError(f"zoo.quantize takes a model of zoo.build or zoo.load, got {type(model).__name__}.")
    chosen = _chosen(model, streams)
    library()
    mode = model.training
    model.eval()
    try:
        made: dict[str, tuple[Quantized, tuple[str, ...]]] = {}
        for stream in chosen:
            backbone = model.backbones[stream]
            known = backbone.spec.quantized
            made[stream] = places_of(backbone, observer) if known is None else _again(backbone, known, observer)
            if not made[stream][0].layers:
                raise ConfigError(f"{backbone.spec.reference} runs no convolution or linear layer that can be rounded.")
        batches = _batches(model, data, calibration_rows)
        first = next(batches, None)
        if first is None:
            raise DataError("There are no training rows by which ranges could be found.")
        for stream in chosen:
            attach(model.backbones[stream], made[stream][0])
        roundings = {stream: one for stream in chosen if (one := rounding_of(model.backbones[stream])) is not None}
        looked, before = find_ranges(model, roundings, _with(first, batches), observer)
        _describe(model, {stream: how for stream, (how, _) in made.items()})
        agreement = _agreement(model, _batches(model, data, calibration_rows), before)
    finally:
        model.train(mode)
    whole = sum(one.numel() for stream in chosen for one in model.backbones[stream].native.parameters())
    held = sum(
        weight_of(layer).numel()
        for stream, (how, _) in made.items()
        for layer in (model.backbones[stream].native.get_submodule(path) for path in how.layers)
    )
    return QuantizeReport(
        layers=sum(len(how.layers) for how, _ in made.values()),
        places=sum(len(how.inputs) + len(how.outputs) for how, _ in made.values()),
        rows=looked,
        weights=held / max(1, whole),
        agreement=agreement,
        left=tuple(f"{stream}.{path}" for stream, (_, left) in made.items() for path in left),
    )


def check_quantizing(observer: Any = "minmax", calibration_rows: Any = 256) -> None:
    """Check the settings of :func:`quantize`.

    Raises:
        ConfigError: If one cannot be used.
    """
    if observer not in get_args(Observer):
        raise ConfigError(f"observer must be one of {', '.join(get_args(Observer))}, got {observer!r}.")
    if isinstance(calibration_rows, bool) or not isinstance(calibration_rows, int) or calibration_rows < 1:
        raise ConfigError(f"calibration_rows must be a whole number, 1 or more, got {calibration_rows!r}.")


def _chosen(model: Model, streams: Sequence[str] | None) -> list[str]:
    """Give the streams with modules of their own that are to be quantized, and refuse what cannot be."""
    for stream in streams or ():
        if stream not in model.spec.streams:
            raise UnknownName(f"The model has no stream {stream!r}; its streams are {', '.join(model.spec.streams)}.")
    if streams is not None and (isinstance(streams, str) or not streams):
        raise ConfigError(f"streams must be a list of names, one or more, got {streams!r}.")
    if model.adapters:
        raise ConfigError("The model has adapters, which add to its layers in float; merge them first.")
    asked = model.spec.streams if streams is None else streams
    found = list(dict.fromkeys(model.spec.owner(stream) for stream in asked))
    for stream in found:
        spec = model.backbones[stream].spec
        first, *others = spec.inputs
        if spec.modality != "image" or first.kind != "image" or others:
            raise ConfigError(
                f"{spec.reference} looks at {spec.modality}; quantization is for backbones of pictures alone. "
                "Name the others with streams=…, if there are any."
            )
    if {one.dtype for one in model.parameters()} - {torch.float32}:
        raise ConfigError("A model is quantized from float32; turn it into that first, with model.float().")
    return found


def _again(backbone: Backbone, known: Quantized, observer: str) -> tuple[Quantized, tuple[str, ...]]:
    """Keep the places of a backbone that rounds already."""
    every = [path for path, layer in backbone.native.named_modules() if takes(layer)]
    return replace(known, observer=observer), tuple(path for path in every if path not in known.layers)


def _batches(model: Model, data: Any, most: int) -> Iterator[Any]:
    """Give what the model takes of training rows, evenly spread, batch by batch."""
    if hasattr(data, "batches") and not isinstance(data, Table):
        return iter(data.batches(most=most))
    return (batch["inputs"] for batch in look_at(model, data, most=most, size=BATCH))


def _with(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _describe(model: Model, made: dict[str, Quantized]) -> None:
    """Write into the specs where the backbones round."""
    specs: dict[str, BackboneSpec] = {}
    for stream, how in made.items():
        backbone = model.backbones[stream]
        backbone.spec = specs[stream] = replace(backbone.spec, quantized=how)
    streams = {}
    for name, entry in model.spec.streams.items():
        own = made.get(model.spec.owner(name))
        streams[name] = entry if own is None else replace(entry, backbone=replace(entry.backbone, quantized=own))
    model.spec = replace(model.spec, streams=streams)


def _agreement(model: Model, batches: Iterator[Any], before: list[dict[str, Tensor]]) -> float | None:
    """Give the share of rows in which all tasks with classes name the class that they named in float."""
    names = [name for name, task in model.tasks().items() if task.spec.type == "classifier"]
    if not names:
        return None
    alike: list[Tensor] = []
    place = next(model.parameters()).device
    with torch.no_grad():
        for float_outputs, batch in zip(before, batches, strict=False):
            now = model(placed(batch, place))
            same = [now[name].cpu().argmax(1) == float_outputs[name].argmax(1) for name in names]
            alike.append(torch.stack(same).all(0))
    return float(torch.cat(alike).float().mean())

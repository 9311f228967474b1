"""Assembly: from references and heads, or from a whole spec, to a model. There is no second way to make one."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.catalog import list_backbones, resolve
from zoo.contracts.backbone import Backbone, check_want
from zoo.contracts.drawing import draw_once
from zoo.contracts.head import Head, HeadContext, Needs
from zoo.contracts.initialising import are_skipped
from zoo.contracts.rounding import bring
from zoo.contracts.weights import copy_weights, fit_weights, read_weights
from zoo.contracts.widths import as_narrow
from zoo.errors import CapabilityError, ConfigError, nearest
from zoo.model import Model
from zoo.reference import Reference
from zoo.registry import registry
from zoo.spec import BackboneSpec, HeadSpec, ModelSpec, StreamSpec, Want
from zoo.spec_cache import spec_of
from zoo.wrapping import WRAPPED, WrappedBackbone

__all__ = ["assemble", "build", "head", "plan_model"]

log = logging.getLogger("zoo")

MAIN = "main"
"""Name of the only stream, where the user gave none."""

NOTHING = Want(pooled=False)

HeadLike = HeadSpec | str | Mapping[str, Any]
BackboneLike = str | Reference | Backbone | Mapping[str, str | Reference | Backbone]


def head(type: str, *, name: str | None = None, **config: Any) -> HeadSpec:
    """Describe a head; the same as a dict with ``type``, ``name`` and the settings, or its type's name alone.

    Args:
        type: Name under which a plugin registers it, such as ``classifier``.
        name: Name of its output and, unless ``target`` is set, of its label column; the type by default.
        config: Its settings.

    Raises:
        UnknownName: If there is no such head type, or it has no such setting.
        ConfigError: If a setting's value cannot be used.

    Example:
        >>> head("classifier", name="species", classes=["cat", "dog"]).flat()
        {'type': 'classifier', 'name': 'species', 'classes': ['cat', 'dog']}
    """
    from zoo.contracts.settings import plain

    spec = HeadSpec(type=type, name=name or type, config=plain(config))
    registry().head_class(type).read_config(spec)
    return spec


def build(
    backbone: BackboneLike,
    heads: Sequence[HeadLike] | HeadLike = (),
    *,
    inputs: str | Mapping[str, str] | None = None,
    share: Mapping[str, str] | None = None,
    weights: str | Path | Model | None = "pretrained",
    dtype: str | torch.dtype | None = None,
    seed: int | None = None,
) -> Model:
    """Build a model: resolve the backbones, check the heads against them, then load the weights.

    Args:
        backbone: A reference such as ``timm:mobilenetv3``, or what :func:`zoo.wrap` gave; or stream name to
            one of them. What was wrapped is taken as it is, not copied.
        heads: The heads, each as :func:`head` gives it, a dict, or a type's name; none for a bare feature extractor.
        inputs: What feeds the streams: the name of one input that all of them see, each prepared in its own way, or
            stream name to input name. By default each stream has an input of its own name, and the only stream one
            named after what it takes, such as ``image``.
        share: New stream to the stream whose module it runs too, on an input of its own: a siamese network, whose one
            module is trained, frozen and stored once.
        weights: ``"pretrained"``; None for random weights; the path of a safetensors file with the library's own keys,
            for a model with one backbone; or a model with the same backbones, whose weights are copied, such as one
            that learned without labels.
        dtype: Floating type of all parameters, ``float32``, ``bfloat16``, ``float16`` or ``float64``; None for the one
            that they are built with, float32. Inputs are converted.
        seed: Seed of all random weights, the heads' among them; None to draw from torch's global generator. The
            global generator is left as it was if a seed is given.

    Returns:
        The model, in eval mode.

    Raises:
        InvalidReference: If a reference does not follow the grammar.
        UnknownName: If a provider, backbone, option, head type or setting is not known.
        CapabilityError: If a head needs what its backbone does not give.
        ConfigError: If a setting cannot be used.
        WeightsError: If the weights cannot be had or do not fit.
    """
    floating = None if dtype is None else _floating(dtype)
    given = _wrapped(backbone, weights)
    source = weights if isinstance(weights, Model) else None
    weights = None if isinstance(weights, Model) else weights
    spec = _with_origin(plan_model(backbone, heads, inputs=inputs, share=share), weights, source)
    with nullcontext() if seed is None else torch.random.fork_rng():
        given |= {} if source is None else _copies(spec, source)
        model = assemble(spec, weights=weights, seed=seed, given=given)
    return model if floating is None else model.to(dtype=floating)


def _floating(dtype: str | torch.dtype) -> torch.dtype:
    """Read the name of a floating type.

    Raises:
        ConfigError: If it is none.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ConfigError(f"dtype must be one of {', '.join(known)}, got {name!r}.")
    return known[name]


def plan_model(
    backbone: BackboneLike,
    heads: Sequence[HeadLike] | HeadLike = (),
    *,
    inputs: str | Mapping[str, str] | None = None,
    share: Mapping[str, str] | None = None,
) -> ModelSpec:
    """Make the spec that :func:`build` would build, without loading weights; the arguments are the same."""
    specs = {
        stream: asked.spec if isinstance(asked, Backbone) else _look_up(asked)
        for stream, asked in _named(backbone).items()
    }
    owners = dict(share or {})
    for stream, owner in owners.items():
        if owner not in specs or stream in specs:
            raise ConfigError(
                f"share must give a new stream and the one whose module it runs, got {stream!r}: {owner!r}; the "
                f"streams are {', '.join(specs)}."
            )
    backbones = {**specs, **{stream: specs[owner] for stream, owner in owners.items()}}
    fed = _inputs(backbones, inputs)
    streams = {
        stream: StreamSpec(backbone=spec, input=fed[stream], shares=owners.get(stream))
        for stream, spec in backbones.items()
    }
    listed = heads if isinstance(heads, Iterable) and not isinstance(heads, (str, Mapping)) else [heads]
    return _with_needs(ModelSpec(streams=streams, heads=tuple(HeadSpec.of(one) for one in listed)))


def _inputs(backbones: Mapping[str, BackboneSpec], inputs: str | Mapping[str, str] | None) -> dict[str, str]:
    """Name the input of each stream.

    Raises:
        ConfigError: If one is named for no stream, or one input would have to be of two kinds.
    """
    if isinstance(inputs, str):
        inputs = dict.fromkeys(backbones, inputs)
    for stream in inputs or {}:
        if stream not in backbones:
            near = ", ".join(nearest(stream, backbones) or backbones)
            raise ConfigError(f"inputs names the input of {stream!r}, and the streams are {near}.")
    alone = next(iter(backbones.values())).modality if len(backbones) == 1 else None
    named = {stream: (inputs or {}).get(stream, alone or stream) for stream in backbones}
    kinds: dict[str, str] = {}
    for stream, name in named.items():
        modality = backbones[stream].modality
        if kinds.setdefault(name, modality) != modality:
            raise ConfigError(
                f"The input {name!r} cannot be {kinds[name]} for one stream and {modality} for {stream!r}; "
                "give each an input of its own."
            )
    return named


def _named(backbone: BackboneLike) -> dict[str, str | Reference | Backbone]:
    """Give the streams by name.

    Raises:
        ConfigError: If one is a backbone that a provider built, or none of what a backbone may be.
    """
    named = dict(backbone) if isinstance(backbone, Mapping) else {MAIN: backbone}
    for given in named.values():
        if not isinstance(given, (str, Reference, Backbone)):
            hint = "(module, inputs=…)" if isinstance(given, nn.Module) else ", or a dict of them by stream"
            raise ConfigError(f"A backbone must be a reference or come of zoo.wrap{hint}, got {type(given).__name__}.")
        if isinstance(given, Backbone) and not isinstance(given, WrappedBackbone):
            raise ConfigError(
                f"A backbone must be a reference or come of zoo.wrap; give {given.spec.reference!r} itself."
            )
    return named


def _look_up(asked: str | Reference) -> BackboneSpec:
    found = resolve(asked)
    if found.how not in ("exact", "as given"):
        log.info("%s", found)
    return spec_of(found)


def _wrapped(backbone: BackboneLike, weights: str | Path | Model | None) -> dict[str, Backbone]:
    """Give the streams whose module the user brought."""
    given = {stream: one for stream, one in _named(backbone).items() if isinstance(one, Backbone)}
    for one in given.values():
        if weights is None or isinstance(weights, Model):
            raise ConfigError(f"{one.spec.reference} comes with the weights that it has; leave weights out.")
    return given


def _with_origin(spec: ModelSpec, weights: str | Path | None, source: Model | None = None) -> ModelSpec:
    """Let the spec say where the weights really come from: random ones have neither source nor licence."""
    if weights == "pretrained":
        return spec
    origin = None if weights is None else Path(weights).name
    streams = {}
    for name, entry in spec.streams.items():
        begun = None if source is None else _counterpart(source, name, spec).spec
        weights_of, license_of = (origin, None) if begun is None else (begun.weights, begun.license)
        asked = entry.backbone if begun is None else as_narrow(entry.backbone, begun)
        streams[name] = replace(entry, backbone=replace(asked, weights=weights_of, license=license_of))
    return replace(spec, streams=streams)


def _counterpart(source: Model, stream: str, spec: ModelSpec) -> Backbone:
    """Find the backbone of another model whose weights a stream is to have: that of its name, or the only one.

    Raises:
        ConfigError: If there is none.
    """
    owners = {spec.owner(name) for name in spec.streams}
    only = next(iter(source.backbones)) if len(source.backbones) == len(owners) == 1 else None
    name = spec.owner(stream) if spec.owner(stream) in source.backbones else only
    if name is None:
        raise ConfigError(f"The model given as weights has no stream {stream!r}, but {', '.join(source.backbones)}.")
    return source.backbones[name]


def _copies(spec: ModelSpec, source: Model) -> dict[str, Backbone]:
    """Build the backbones with the weights of another model's."""
    made = {}
    for stream in dict.fromkeys(spec.owner(name) for name in spec.streams):
        asked, found = spec.streams[stream].backbone, _counterpart(source, stream, spec)
        made[stream] = registry().provider(asked.provider).build(asked, weights=None)
        bring(made[stream], asked)
        copy_weights(made[stream], found, where=f"the model given as weights, whose backbone is {found.spec.reference}")
    return made


def assemble(
    spec: ModelSpec,
    *,
    weights: str | Path | None,
    seed: int | None = None,
    given: Mapping[str, Backbone] | None = None,
) -> Model:
    """Build a model from its whole spec; with ``weights=None`` this needs no network.

    Args:
        spec: The model as data.
        weights: As for :func:`build`.
        seed: Seed of random weights, set in torch's global generator before each head and each backbone, so that what
            one starts with does not depend on the others.
        given: Stream to backbone, for those that are there already: modules of the user's own code, or of another
            model.

    Raises:
        UnknownName: If a provider or head type is not installed.
        CapabilityError: If a head needs what its backbone does not give.
        ConfigError: If a setting cannot be used.
        WeightsError: If the weights cannot be had or do not fit.
    """
    context = context_of(spec)
    wants = _wants(spec, context)
    heads = {}
    for one in spec.heads:
        _sow(seed, f"heads.{one.name}")
        heads[one.name] = context.build(one)
    tasks = [name for built in heads.values() for name in built.tasks()]
    for name in tasks:
        if tasks.count(name) > 1:
            raise ConfigError(f"Two tasks are called {name!r}; give each its own name.")
    owners = {stream: entry for stream, entry in spec.streams.items() if entry.shares is None}
    if weights not in (None, "pretrained") and len(owners) > 1:
        raise ConfigError("A weights file serves one backbone; the model has several streams.")
    backbones: dict[str, Backbone] = {}
    for stream, entry in owners.items():
        _sow(seed, f"backbones.{stream}")
        if entry.backbone.provider == WRAPPED:
            backbones[stream] = _own_module(stream, entry.backbone, weights, given or {})
        elif stream in (given or {}):
            backbones[stream] = (given or {})[stream]
        else:
            provider = registry().provider(entry.backbone.provider)
            if entry.backbone.widths and weights is not None:
                raise ConfigError(
                    f"{entry.backbone.reference} is pruned, and its weights are in its bundle alone; load that, or "
                    "build it with weights=None."
                )
            with draw_once() if weights is None and not are_skipped() else nullcontext():
                backbones[stream] = provider.build(entry.backbone, weights=weights)
        bring(backbones[stream], entry.backbone)
    return Model(spec, backbones, heads, wants, _optional(spec, heads, context)).eval()


def _optional(spec: ModelSpec, heads: Mapping[str, Head], context: HeadContext) -> frozenset[str]:
    """Name the streams whose input a sample may lack: all heads that read them say so, and there is one."""
    readers = {stream: [h for h in heads.values() if stream in context.needs(h.spec)] for stream in spec.streams}
    return frozenset(s for s, found in readers.items() if found and all(s in head.may_miss() for head in found))


def _own_module(
    stream: str, spec: BackboneSpec, weights: str | Path | None, wrapped: Mapping[str, Backbone]
) -> Backbone:
    """Give the user's own backbone, with the weights of a file if there is one."""
    if stream not in wrapped:
        raise ConfigError(
            f"{spec.reference} is no library's: wrap its module, a {spec.construction.get('code')}, with zoo.wrap and "
            "give that in place of the reference."
        )
    if weights is not None and weights != "pretrained":
        fit_weights(wrapped[stream].native, read_weights(weights), where=str(weights))
    return wrapped[stream]


def _sow(seed: int | None, part: str) -> None:
    """Seed torch for one part of a model."""
    if seed is not None:
        torch.manual_seed(seed + zlib.crc32(part.encode()))


def context_of(spec: ModelSpec) -> HeadContext:
    """Give what the heads of a model may know of it."""
    return HeadContext({name: entry.backbone for name, entry in spec.streams.items()}, registry().head_class)


def _with_needs(spec: ModelSpec) -> ModelSpec:
    """Turn the heads' needs into what each backbone must keep; one that no head reads is kept whole."""
    needs = _needs(spec, context_of(spec))
    return replace(spec, streams={name: replace(s, keep=needs.get(name)) for name, s in spec.streams.items()})


def _needs(spec: ModelSpec, context: HeadContext) -> dict[str, Want]:
    """Say what the heads read of each stream that they read, and of those that share its module."""
    wants: dict[str, Want] = {}
    for one in spec.heads:
        for stream, needs in context.needs(one).items():
            owner = spec.owner(stream)
            wants[owner] = wants.get(owner, Want(pooled=False)) | _want(one, needs, spec.streams[stream].backbone)
    return {name: wants[owner] for name in spec.streams if wants.get(owner := spec.owner(name)) not in (None, NOTHING)}


def _wants(spec: ModelSpec, context: HeadContext) -> dict[str, Want]:
    """Say what each backbone must give; a stream that no head reads gives its pooled vector, and its projected one.

    Raises:
        ConfigError: If the spec cuts off what a head reads.
    """
    needs = _needs(spec, context)
    for stream, entry in spec.streams.items():
        if entry.keep is None:
            continue
        check_want(entry.backbone, entry.keep)
        if not needs.get(stream, entry.keep) <= entry.keep:
            raise ConfigError(f"The stream {stream!r} keeps {entry.keep}, but its heads need {needs[stream]}.")
    return {stream: needs.get(stream) or entry.keep or _whole(entry) for stream, entry in spec.streams.items()}


def _whole(stream: StreamSpec) -> Want:
    return Want(embed="embed" in stream.backbone.capabilities)


def _want(one: HeadSpec, needs: Needs, spec: BackboneSpec) -> Want:
    for capability in ("pooled", "tokens", "embed"):
        if getattr(needs, capability) and capability not in spec.capabilities:
            raise _lacks(one, spec, capability, capability)
    maps = []
    for reduction in needs.reductions:
        at = [stage.name for stage in spec.maps if stage.reduction == reduction]
        if not at:
            raise _lacks(one, spec, f"maps@{reduction}", "maps")
        maps.append(at[-1])
    return Want(pooled=needs.pooled, tokens=needs.tokens, maps=tuple(maps), embed=needs.embed)


def _lacks(one: HeadSpec, spec: BackboneSpec, missing: str, capability: str) -> CapabilityError:
    have = ", ".join([*spec.capabilities, *(f"maps@{stage.reduction:g}" for stage in spec.maps)])
    easy = list_backbones(needs=capability, modality=spec.modality, pretrained=True, max_params=5e7)
    known = easy or list_backbones(needs=capability, modality=spec.modality, sort="parameters")
    others = [found.reference for found in known if found.entry.name != spec.architecture][:3]
    hint = f" Backbones that give it: {', '.join(others)}." if others else ""
    return CapabilityError(f"The head {one.name!r} ({one.type}) needs {missing}; {spec.reference} gives {have}.{hint}")

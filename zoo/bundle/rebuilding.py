"""From a spec and tensors to the model, strictly: the same assembly as ``zoo.build``, without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters.peft_form import PREFIX
from zoo.adapters.spec import AdapterSpec
from zoo.assembly import assemble
from zoo.bundle.adapters import adapter_parts, adapter_states, pour_adapters
from zoo.bundle.paths import NATIVE, OWN
from zoo.bundle.tensors import TensorSet, with_layout
from zoo.contracts.backbone import Backbone
from zoo.contracts.hub import no_hub
from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.weights import fit_weights
from zoo.errors import BundleError, PluginError, ZooError
from zoo.model import Model
from zoo.spec import ModelSpec
from zoo.wrapping import WRAPPED, rewrap

__all__ = ["Own", "fit", "rebuild", "states_of"]

Own = nn.Module | Callable[[], nn.Module]
"""A module from the user's own code, or what makes one."""

_INNER = "native."
_ELSEWHERE = (_INNER, "adapters.")
"""What begins the names of a backbone's tensors that are in files of their own."""


def states_of(model: Model) -> dict[str, Mapping[str, Tensor]]:
    """Give a model's tensors as a bundle keeps them: file to state dict; streams, heads, then adapters.

    Raises:
        BundleError: If the model has tensors outside its backbones and heads.
    """
    states: dict[str, Mapping[str, Tensor]] = {}
    for stream, backbone in model.backbones.items():
        whole: Mapping[str, Tensor] = backbone.state_dict()
        inner = {key.removeprefix(_INNER): tensor for key, tensor in whole.items() if key.startswith(_INNER)}
        states[f"backbones/{stream}/{NATIVE}"] = inner
        if own := {key: tensor for key, tensor in whole.items() if not key.startswith(_ELSEWHERE)}:
            states[f"backbones/{stream}/{OWN}"] = own
    for name, head in model.heads.items():
        states[f"heads/{name}/{NATIVE}"] = head.state_dict()
    states |= adapter_states(model)
    if (key := _elsewhere(model)) is not None:
        raise BundleError(f"A bundle keeps the tensors of backbones and heads; the model also has {key!r}.")
    return states


def _elsewhere(model: Model) -> str | None:
    """Name a tensor that is in no backbone and no head; None if there is none."""
    found: dict[str, Any] = {}
    model._save_to_state_dict(found, "", True)
    for name, child in model.named_children():
        if name not in ("backbones", "heads"):
            child.state_dict(destination=found, prefix=f"{name}.")
    return next(iter(found), None)


def rebuild(
    spec: ModelSpec,
    tensors: TensorSet,
    *,
    texts: Mapping[str, bytes],
    where: str,
    device: torch.device | None = None,
    modules: Mapping[str, Own] | None = None,
    taken: Mapping[str, Backbone] | None = None,
    adapters: Sequence[AdapterSpec] = (),
) -> Model:
    """Assemble a model and pour its tensors in; the state of the random number generators is kept.

    Args:
        spec: The model as data.
        tensors: All its tensors.
        texts: Path to content of the bundle's other files; each backbone takes back those of its folder.
        where: Where they come from, for the message.
        device: Where the model is to be; None for the CPU.
        modules: Stream to module, or to what makes one, for streams whose module no provider builds.
        taken: Stream to backbone that is whole already; no tensors are poured into it.
        adapters: The adapters that are on its backbones.

    Returns:
        The model, in eval mode, nothing frozen.

    Raises:
        BundleError: If it cannot be built, or the tensors do not fit it exactly.
        PluginError: If a plugin that it needs is broken.
    """
    try:
        with torch.random.fork_rng(devices=[]), _on_cpu(), skip_initialisers(), no_hub():
            given = dict(taken or {})
            model = assemble(spec, weights=None, given=given | _wrapped(spec, modules or {}, where, given))
        _pour(model, tensors, given, adapters)
        for stream, backbone in model.backbones.items():
            if stream in given:
                continue
            folder = f"backbones/{stream}/"
            with no_hub():
                backbone.take_files({k.removeprefix(folder): v for k, v in texts.items() if k.startswith(folder)})
        if adapters:
            with torch.random.fork_rng(devices=[]), _on_cpu(), skip_initialisers():
                pour_adapters(model, adapters, tensors, where)
        for layout, names in tensors.memory_formats.items():
            for name in names:
                tensor = _find(model, name)
                tensor.data = with_layout(tensor.data, layout)
        if device is not None and device.type != "cpu":
            model = model.to(device)
        for first, *others in tensors.tied:
            for other in others:
                _tie(model, first, other)
    except (BundleError, PluginError):
        raise
    except ZooError as error:
        raise BundleError(f"The model in {where} cannot be rebuilt: {error}") from error
    except Exception as error:  # what a provider raises over a spec that is not its own has no common type
        raise BundleError(f"The model in {where} cannot be rebuilt: {type(error).__name__}: {error}.") from error
    return model


def _on_cpu() -> AbstractContextManager[object]:
    """Give what makes new tensors on the CPU; nothing where they are, since it asks torch at each operation."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def _wrapped(
    spec: ModelSpec, modules: Mapping[str, Own], where: str, taken: Mapping[str, Backbone]
) -> dict[str, Backbone]:
    """Put the user's modules behind their specs; no code is looked up by a name in the bundle.

    Raises:
        BundleError: If one is missing, is not needed, or is no module.
    """
    wrapped = {
        name: entry for name, entry in spec.streams.items() if entry.backbone.provider == WRAPPED and name not in taken
    }
    needed = {name: entry.backbone for name, entry in wrapped.items() if entry.shares is None}
    for stream in modules:
        if stream not in needed:
            known = ", ".join(needed) or "none"
            raise BundleError(f"{where} takes no module for the stream {stream!r}; those that it takes: {known}.")
    found: dict[str, Backbone] = {}
    for stream, backbone in needed.items():
        if stream not in modules:
            code = str(backbone.construction.get("code"))[:200]
            raise BundleError(
                f"{where} needs code: the module of the stream {stream!r} is a {code!r}, which no plugin builds. Make "
                f"one and pass it: zoo.load({where!r}, modules={{{stream!r}: {code.rpartition('.')[2]}(…)}})."
            )
        given = modules[stream]
        module = given if isinstance(given, nn.Module) else given()
        if not isinstance(module, nn.Module):
            raise BundleError(f"modules[{stream!r}] must be or make a torch module, got {type(module).__name__}.")
        found[stream] = rewrap(backbone, module)
    return found


def ordered(spec: ModelSpec, streams: Sequence[str]) -> ModelSpec:
    """Put the streams of a spec in order; a manifest's keys are sorted."""
    return replace(spec, streams={stream: spec.streams[stream] for stream in streams})


def _pour(model: Model, tensors: TensorSet, taken: Mapping[str, Backbone], adapters: Sequence[AdapterSpec]) -> None:
    expected = {f"backbones/{stream}" for stream in model.backbones} | {f"heads/{name}" for name in model.heads}
    expected |= {f"adapters/{adapter.name}" for adapter in adapters}
    for file in tensors.files:
        if file.rpartition("/")[0] not in expected:
            raise BundleError(f"The tensors of {file} belong to no part of the model.")
    for stream, backbone in model.backbones.items():
        if stream in taken:
            continue
        native = tensors.of(f"backbones/{stream}/{NATIVE}")
        given = {_INNER + key: tensor for key, tensor in native.items()}
        fit(backbone, {**given, **tensors.of(f"backbones/{stream}/{OWN}")}, f"backbones/{stream}")
    for name, head in model.heads.items():
        fit(head, tensors.of(f"heads/{name}/{NATIVE}"), f"heads/{name}")


def fit(module: nn.Module, given: Mapping[str, Tensor], where: str) -> None:
    """Pour tensors into a module, which takes over their floating dtypes, and nothing else of them."""
    floating = {tensor.dtype for tensor in given.values() if tensor.is_floating_point()}
    if len(floating) == 1 and floating != {torch.float32}:
        module.to(dtype=floating.pop())  # as .half() did, buffers that are not saved too
    state = module.state_dict(keep_vars=True)
    for key, own in state.items():
        tensor = given.get(key)
        if tensor is None or tensor.dtype == own.dtype:
            continue
        if own.is_floating_point() and tensor.is_floating_point():
            own.data = own.data.to(tensor.dtype)
    fit_weights(module, given, where=where, state=state)


def _owner(model: Model, name: str) -> tuple[nn.Module, str]:
    """Find the module that has a tensor, and its name there."""
    file, _, key = name.partition(":")
    folder, part, kind = file.split("/")
    if folder == "adapters":
        root, key = adapter_parts(model, part), key.removeprefix(PREFIX)
    else:
        root = (model.backbones if folder == "backbones" else model.heads)[part]
    if folder == "backbones" and kind == NATIVE:
        root = root.get_submodule("native")
    path, _, leaf = key.rpartition(".")
    return root.get_submodule(path), leaf


def _find(model: Model, name: str) -> Tensor:
    owner, leaf = _owner(model, name)
    tensor = owner._parameters.get(leaf)
    found = owner._buffers[leaf] if tensor is None else tensor
    if found is None:
        raise BundleError(f"The model has no tensor {name!r}.")
    return found


def _tie(model: Model, first: str, other: str) -> None:
    """Make the second name stand for the very tensor of the first."""
    source = _find(model, first)
    owner, leaf = _owner(model, other)
    own = _find(model, other)
    if isinstance(own, nn.Parameter) != isinstance(source, nn.Parameter):
        own.data = source.data  # a parameter and a buffer can share memory only
    elif isinstance(source, nn.Parameter):
        owner._parameters[leaf] = source
    else:
        owner._buffers[leaf] = source

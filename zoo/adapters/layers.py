"""An adapter on a backbone: PEFT's own layers, which run in the place of the library's and hold them.

The library's module keeps its tree, its keys and its classes. A layer that is adapted answers through PEFT's layer,
which runs the same weights and adds its own; only that is new. So digests, stages, freezing, bundles and taps see the
backbone as it was, and taking the adapter off leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters.peft_form import import_peft, make_config
from zoo.adapters.spec import AdapterSpec
from zoo.adapters.targets import why_not
from zoo.contracts.backbone import Backbone
from zoo.errors import ConfigError

__all__ = [
    "Adapter",
    "add_adapter",
    "adapter_of",
    "merged_weights",
    "remove_adapter",
    "shapes_of",
    "take_weights",
]

_HOOKS = frozenset(vars(nn.Module())) - {
    "training",
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
}


class Adapter(nn.Module):
    """The tensors of an adapter, named as in PEFT's file, and its dropout; it is at ``backbone.adapters``.

    Args:
        spec: The adapter as data.
        layers: Path of a layer in the library's module to PEFT's layer for it.
    """

    def __init__(self, spec: AdapterSpec, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        self.parts = nn.Module()
        for path, layer in layers.items():
            node: nn.Module = self.parts
            for part in path.split("."):
                node = node._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
            held: Any = layer
            for kind in ("lora_A", "lora_B", "lora_dropout"):
                node._modules[kind] = getattr(held, kind)[spec.name]

    def named_parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name what stands beside each adapted layer, by the layer's path."""
        for path in self.spec.targets:
            yield path, self.parts.get_submodule(path)

    def has_learnt(self) -> bool:
        """Say whether it adds anything: whether any ``B`` is not 0."""
        return any(bool(p.any()) for name, p in self.parts.named_parameters() if ".lora_B." in name)


def adapter_of(backbone: Backbone) -> Adapter | None:
    """Give the adapter of a backbone; it has one at the most."""
    found = next(iter(backbone.adapters.values()), None)
    return found if isinstance(found, Adapter) else None


def shapes_of(backbone: Backbone, spec: AdapterSpec) -> dict[str, tuple[int, ...]]:
    """Give the shapes of an adapter's tensors, by their names in PEFT's file but for its prefix.

    Raises:
        ConfigError: If a target is no layer of the backbone, or cannot be adapted.
    """
    modules = dict(backbone.native.named_modules())
    shapes: dict[str, tuple[int, ...]] = {}
    for path in spec.targets:
        if path not in modules:
            raise ConfigError(f"The adapter {spec.name!r} is on {path!r}, which {spec.stream!r} does not have.")
        module: Any = modules[path]
        reason = why_not(module)
        if reason is not None:
            raise ConfigError(f"The adapter {spec.name!r} cannot be on {path!r}: it {reason}.")
        out, into, *kernel = module.weight.shape
        shapes[f"{path}.lora_A.weight"] = (spec.rank, into, *kernel)
        shapes[f"{path}.lora_B.weight"] = (out, spec.rank, *[1 for _ in kernel])
    return shapes


def add_adapter(backbone: Backbone, spec: AdapterSpec) -> Adapter:
    """Put an adapter on a backbone; what the backbone gives stays the same until the adapter is trained.

    ``A`` is drawn from torch's global generator, ``B`` is 0.

    Args:
        backbone: The backbone; it has none yet.
        spec: The adapter as data.

    Raises:
        ConfigError: If the backbone has an adapter, or a target cannot be adapted.
        PluginError: If PEFT is not installed.
    """
    peft = import_peft()
    if (there := adapter_of(backbone)) is not None:
        raise ConfigError(
            f"The stream {spec.stream!r} has the adapter {there.spec.name!r} already; call merge_adapters() or "
            "remove_adapters() first."
        )
    shapes_of(backbone, spec)
    modules = dict(backbone.native.named_modules())
    shell = _shell({path: modules[path] for path in spec.targets})
    learns = {id(p): p.requires_grad for p in backbone.parameters()}
    peft.inject_adapter_in_model(make_config(spec), shell, adapter_name=spec.name)
    for parameter in backbone.parameters():
        parameter.requires_grad_(learns[id(parameter)])
    layers = {path: shell.get_submodule(path) for path in spec.targets}
    adapter = Adapter(spec, layers)
    for path, layer in layers.items():
        modules[path].__dict__["forward"] = layer.forward
    adapter.train(backbone.training)
    backbone.adapters._modules[spec.name] = adapter
    return adapter


def remove_adapter(backbone: Backbone) -> None:
    """Take the adapter of a backbone off; the backbone is as it was without it."""
    adapter = adapter_of(backbone)
    if adapter is not None:
        for path in adapter.spec.targets:
            vars(backbone.native.get_submodule(path)).pop("forward", None)
        del backbone.adapters._modules[adapter.spec.name]


def merged_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Give the weights of the adapted layers with what the adapter of a backbone has learnt, by path.

    Raises:
        ConfigError: If one would not be finite.
    """
    adapter = adapter_of(backbone)
    merged: dict[str, Tensor] = {}
    for path in adapter.spec.targets if adapter is not None else ():
        layer: Any = _layer(backbone, path)
        name = next(iter(backbone.adapters))
        with torch.no_grad():
            weight = layer.get_base_layer().weight
            merged[path] = weight + layer.get_delta_weight(name).to(weight.dtype)
        if not bool(merged[path].isfinite().all()):
            raise ConfigError(f"The adapter {name!r} cannot be merged: {path}.weight would not be finite.")
    return merged


def take_weights(backbone: Backbone, merged: Mapping[str, Tensor]) -> None:
    """Take the adapter of a backbone off, and give the layers what :func:`merged_weights` gave for it."""
    remove_adapter(backbone)
    for path, tensor in merged.items():
        layer: Any = backbone.native.get_submodule(path)
        with torch.no_grad():
            layer.weight.copy_(tensor)


def _layer(backbone: Backbone, path: str) -> nn.Module:
    """Give PEFT's layer in the place of a layer."""
    forward: Any = vars(backbone.native.get_submodule(path))["forward"]
    layer: nn.Module = forward.__self__
    return layer


def _shell(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Make a tree of nothing but doubles of some layers, for PEFT to put its own around."""
    root = nn.Module()
    for path, layer in layers.items():
        *above, last = path.split(".")
        node: nn.Module = root
        for part in above:
            node = node._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        node._modules[last] = _double(layer)
    return root


def _double(layer: nn.Module) -> nn.Module:
    """Make a layer with the very tensors of another, also those that it is given later, and without its hooks.

    The hooks run where the layer is called; PEFT's layer calls the double.
    """
    double = type(layer).__new__(type(layer))
    own = {name: value for name, value in vars(layer).items() if name not in ("forward", "train")}
    fresh = vars(nn.Module())
    vars(double).update(own | {name: fresh[name] for name in _HOOKS})
    return double

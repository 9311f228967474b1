"""torchvision's own module, with its classifier replaced by the identity, for real or on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from zoo.errors import ConfigError
from zoo_torchvision.anatomy import Anatomy

__all__ = ["create"]

_MAKERS = (torch.empty, torch.zeros, torch.ones)


class _TensorsOnMeta(TorchFunctionMode):
    """Makes parameters and buffers on the meta device, while what a constructor computes with stays real.

    RegNet reads its widths back from tensors as it is built, which the meta device alone cannot give.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _MAKERS and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


class _MNASNet(torchvision.models.MNASNet):
    """A MNASNet that also loads tensors without a version beside them, as safetensors and bundles have them."""

    def _load_from_state_dict(self, tensors: Any, prefix: str, local_metadata: Mapping[str, Any], *rest: Any) -> None:
        super()._load_from_state_dict(tensors, prefix, {"version": self._version, **local_metadata}, *rest)


def create(who: str, anatomy: Anatomy, construction: Mapping[str, Any], *, meta: bool = False) -> nn.Module:
    """Build the module with random weights and take away what does not belong to the backbone.

    Args:
        who: The reference, for messages.
        anatomy: The family's row.
        construction: ``architecture``, ``tag``, ``in_channels``, the builder's ``arguments`` and ``drop_path``, as
            :func:`zoo_torchvision.options.read_options` gives them.
        meta: Whether to build shapes only; also taken from an enclosing ``torch.device("meta")``.

    Raises:
        ConfigError: If torchvision cannot build it with these arguments.
    """
    arguments = dict(construction["arguments"])
    try:
        if meta or torch.get_default_device().type == "meta":
            with torch.device("cpu"), _TensorsOnMeta():
                whole = _whole(anatomy, construction["architecture"], arguments)
            whole.to("meta")
        else:
            whole = _whole(anatomy, construction["architecture"], arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{who}: torchvision cannot build it with {arguments}: {reason}.") from error
    native = whole.get_submodule(anatomy.inside)
    if isinstance(native, torchvision.models.MNASNet):
        native.__class__ = _MNASNet
    for path in anatomy.dropped:
        parent, _, name = path.rpartition(".")
        delattr(native.get_submodule(parent), name)
    for path in (anatomy.classifier, *anatomy.inert) if anatomy.classifier else ():
        native.set_submodule(path, nn.Identity())
    if construction["in_channels"] != 3:
        native.set_submodule(anatomy.conv, _like(native.get_submodule(anatomy.conv), construction["in_channels"]))
    if (epsilon := anatomy.frozen_norm.get(construction["tag"])) is not None:
        _freeze_norms(native, epsilon)
    if construction.get("drop_path") is not None:
        _scale_depth(native, construction["drop_path"])
    if anatomy.tokens is not None:
        _keep_inputs(native)
    return native


def _whole(anatomy: Anatomy, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    body: dict[str, None] = {"weights_backbone": None} if anatomy.inside else {}
    last: dict[str, int] = {"num_classes": 1} if anatomy.classifier else {}  # that layer is taken away
    whole: nn.Module = torchvision.models.get_model(architecture, weights=None, **{**body, **last, **arguments})
    return whole


def _like(conv: Any, in_channels: int) -> nn.Module:
    """Make a convolution of the same kind for another number of channels."""
    kind = nn.Conv3d if isinstance(conv, nn.Conv3d) else nn.Conv2d
    return kind(
        in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )


def _freeze_norms(native: nn.Module, epsilon: float) -> None:
    """Put frozen batch norms in the place of the others, as the library does where it loads a detector's weights."""
    for path, module in list(native.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, eps=epsilon)
            native.set_submodule(path, frozen.to(module.weight.device))


def _scale_depth(native: nn.Module, rate: float) -> None:
    """Set the rate of stochastic depth, which grows linearly from the first block to the last in every family."""
    depths = [module for module in native.modules() if isinstance(module, StochasticDepth)]
    highest = max(module.p for module in depths)
    for module in depths:
        module.p = module.p / highest * rate


def _keep_inputs(native: nn.Module) -> None:
    """Let dropout write beside its input: in place it would change the tokens that were taken before it."""
    for module in native.modules():
        if isinstance(module, nn.Dropout):
            module.inplace = False

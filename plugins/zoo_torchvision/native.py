"""torchvision's own module, with its classifier replaced by the identity, for real or on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError
from zoo_torchvision.anatomy import Anatomy

__all__ = ["create", "widened"]

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


def create(
    who: str,
    architecture: str,
    anatomy: Anatomy,
    arguments: Mapping[str, Any],
    *,
    in_channels: int = 3,
    meta: bool = False,
) -> nn.Module:
    """Build the module with random weights and take its classifier away.

    Args:
        who: The reference, for messages.
        architecture: torchvision's name.
        anatomy: Its family's row.
        arguments: Keywords of the builder.
        in_channels: Channels of the picture; for other than 3 the first convolution is made anew.
        meta: Whether to build shapes only; also taken from an enclosing ``torch.device("meta")``.

    Raises:
        ConfigError: If torchvision cannot build it with these arguments.
    """
    try:
        if meta or torch.get_default_device().type == "meta":
            with torch.device("cpu"), _TensorsOnMeta():
                native = torchvision.models.get_model(architecture, **arguments)
            native.to("meta")
        else:
            native = torchvision.models.get_model(architecture, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{who}: torchvision cannot build it with {dict(arguments)}: {reason}.") from error
    if isinstance(native, torchvision.models.MNASNet):
        native.__class__ = _MNASNet
    for path in (anatomy.classifier, *anatomy.inert):
        native.set_submodule(path, nn.Identity())
    if in_channels != 3:
        native.set_submodule(anatomy.conv, _like(native.get_submodule(anatomy.conv), in_channels))
    return native


def _like(conv: Any, in_channels: int) -> nn.Conv2d:
    return nn.Conv2d(
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


def widened(kernel: Tensor, channels: int) -> Tensor:
    """Turn the kernel of an RGB convolution into one for another number of channels.

    Each channel gets the mean over red, green and blue, times ``3 / channels``, so that equal channels give the very
    response of a grey picture; for one channel that is the sum.

    Shape:
        - ``kernel``: ``(out, 3, kh, kw)``; returns: ``(out, channels, kh, kw)``.
    """
    return (kernel.sum(dim=1, keepdim=True) / channels).repeat(1, channels, 1, 1)

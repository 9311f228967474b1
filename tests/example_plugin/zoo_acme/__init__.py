"""zoo-acme: an example plugin. This module holds hooks only; what they name is imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import hookimpl

if TYPE_CHECKING:
    from zoo import Provider


@hookimpl
def zoo_provider() -> Provider:
    """Give the provider of the references that begin with ``acme:``."""
    from zoo_acme.provider import AcmeProvider

    return AcmeProvider()


@hookimpl
def zoo_heads() -> dict[str, str]:
    """Give the head types."""
    return {"temperature_classifier": "zoo_acme.temperature_classifier:TemperatureClassifier"}


@hookimpl
def zoo_methods() -> dict[str, str]:
    """Give the training methods."""
    return {"heads_then_all": "zoo_acme.heads_then_all:HeadsThenAll"}

"""How a method's setting says a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.augmentation import Augmentation
from zoo.errors import ConfigError
from zoo.strict import from_json, to_json

__all__ = ["read_view", "tell_view"]


def read_view(name: str, given: Any) -> Augmentation | None:
    """Read a view: None, the name of a preset, an ``Augmentation``, or a dict of its fields.

    Args:
        name: The setting's name.
        given: What the user gave.

    Returns:
        The view; None for one that varies nothing.

    Raises:
        UnknownName: If there is no such preset.
        ConfigError: If it is none of these, or a field cannot be used; the message names the setting.
    """
    try:
        read = from_json(Augmentation, dict(given)) if isinstance(given, Mapping) else Augmentation.of(given)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return None if read.idle else read


def tell_view(view: Augmentation | None) -> Any:
    """Give a view as JSON."""
    return None if view is None else to_json(view)

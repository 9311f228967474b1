"""Settings as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.spec import HeadSpec

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Turn tuples, mappings and nested specs into what JSON has.

    Raises:
        ConfigError: If something is not JSON.
    """
    if isinstance(value, HeadSpec):
        return value.flat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"a setting must be JSON, got {type(value).__name__}.")

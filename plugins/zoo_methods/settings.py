"""What several methods check of their settings."""

from __future__ import annotations

import math

from zoo.errors import ConfigError

__all__ = ["check_count", "check_number"]


def check_number(name: str, value: object, *, above: float = 0.0, below: float = math.inf) -> None:
    """Refuse what is no number between two others.

    Raises:
        ConfigError: If it is none; the message names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < below:
        must = f"a number above {above:g}" + (f" and below {below:g}" if below < math.inf else "")
        raise ConfigError(f"{name} must be {must}, got {value!r}.")


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` on.

    Raises:
        ConfigError: If it is none; the message names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more, got {value!r}.")

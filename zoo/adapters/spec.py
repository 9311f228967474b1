"""An adapter as data: where it stands, its rank, and by how much it counts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from zoo.errors import ConfigError

__all__ = ["MOST_RANK", "AdapterSpec", "scales_of"]

MOST_RANK = 4096
"""Highest rank; a bundle of a stranger may ask for no more."""
MOST_TARGETS = 10_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
_PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """A low-rank adapter on some layers of one backbone: each gives ``layer(x) + alpha / rank * B(A(dropout(x)))``.

    Args:
        name: Its name, of letters, digits, ``_`` and ``-``; no two adapters of a model have one name.
        stream: The stream whose backbone it is on.
        rank: Width of what is between ``A`` and ``B``, 1 to 4096.
        alpha: Numerator of the scale, above 0.
        dropout: Share of the inputs of ``A`` that is dropped in training, in ``[0, 1)``.
        targets: Paths of the adapted layers in the library's module, sorted.

    Raises:
        ConfigError: If a value is outside its range.
    """

    name: str
    stream: str
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check all values; a spec may come from a bundle of a stranger."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            told = repr(str(self.name)[:80])
            raise ConfigError(f"An adapter's name must be of letters, digits, '_' and '-', 64 at the most, got {told}.")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= MOST_RANK:
            raise ConfigError(f"rank must be a whole number from 1 to {MOST_RANK}, got {self.rank!r}.")
        scales_of(self.alpha, self.dropout)
        paths = self.targets
        usable = 0 < len(paths) <= MOST_TARGETS and all(len(path) <= 400 and _PATH.fullmatch(path) for path in paths)
        if not usable or list(paths) != sorted(set(paths)):
            raise ConfigError(f"The targets of the adapter {self.name!r} must be paths of layers, sorted, none twice.")


def scales_of(alpha: float, dropout: float) -> None:
    """Refuse an ``alpha`` or a ``dropout`` outside its range.

    Raises:
        ConfigError: If one is.
    """
    for what, value in (("alpha", alpha), ("dropout", dropout)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{what} must be a finite number, got {value!r}.")
    if not alpha > 0:
        raise ConfigError(f"alpha must be above 0, got {alpha!r}.")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout!r}.")

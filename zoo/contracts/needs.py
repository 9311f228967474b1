"""What a head asks of its streams."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a head asks of one stream.

    Args:
        pooled: Whether it reads the pooled vector.
        tokens: Whether it reads tokens.
        reductions: Reductions of the maps that it reads, such as ``(8, 16, 32)``.
        embed: Whether it reads the projected vector of a dual-tower model.
    """

    pooled: bool = False
    tokens: bool = False
    reductions: tuple[int, ...] = ()
    embed: bool = False

    def __or__(self, other: Needs) -> Needs:
        """Ask for what either asks."""
        return Needs(
            pooled=self.pooled or other.pooled,
            tokens=self.tokens or other.tokens,
            reductions=tuple(sorted({*self.reductions, *other.reductions})),
            embed=self.embed or other.embed,
        )

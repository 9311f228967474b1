"""Which columns of a source are a model's inputs, and which labels are pictures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.errors import ConfigError

__all__ = ["Wanted", "wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that hold inputs, and those of the labels that hold masks.

    Args:
        pictures: Input name to the column of its pictures; None for the one that a reader finds.
        texts: Input name to the column of its texts.
        masks: The label columns that hold masks.
    """

    pictures: Mapping[str, str | None]
    texts: Mapping[str, str]
    masks: tuple[str, ...] = ()

    @property
    def alone(self) -> str | None:
        """The picture column where the pictures are the only input; None if it is to be found."""
        return next(iter(self.pictures.values()), None)

    @property
    def several(self) -> bool:
        """Whether there is more than the one picture; then a row may lack an input."""
        return len(self.pictures) != 1 or bool(self.texts)


def wanted(
    image: str | None,
    inputs: Mapping[str, str] | None,
    texts: Mapping[str, str] | Sequence[str] | None,
    masks: tuple[str, ...] = (),
) -> Wanted:
    """Read the arguments of ``zoo.read``.

    Raises:
        ConfigError: If they do not go together.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts must be a list of columns, or input name to column, got {texts!r}.")
    named = dict(texts) if isinstance(texts, Mapping) else {name: name for name in texts or ()}
    if inputs is None and not named:
        return Wanted({"image": image}, {}, masks)
    if image is not None and inputs is not None:
        raise ConfigError(f"image={image!r} names the only picture column; put it among inputs, or leave inputs out.")
    pictures: Mapping[str, str | None] = inputs if inputs is not None else {"image": image} if image else {}
    twice = sorted(set(pictures) & set(named))
    if twice:
        raise ConfigError(f"The input {twice[0]!r} cannot be a picture and a text at once.")
    if not pictures and not named:
        raise ConfigError("inputs must name one input or more, got none.")
    return Wanted(pictures, named, masks)

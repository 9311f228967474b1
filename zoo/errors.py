"""Every error that zoo raises on purpose.

One family, so that a caller can catch ``ZooError`` and nothing else; each member is also the builtin that a reader
would expect, so that ``except LookupError`` and the like go on working.

    ZooError
    ├── InvalidReference (ValueError)   a reference that does not follow the grammar
    ├── UnknownName (LookupError)       a provider, backbone, head, method, option or column that does not exist
    ├── PluginError (ImportError)       a plugin that is missing, broken, or claims a name twice
    ├── ConfigError (ValueError)        a setting whose value cannot be used
    ├── CapabilityError (ValueError)    a head asks for features that its backbone does not have
    ├── ShapeError (ValueError)         a tensor or picture of the wrong rank, channels, size or dtype
    ├── WeightsError (OSError)          pretrained weights that cannot be had, or do not fit
    ├── DataError (ValueError)          a data set, picture or label that cannot be used
    ├── TrainingError (RuntimeError)    a run that cannot go on, since its loss is no number any more
    └── BundleError (ValueError)        a bundle that is missing, cut, edited, or too new

A message is one sentence or two: what must hold, what came, what to do.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "CapabilityError",
    "ConfigError",
    "DataError",
    "InvalidReference",
    "PluginError",
    "ShapeError",
    "TrainingError",
    "UnknownName",
    "WeightsError",
    "ZooError",
    "escape",
    "nearest",
]

_JOINERS = "\u200c\u200d"  # harmless, and needed to write some scripts


class ZooError(Exception):
    """The root of every error that zoo raises on purpose; texts of others in its message cannot steer a terminal."""

    def __str__(self) -> str:
        return escape(super().__str__(), keep="\n\t")


class InvalidReference(ZooError, ValueError):
    """Raised when a reference does not follow ``provider:name[.tag][@revision][#part][?option=value&…]``."""


class UnknownName(ZooError, LookupError):
    """Raised when a name is not known where it is looked up; the message lists the nearest valid ones."""


class PluginError(ZooError, ImportError):
    """Raised when a plugin is missing, fails to import, breaks its contract, or shares its name with another."""


class ConfigError(ZooError, ValueError):
    """Raised when a setting has a value that cannot be used."""


class CapabilityError(ZooError, ValueError):
    """Raised when a head needs features that its backbone does not give."""


class ShapeError(ZooError, ValueError):
    """Raised when an input has the wrong rank, channels, size or dtype."""


class WeightsError(ZooError, OSError):
    """Raised when pretrained weights cannot be had, or do not fit the architecture."""


class DataError(ZooError, ValueError):
    """Raised when a data set, a picture or a label cannot be used."""


class TrainingError(ZooError, RuntimeError):
    """Raised when a run cannot go on: its loss or gradient became NaN or infinite.

    Args:
        message: What happened.
        step: The optimizer step, counted from 1.
        samples: Names of the samples of its batch.
        checkpoint: The last checkpoint, whose state is good; None if there is none.
    """

    def __init__(
        self, message: str, *, step: int = 0, samples: Iterable[str] = (), checkpoint: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self.samples = tuple(samples)
        self.checkpoint = checkpoint


class BundleError(ZooError, ValueError):
    """Raised when a bundle is missing, cut, edited, from a newer version, or needs a plugin that is not there."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", " ").replace("\t", " ")


def escape(text: str, *, keep: str = "") -> str:
    r"""Write control, direction and other invisible characters as escapes.

    Args:
        text: What may come from a stranger.
        keep: Characters that stay as they are.

    Example:
        >>> print(escape("red\x1b[31m\n"))
        red\x1b[31m\n
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep else _visible(letter) for letter in text)


def _visible(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS
    return letter.encode("unicode_escape").decode("ascii") if hidden else letter


def nearest(name: str, known: Iterable[str], *, most: int = 8) -> list[str]:
    """Rank the known names by likeness to a misspelt one.

    Likeness is ``difflib``'s ratio after folding case and separators; names that contain what was typed come first.

    Args:
        name: What was typed.
        known: The valid names.
        most: How many to return at the most.

    Returns:
        The nearest names, best first; empty if nothing is near.

    Example:
        >>> nearest("resnet5O", ["resnet50", "vgg16", "resnet18"])
        ['resnet50', 'resnet18']
    """

    def fold(text: str) -> str:
        return text.casefold().translate({ord(c): None for c in "-_ ./"})

    typed = fold(name)
    folded: dict[str, list[str]] = {}
    for candidate in known:
        folded.setdefault(fold(candidate), []).append(candidate)
    inside = sorted((f for f in folded if len(typed) >= 3 and typed in f), key=lambda f: (len(f), f))
    close = difflib.get_close_matches(typed, list(folded), n=most, cutoff=0.6)
    ranked = list(dict.fromkeys([*close[:1], *inside, *close[1:]]))
    return [candidate for f in ranked for candidate in sorted(folded[f])][:most]

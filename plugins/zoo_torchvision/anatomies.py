"""The table of torchvision's families; a new family is one entry.

Nothing in it is guessed from a shape; the tests compare every row with the library's own forward pass.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.bodies import BODIES
from zoo_torchvision.classifiers import CLASSIFIERS
from zoo_torchvision.videos import VIDEOS

__all__ = ["ANATOMIES", "anatomy_of"]

ANATOMIES: tuple[Anatomy, ...] = (*CLASSIFIERS, *BODIES, *VIDEOS)
"""Every family; the first row with a fitting pattern holds."""


def anatomy_of(architecture: str, tag: str | None = None) -> Anatomy | None:
    """Find the row of an architecture, or of one of its weights; None if no family of the table has it."""
    names = (f"{architecture}.{tag}", architecture) if tag else (architecture,)
    fitting = (row for row in ANATOMIES for name in names if any(fnmatchcase(name, one) for one in row.members))
    return next(fitting, None)

"""A run's folder: its checkpoints, the newest that is whole, and no more of them than are wanted."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from zoo.bundle.checkpoints import Checkpoint, read_checkpoint, read_training
from zoo.bundle.manifest import Training
from zoo.bundle.publishing import fsync_folder, new_name, remove, sweep
from zoo.errors import BundleError, ConfigError

__all__ = ["RunFolder"]

log = logging.getLogger("zoo")

_NAME = re.compile(r"checkpoint-(\d{8,12})")
_HIDDEN = re.compile(r"\.(checkpoint-\d{8,12})\.(?:tmp|trash)-.*")


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder; it is made when something is written.
        keep: How many checkpoints are kept, 1 or more.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep

    def place(self, step: int) -> Path:
        """Give the folder of the checkpoint at a step."""
        return self.path / f"checkpoint-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """List the checkpoints by step, whole or not."""
        found = {path: int(match[1]) for path in self._listing() if (match := _NAME.fullmatch(path.name))}
        return sorted(found, key=lambda path: found[path])

    def check_empty(self) -> None:
        """Refuse to begin a run where the checkpoints of another are, or no folder can be.

        Raises:
            ConfigError: If there are any, or there is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; checkpoint takes a folder, which need not be there yet.")
        if there := self.checkpoints():
            raise ConfigError(
                f"{self.path} holds checkpoints of a run, the newest {there[-1].name}; go on with it by resume=True "
                "(--resume), or give a new run another folder."
            )

    def check_there(self) -> None:
        """Refuse to go on where there is no checkpoint.

        Raises:
            ConfigError: If there is none.
        """
        if not self.checkpoints():
            raise ConfigError(
                f"{self.path} has no checkpoint to resume from: none was finished. Begin the run without resume=True "
                "(--resume)."
            )

    def newest(self, check: Callable[[Path, Training], None]) -> Checkpoint:
        """Read the newest checkpoint that is whole; what is wrong with newer ones is said.

        Args:
            check: Refuses a checkpoint that is of another run; it gets its path and where it stands.

        Raises:
            ConfigError: If there is none that is whole, or what ``check`` raises.
        """
        self.check_there()
        there = self.checkpoints()
        broken: list[Path] = []
        for path in reversed(there):
            try:
                check(path, read_training(path))
                found = read_checkpoint(path)
            except BundleError as error:
                log.warning("%s cannot be used, and the one before it is taken: %s", path, error)
                broken.append(path)
                continue
            for one in broken:
                self._set_aside(one)
            return found
        raise ConfigError(
            f"{self.path} has no checkpoint that is whole; zoo verify {there[-1]} says what is wrong with the newest."
        )

    def tidy(self) -> None:
        """Remove what killed writers left, and all checkpoints but the newest."""
        for name in {match[1] for path in self._listing() if (match := _HIDDEN.fullmatch(path.name))}:
            sweep(self.path / name)
        for path in self.checkpoints()[: -self._keep]:
            doomed = new_name(path, "tmp")
            with contextlib.suppress(OSError):
                os.rename(path, doomed)
                fsync_folder(self.path)
                remove(doomed)

    def _set_aside(self, path: Path) -> None:
        """Give a broken checkpoint a name by which it is taken for none; its bytes may be wanted for a look."""
        names = (path.with_name(f"broken-{path.name}{end}") for end in ("", *(f"-{n}" for n in range(2, 100))))
        with contextlib.suppress(OSError, StopIteration):
            os.rename(path, next(name for name in names if not os.path.lexists(name)))

    def _listing(self) -> list[Path]:
        try:
            return [self.path / name for name in os.listdir(self.path)]
        except OSError:
            return []

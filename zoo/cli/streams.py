"""Standard streams that never fail for a reason the user did not cause: a closed pipe, a narrow encoding."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import Any, TextIO

__all__ = ["PatientStream"]

# What zoo itself writes beyond ASCII, for terminals that cannot show it.
_PLAIN = str.maketrans({"→": "->", "…": "...", "×": "x", "–": "-", "·": "*"})


class PatientStream:
    """A text stream around another.

    A reader that has gone away (``zoo list | head -1``) is no error: what follows is dropped, and the command ends as
    it would have. A character that the encoding lacks is written as an escape. Any other failure, such as a full
    disk, is kept in ``failure``.

    Args:
        stream: The stream behind it; None if the process was started without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO = io.StringIO() if stream is None else stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text in the stream's encoding."""
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send this and all that follows nowhere, so that no later flush fails again."""
        if not isinstance(error, BrokenPipeError) and self.failure is None:
            self.failure = error
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

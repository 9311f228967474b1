"""What an epoch costs: seconds, and memory."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["EpochClock"]


class EpochClock(TrainerCallback):
    """Measures an epoch from its beginning.

    Args:
        place: Where the run is.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._begun = time.monotonic()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin anew."""
        self._begun = time.monotonic()
        if self._place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._place)

    def read(self) -> tuple[float, int | None]:
        """Give the seconds since the epoch began, and the most memory in bytes, if the system tells."""
        if self._place.type == "cuda":
            torch.cuda.synchronize(self._place)
            memory: int | None = torch.cuda.max_memory_allocated(self._place)
        else:
            memory = _of_process()
        return round(time.monotonic() - self._begun, 3), memory


def _of_process() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

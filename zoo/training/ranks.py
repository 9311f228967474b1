"""Several processes that train one model: who is first, what they agree on, and what only one of them does.

``torchrun`` and ``accelerate launch`` start the processes and tell each by environment variables which it is. Here they
are joined to two groups: torch's default one, of which gradients and counts are sums, and one on the CPU whose waiting
has no end that a long pass over the data could reach. A process that dies closes its connections, so that the others
do not wait for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, TrainingError

__all__ = ["Ranks", "first_to_fail", "hushed", "join", "rank", "world_size"]

T = TypeVar("T")

_LONG = timedelta(days=7)
_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def world_size() -> int:
    """Give the number of processes that were started to train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Give the number of this process among them, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; by default it is the only one.

    Args:
        number: Its number, from 0.
        count: How many there are.
        control: The group on the CPU; None if there is but one process.
    """

    number: int = 0
    count: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.number == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def same(self, value: T) -> T:
        """Give all processes the value of the first one."""
        if not self.several:
            return value
        held: list[Any] = [value]
        torch.distributed.broadcast_object_list(held, src=0, group=self.control, device=torch.device("cpu"))
        given: T = held[0]
        return given

    def every(self, value: T) -> list[T]:
        """Give all processes the values of all, in their order."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value, group=self.control)
        return found

    def collect(self, value: T) -> list[T]:
        """Give the first process the values of all, in their order, and the others nothing."""
        if not self.several:
            return [value]
        found: list[Any] | None = [None] * self.count if self.first else None
        torch.distributed.gather_object(value, found, dst=0, group=self.control)
        return found or []

    def sum(self, values: Tensor) -> Tensor:
        """Give the sum over the processes of a tensor that is where the run is."""
        if self.several:
            torch.distributed.all_reduce(values)
        return values

    def after_first(self, work: Callable[[], T]) -> T:
        """Have the first process do something, and then the others, who find what it left on the disk.

        Raises:
            TrainingError: In the others, if the first one fails.
        """
        if not self.several:
            return work()
        if not self.first:
            told = self.same(None)
            if told is not None:
                raise TrainingError(f"The first of the processes ended: {told}")
            return work()
        failed: str | None = "it was stopped"
        try:
            found = work()
            failed = None
        except BaseException as error:
            failed = str(error) or type(error).__name__
            raise
        finally:
            self.same(failed)
        return found

    @torch.no_grad()
    def equalize(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors of all processes the values of those of the first one."""
        if not self.several:
            return
        for tensor in tensors:
            held = tensor.detach().contiguous()
            torch.distributed.broadcast(held, src=0, group=self.control if held.device.type == "cpu" else None)
            if held.data_ptr() != tensor.data_ptr():
                tensor.copy_(held)

    def check_same(self, value: object, what: str) -> None:
        """Refuse to train on what is not the same everywhere.

        Raises:
            ConfigError: In all processes, if the values differ.
        """
        values = self.every(value)
        for number, other in enumerate(values):
            if other != values[0]:
                raise ConfigError(f"All processes must have the same {what}, and process {number} has another than 0.")


def join(place: torch.device) -> Ranks:
    """Join the other processes, if there are any; the user's own group is taken as it is.

    Args:
        place: Where the run is.

    Raises:
        ConfigError: If the processes were started in a way in which they cannot train here.
    """
    distributed = torch.distributed
    there = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if world_size() == 1 and there == 1:
        return Ranks()
    if os.environ.get(_DEEPSPEED, "false").lower() in ("true", "1"):
        raise ConfigError("zoo trains with torch's own DDP or FSDP, and not with DeepSpeed; launch without it.")
    if "LOCAL_RANK" not in os.environ or there not in (1, world_size()):
        raise ConfigError(
            "The processes that train together must be started by torchrun or accelerate launch, which say by RANK, "
            f"LOCAL_RANK and WORLD_SIZE which is which; here WORLD_SIZE is {world_size()} and the group has {there}."
        )
    if place.type not in ("cuda", "cpu"):
        raise ConfigError(f"Several processes train on CUDA devices or on the CPU, not on {place.type}; set device.")
    if place.type == "cuda" and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise ConfigError(
            f"Each process needs a CUDA device of its own, and there are {torch.cuda.device_count()}; start as many."
        )
    from accelerate import PartialState

    PartialState(cpu=place.type == "cpu")
    number = distributed.get_rank()
    control = distributed.new_group(backend="gloo", timeout=_LONG)
    return Ranks(number, distributed.get_world_size(), control)


@contextmanager
def hushed() -> Iterator[None]:
    """Let only the first process write to the log of zoo, but for errors."""
    if rank() == 0 or world_size() == 1:
        yield
        return
    log = logging.getLogger("zoo")
    log.addFilter(_errors_only)
    try:
        yield
    finally:
        log.removeFilter(_errors_only)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def first_to_fail() -> bool:
    """Say whether no other process of this launch has failed before; it is noted that this one has.

    The note is in the launcher's own store, which outlives the processes; where there is none, each is the first.
    """
    if world_size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    distributed: Any = torch.distributed
    launch = f"{os.environ.get('TORCHELASTIC_RUN_ID')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}"
    try:
        store = distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        told = store.compare_set(f"zoo/failed/{launch}", "", str(rank()))
    except (KeyError, ValueError, RuntimeError):
        return True
    return bytes(told) == str(rank()).encode()


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Give the parameters and buffers of a module."""
    yield from module.parameters()
    yield from module.buffers()

"""Training through ``torch.compile``: what the backbones run is compiled, for as long as a run lasts.

Of each backbone ``extract`` is compiled, on the instance: nothing is wrapped, so no class is swapped and no key is
renamed, and checkpoints, bundles and predictions are those of a model that was never compiled. What surrounds it, the
checks of the inputs and the look before each pass at what rests, runs as it always does. Each set of frozen stages is
compiled by itself, when it is first met.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import _dynamo as dynamo

from zoo.contracts.method import Plan
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.training.features.flat import storable
from zoo.training.planning.groups import HEADS
from zoo.training.planning.settings import Settings

__all__ = ["check_compiler", "compiled"]

BACKEND: Any = "inductor"
"""What makes code of the graphs."""

VARIANTS = 256
"""Most variants of one backbone: frozen stages, training or not, sizes of batches; more than any run has."""


def check_compiler(model: Model, plan: Plan, run: Settings, place: torch.device) -> None:
    """Find out, before any data is read, whether a run can be compiled.

    Raises:
        ConfigError: If backbones run once a picture and not in the steps, or nothing can be compiled here.
    """
    if not run.compile:
        return
    rests = plan.stages() - plan.never_trained() <= {HEADS}
    if rests and run.augmentation is None and run.mixing is None and storable(model):
        raise ConfigError(
            "compile=True is for backbones that run in every step, and here they run once a picture, since nothing of "
            "them trains; leave it out."
        )
    try:
        torch.compile(_probe, backend=BACKEND)(torch.ones(8, device=place))
    except Exception as error:  # a compiler, its driver or its library may raise anything
        inner = getattr(error, "inner_exception", None) or error
        reason = str(inner).strip().partition("\n")[0].rstrip(".:") or type(inner).__name__
        raise ConfigError(
            f"compile=True needs what torch.compile needs, on the CPU a C++ compiler, on CUDA Triton, and here it does "
            f"not work: {reason}. Install that, or leave it out."
        ) from error


def _probe(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + values.exp()


@contextmanager
def compiled(model: Model, run: Settings) -> Iterator[None]:
    """Run the backbones of a model compiled for as long as the context is open, where the user asked for it."""
    if not run.compile:
        yield
        return
    backbones: list[Any] = [*model.backbones.values()]
    try:
        for backbone in backbones:
            vars(backbone)["extract"] = torch.compile(backbone.extract, backend=BACKEND)
        limits = dynamo.config.patch(recompile_limit=VARIANTS, accumulated_recompile_limit=VARIANTS)
        with limits, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
            yield
    finally:
        for backbone in backbones:
            vars(backbone).pop("extract", None)

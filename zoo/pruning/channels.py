"""Channels of convolutional backbones, pruned in groups that must stay of one width: torch-pruning finds the groups."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, PluginError
from zoo.model import Model
from zoo.pruning.measuring import all_of, sample_of

__all__ = ["channel_steps", "library"]

STEPS = 40
"""Into how many steps the way to the narrowest model is divided; after each it is asked whether that is enough."""
MOST = 0.95
"""Share of the channels of a group that may go."""
_BATCH = 2


def library() -> ModuleType:
    """Import torch-pruning.

    Raises:
        PluginError: If it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise PluginError(
            "Channels are pruned by torch-pruning, which is not installed: pip install 'headzoo[pruning]'."
        ) from error
    return torch_pruning


def channel_steps(
    model: Model, importance: str, *, ranking: str, multiple_of: int, protected: bool, seed: int
) -> Iterator[bool]:
    """Prune a model in place, step by step.

    The importance of a group of channels is the mean over its layers, divided by the mean over the group's channels, so
    that layers of different scales compare, and is computed anew in each step. The inputs of heads shrink with what
    they read; their outputs stay.

    Args:
        model: The model, in float32 on the CPU; with gradients where the importance is ``taylor``.
        importance: ``l1``, ``l2``, ``taylor`` or ``random``.
        ranking: ``local``, where each group is ranked by itself and all lose the same share, or ``global``, where the
            groups of all backbones are ranked together.
        multiple_of: Widths stay multiples of this.
        protected: Whether what heads read keeps its width.
        seed: Seed of ``random``.

    Yields:
        After each group of channels that became smaller, False; after each step, when all have had their turn, True.

    Raises:
        ConfigError: If the model's graph cannot be followed.
        PluginError: If torch-pruning is not installed.

    Source:
        Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, arXiv:2301.12900, for the groups; Li et al.,
        "Pruning Filters for Efficient ConvNets", 2017, arXiv:1608.08710, for norms as importance; Molchanov et al.,
        "Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771, for ``taylor``. Ours takes
        small steps, and stops where the target is reached.
    """
    tp = library()
    importances: Mapping[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
        "random": lambda: tp.importance.RandomImportance(),
    }
    pictures = {
        stream: sample_of(model.backbones[model.spec.owner(stream)].spec, batch=_BATCH) for stream in model.spec.streams
    }
    traced = _Traced(model, protected=protected)
    with torch.enable_grad(), _quiet():
        try:
            pruner = _pruner(tp)(
                traced,
                pictures,
                importance=importances[importance](),
                global_pruning=ranking == "global",
                pruning_ratio=MOST,
                max_pruning_ratio=MOST,
                iterative_steps=STEPS,
                ignored_layers=[*model.heads.values(), traced.guards],
                round_to=multiple_of if multiple_of > 1 else None,
                forward_fn=lambda module, given: module(given),
            )
        except Exception as error:  # what tracing a module raises has no common type
            raise _untraceable(model, error) from error
    for _ in range(STEPS):
        groups = pruner.step(interactive=True)
        while True:
            with torch.random.fork_rng(devices=[]), torch.enable_grad(), _quiet():
                torch.manual_seed(seed)
                try:
                    group = next(groups, None)
                    if group is None:
                        break
                    group.prune()
                except Exception as error:
                    raise _untraceable(model, error) from error
            yield False
        yield True


def _pruner(tp: ModuleType) -> type[Any]:
    """Give torch-pruning's pruner, rounding widths to the nearest multiple, where its own takes the next below.

    Of 32 channels its own leaves 24 in multiples of 8 as soon as one is to go, of 16 it leaves 8, so that narrow layers
    lose far more than the share that was asked for.
    """

    class Nearest(tp.pruner.BasePruner):  # type: ignore[name-defined]
        def _round_to(self, gone: int, current: int, multiple: int) -> int:
            nearest = (current - gone + multiple // 2) // multiple * multiple
            return max(0, current - max(nearest, multiple))

    return Nearest


def _untraceable(model: Model, error: Exception) -> ConfigError:
    told = ", ".join(entry.backbone.reference for entry in model.spec.streams.values())
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    version = importlib.metadata.version("torch-pruning")
    return ConfigError(
        f"The channels of {told} cannot be pruned: torch-pruning {version} cannot follow its layers "
        f"({type(error).__name__}: {reason}). Prune single weights with sparsity=…, or take another backbone."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch-pruning warns of while it traces: parameters outside of layers, which stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Traced(nn.Module):
    """A model as the graph that is followed: all that its backbones can be asked for, and all that its heads give.

    Args:
        model: The model.
        protected: Whether to put a layer that must not change after everything that the heads read.
    """

    def __init__(self, model: Model, *, protected: bool) -> None:
        super().__init__()
        self.model = model
        self.guards = nn.ModuleList()
        self._guarded: dict[str, nn.Module] = {}
        if protected:
            for stream, entry in model.spec.streams.items():
                want, spec = model.wants[stream], entry.backbone
                if want.pooled:
                    self._guard(f"{stream}.pooled", nn.BatchNorm1d(spec.pooled_dim))
                for stage in want.maps:
                    self._guard(f"{stream}.{stage}", nn.BatchNorm2d(spec.stage(stage).channels or 1))
        self.guards.eval()

    def _guard(self, name: str, layer: nn.Module) -> None:
        self.guards.append(layer)
        self._guarded[name] = layer

    def forward(self, pictures: Mapping[str, Tensor]) -> list[Tensor]:
        """Give everything, in one flat list."""
        model, found = self.model, []
        features = {}
        for stream in model.spec.streams:
            backbone = model.backbones[model.spec.owner(stream)]
            given = features[stream] = backbone(pictures[stream], all_of(backbone) | model.wants[stream])
            tensors = {"pooled": given.pooled, "tokens": given.tokens, **given.maps}
            for name, tensor in tensors.items():
                if tensor is not None:
                    guard = self._guarded.get(f"{stream}.{name}")
                    found.append(tensor if guard is None else guard(tensor))
        return [*found, *model.score(features).values()]

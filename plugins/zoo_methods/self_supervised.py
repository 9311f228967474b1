"""Self-supervised learning: backbones learn from pictures alone, before any head is put on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed

from zoo.augmentation import Augmentation
from zoo.contracts.method import FROZEN, Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo_methods.self_supervising.barlow_twins import BarlowTwins
from zoo_methods.self_supervising.byol import BYOL
from zoo_methods.self_supervising.dino import DINO
from zoo_methods.self_supervising.scheme import Scheme
from zoo_methods.self_supervising.simclr import SimCLR
from zoo_methods.self_supervising.simsiam import SimSiam
from zoo_methods.self_supervising.standard import SMALL_SHARE, SMALL_VIEW, VIEWS, scaled_blur
from zoo_methods.settings import check_count, check_number

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["SelfSupervised"]

SCHEMES: Mapping[str, type[Scheme]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow_twins": BarlowTwins,
    "dino": DINO,
}
_FOLLOWING = ("byol", "dino")
"""Those that copy the backbone for a target network."""
_NUMBERS = {"temperature": None, "teacher_temperature": None, "redundancy": None, "momentum": 1.0}
"""Settings that must be above 0, and what they must be below."""
_COUNTS = {"hidden": 1, "projection": 4, "small_views": 0}
"""Settings that must be whole numbers, and the least."""


@dataclass(frozen=True)
class SelfSupervised(Method):
    """Train a backbone without labels, by what two or more views of a picture have in common.

    All stages of one backbone train, at the same rate as what is put on it for the purpose: a projector, and for
    some schemes a predictor or a slowly following target network. Those belong to the run and are gone after it; heads
    rest, and a model needs none. No epoch is judged, and the last one's weights stay. Each epoch of the history has
    ``measures`` of the embeddings: their ``spread`` (1 for directions of all sorts, 0 for a collapse to one) and
    effective ``rank``; a collapse is said in a warning.

    Args:
        how: ``simclr``, ``byol``, ``simsiam``, ``barlow_twins`` or ``dino``.
        views: How the large views are made: None for the scheme's own, the name of a preset, an ``Augmentation``, or a
            dict of its fields.
        stream: The stream whose backbone trains; None for the only one.
        backbone_lr_scale: Learning rate of the backbone as a share of the run's, above 0.
        hidden: Width of the hidden layers; None for the scheme's: 2048, of BYOL 4096.
        projection: Width of the embeddings, of DINO the number of prototypes, 4 or more; None for the scheme's: 128,
            256, 2048, 2048, 4096 in the order above.
        temperature: What SimCLR's cosines and DINO's student are divided by; None for 0.1.
        teacher_temperature: What DINO's teacher is divided by; None for 0.04.
        momentum: Share of itself that the target network of BYOL and DINO keeps in the first step, in ``(0, 1)``; None
            for 0.996.
        redundancy: Weight of Barlow Twins' correlations off the diagonal; None for 0.005.
        small_views: How many small views DINO's student sees beside the large ones; None for 8.

    Source:
        SimCLR: Chen et al., 2020, arXiv:2002.05709. BYOL: Grill et al., 2020, arXiv:2006.07733. SimSiam: Chen and He,
        2020, arXiv:2011.10566. Barlow Twins: Zbontar et al., 2021, arXiv:2103.03230. DINO: Caron et al., 2021,
        arXiv:2104.14294. Losses, views and momentum schedules are theirs. Ours differ in this: the optimizer and the
        schedule are the run's, in place of LARS and of rates of their own for predictors; each view is a batch of its
        own to BatchNorm; blur is as strong as a share of a view's side; Barlow Twins has embeddings of 2048 instead of
        8192, and DINO 4096 prototypes instead of 65536. DINO's last layer trains from the first step, its temperature
        and weight decay are constant, and its small views have 96/224 of the side of the large ones only where the
        backbone takes pictures of any size; else they are scaled to it.
    """

    how: Literal["simclr", "byol", "simsiam", "barlow_twins", "dino"] = "simclr"
    views: Augmentation | str | Mapping[str, Any] | None = None
    stream: str | None = None
    backbone_lr_scale: float = 1.0
    hidden: int | None = None
    projection: int | None = None
    temperature: float | None = None
    teacher_temperature: float | None = None
    momentum: float | None = None
    redundancy: float | None = None
    small_views: int | None = None

    summary = "The backbone learns from pictures without labels: SimCLR, BYOL, SimSiam, Barlow Twins or DINO"
    when = "Many pictures without labels and no pretrained weights that fit them; fine-tune afterwards"
    labelled = False

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        if self.how not in SCHEMES:
            raise ConfigError(f"how must be one of {', '.join(SCHEMES)}, got {self.how!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        for name in (*_NUMBERS, *_COUNTS):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in SCHEMES[self.how].takes:
                theirs = [how for how, scheme in SCHEMES.items() if name in scheme.takes]
                raise ConfigError(f"{name} is a setting of {' and '.join(theirs)}, and how is {self.how!r}.")
            if name in _COUNTS:
                check_count(name, value, least=_COUNTS[name])
            else:
                check_number(name, value, below=_NUMBERS[name] or float("inf"))
        view = self._view()
        if view is not None and view.scale is None:
            raise ConfigError("views must crop at random, or both are much the same; give them a scale.")

    def told(self) -> dict[str, Any]:
        """Give the settings, the views as plain values."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        view = self._view()
        return named | {"views": None if view is None else to_json(view)}

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage of the stream in every epoch; all others and the heads rest."""
        chosen = self._chosen(list(streams))
        trained = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {
            f"{name}.{stage.name}": trained if name == chosen else FROZEN
            for name, outline in streams.items()
            for stage in outline.stages
        }
        return Plan(epochs=({**states, "heads": FROZEN},) * epochs)

    def objective(self, model: Model, *, seed: int = 0) -> Scheme:
        """Make the scheme, with weights drawn by the seed.

        Raises:
            ConfigError: If the stream's backbone takes no pictures or gives no pooled vector, or several processes
                train.
        """
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError(
                "self_supervised compares the rows of a batch with one another, which several processes would divide; "
                "train in one."
            )
        stream = self._chosen(list(model.backbones))
        entry = model.spec.streams[stream]
        spec = entry.backbone
        if spec.modality != "image" or spec.preprocessing is None:
            raise ConfigError(f"self_supervised makes views of pictures, and {spec.reference} takes {spec.modality}.")
        if "pooled" not in spec.capabilities or (entry.keep is not None and not entry.keep.pooled):
            raise ConfigError(
                f"self_supervised trains the pooled vector, which {spec.reference} does not give in this model; build "
                "it without heads, and put them on afterwards."
            )
        scheme: Any = SCHEMES[self.how]
        settings = {name: self._setting(name, default) for name, default in scheme.takes.items()}
        small = settings.pop("small_views", 0)
        views = self._views(spec, small)
        base: Any = model.backbones[stream] if self.how in _FOLLOWING else spec.pooled_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Scheme = scheme(stream, views, base, **settings)
        return made

    def _setting(self, name: str, default: Any) -> Any:
        given = getattr(self, name)
        return default if given is None else given

    def _chosen(self, streams: Sequence[str]) -> str:
        """Name the stream that trains.

        Raises:
            UnknownName: If there is none of that name.
            ConfigError: If there are several and none is named.
        """
        if self.stream is not None and self.stream not in streams:
            near = nearest(self.stream, streams) or list(streams)
            raise UnknownName(f"self_supervised: there is no stream {self.stream!r}; choose of {', '.join(near)}.")
        if self.stream is None and len(streams) > 1:
            raise ConfigError(f"self_supervised trains one backbone; choose with stream= of {', '.join(streams)}.")
        return self.stream if self.stream is not None else streams[0]

    def _view(self) -> Augmentation | None:
        """Read the views that the user gave."""
        if self.views is None or isinstance(self.views, (str, Augmentation)):
            return None if self.views is None else Augmentation.of(self.views)
        return from_json(Augmentation, dict(self.views) if isinstance(self.views, Mapping) else self.views)

    def _views(self, spec: BackboneSpec, small: int) -> tuple[Augmentation, ...]:
        """Make the views of a step for a backbone."""
        assert spec.preprocessing is not None
        height, width = spec.preprocessing.size
        given = self._view()
        large: list[Augmentation] = [] if given is None else [given, given]
        if given is None:
            large = [scaled_blur(view, min(height, width)) for view in VIEWS[self.how]]
        if not small:
            return tuple(large)
        entry = spec.inputs[0]
        piece = SMALL_VIEW
        if "dynamic_size" in spec.capabilities and not entry.fixed_size:
            sides = tuple(_fitting(side * SMALL_SHARE, entry.divisor, entry.least) for side in (height, width))
            piece = replace(SMALL_VIEW, size=(sides[0], sides[1]))
        piece = scaled_blur(piece, min(piece.size or (height, width)))
        return (*large, *[piece] * small)


def _fitting(side: float, divisor: int, least: int) -> int:
    """Give the side nearest to one that a backbone takes, in pixels."""
    found = max(1, round(side / divisor)) * divisor
    return found if found >= least else -(-least // divisor) * divisor

"""Semi-supervised learning: few rows with labels, and many without, whose classes the model itself says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from zoo.augmentation import Augmentation
from zoo.contracts.head import Task
from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.objective import Batch, Objective
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError, UnknownName, nearest
from zoo_methods.settings import check_count, check_number
from zoo_methods.views import read_view, tell_view

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["SemiSupervised", "Supposing", "ramp_at", "supposed_loss"]

WEAK = Augmentation(scale=(0.75, 1.0), ratio=(1.0, 1.0), flip=0.5)
"""A mirror image and a shift by an eighth, as in FixMatch."""
STRONG = Augmentation(scale=(0.75, 1.0), ratio=(1.0, 1.0), flip=0.5, policy="rand", erasing=1.0)
"""The same, two operations of RandAugment, and a rectangle cut out."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "fixmatch": {"threshold": 0.95, "weight": 1.0, "ratio": 7, "weak": WEAK, "strong": STRONG},
    "pseudo_labels": {"threshold": 0.0, "weight": 3.0, "ratio": 1, "weak": None, "ramp": (1 / 6, 2 / 3)},
}
"""What each way has where nothing is set; a setting that is not there is of the other way alone."""


@dataclass(frozen=True)
class SemiSupervised(Method):
    """Train heads of one label, and backbones, on rows with labels and on what the model says of rows without.

    A step has ``ratio`` rows without labels for each with a label. The class that the model finds likeliest for a
    weakly varied view is taken for the label of the row if its probability is at least ``threshold``: of its strongly
    varied view for ``fixmatch``, of the same view for ``pseudo_labels``. Their cross-entropy, a mean over all rows
    without labels, confident or not, times ``weight`` and the head's own, comes to the heads' losses, for each task.
    Rows with labels are varied by the run's ``augmentation``. Norms with running statistics see them as one batch, and
    all views without labels as another.

    Args:
        how: ``fixmatch`` or ``pseudo_labels``.
        threshold: Least probability of a class to be taken for a label, 0 or more and below 1; None for 0.95, of
            ``pseudo_labels`` 0.
        weight: Factor of the loss of rows without labels, above 0; None for 1, of ``pseudo_labels`` 3.
        ratio: Rows without labels for each with one, 1 or more; None for 7, of ``pseudo_labels`` 1.
        ramp: Shares of the run at which the weight of ``pseudo_labels`` begins to rise from 0 and is reached; None for
            1/6 and 2/3.
        weak: How the view is made of which the label is said: the name of a preset, an ``Augmentation``, or a dict of
            its fields; None for a mirror image and a shift, of ``pseudo_labels`` for the plain picture.
        strong: How the view is made that ``fixmatch`` learns from; None for those, RandAugment and a rectangle cut out.
        tasks: List of the tasks that learn from rows without labels; None for all of one label.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        FixMatch: Sohn et al., 2020, arXiv:2001.07685, equations 3 and 4. Pseudo-labels: Lee, "Pseudo-Label: The Simple
        and Efficient Semi-Supervised Learning Method for Deep Neural Networks", 2013, equations 15 and 16. Ours differ
        in this: optimizer, rates and moving average (``ema``) are the run's; Lee's ramp is of shares of the run, where
        the paper counts weight updates; rows with labels pass apart from those without.
    """

    how: Literal["fixmatch", "pseudo_labels"] = "fixmatch"
    threshold: float | None = None
    weight: float | None = None
    ratio: int | None = None
    ramp: tuple[float, float] | None = None
    weak: Augmentation | str | Mapping[str, Any] | None = None
    strong: Augmentation | str | Mapping[str, Any] | None = None
    tasks: Sequence[str] | None = None
    backbone_lr_scale: float = 0.1

    summary = "Few labels and many rows without: what the model is sure of becomes a label (FixMatch, pseudo-labels)"
    when = "Tens of labels a class, and many more rows of the same kinds without."

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        if self.how not in DEFAULTS:
            raise ConfigError(f"how must be one of {', '.join(DEFAULTS)}, got {self.how!r}.")
        for name in ("ramp", "strong"):
            if getattr(self, name) is not None and name not in DEFAULTS[self.how]:
                theirs = " and ".join(how for how, known in DEFAULTS.items() if name in known)
                raise ConfigError(f"{name} is a setting of {theirs}, and how is {self.how!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        check_number("weight", self.setting("weight"))
        check_count("ratio", self.setting("ratio"))
        if isinstance(self.threshold, bool) or (self.threshold is not None and self.threshold != 0):
            check_number("threshold", self.threshold, below=1.0)
        if self.ramp is not None:
            _check_ramp(self.ramp)
        if self.tasks is not None and (
            isinstance(self.tasks, str) or not self.tasks or not all(isinstance(one, str) for one in self.tasks)
        ):
            raise ConfigError(f"tasks must be a list of names of tasks, got {self.tasks!r}.")
        self.views()

    def setting(self, name: str) -> Any:
        """Give a setting, or what it is where nothing is set."""
        given = getattr(self, name)
        return DEFAULTS[self.how].get(name) if given is None else given

    def views(self) -> tuple[Augmentation | None, ...]:
        """Give the views of rows without labels: the weak one, and for ``fixmatch`` the strong one."""
        names = ("weak", "strong") if self.how == "fixmatch" else ("weak",)
        found = tuple(read_view(name, self.setting(name)) for name in names)
        if len(found) == 2 and found[1] is None:
            raise ConfigError("strong must vary pictures, or there is nothing to learn from them; give it a policy.")
        if len({None if one is None else one.size for one in found}) > 1:
            raise ConfigError("weak and strong pass together and must be of one size; give both the same size=….")
        return found

    def told(self) -> dict[str, Any]:
        """Give the settings, the views as plain values."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        seen = {name: tell_view(read_view(name, getattr(self, name))) for name in ("weak", "strong")}
        lists = {name: None if named[name] is None else list(named[name]) for name in ("ramp", "tasks")}
        return named | seen | lists

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)

    def objective(self, model: Model, *, seed: int = 0) -> Supposing:
        """Choose the tasks that learn from rows without labels.

        Raises:
            UnknownName: If there is no such task.
            ConfigError: If a task is not of one label, or none is, or several processes train.
        """
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError(
                "semi_supervised passes rows without labels through norms as one batch, which several processes would "
                "divide; train in one."
            )
        every = model.tasks()
        for name in self.tasks or ():
            if name not in every:
                near = nearest(name, every) or list(every)
                raise UnknownName(f"semi_supervised: there is no task {name!r}; choose of {', '.join(near)}.")
            if not _of_one_label(every[name]):
                raise ConfigError(
                    f"The task {name!r} ({every[name].spec.type}) has not one label a row, and only such tasks learn "
                    "from rows without labels; leave it out of tasks."
                )
        chosen = list(self.tasks or (name for name, task in every.items() if _of_one_label(task)))
        if not chosen:
            raise ConfigError("semi_supervised needs a task of one label a row, such as a classifier; there is none.")
        return Supposing(self, chosen)


class Supposing(Objective):
    """The heads' own losses, and the cross-entropy of the labels that the model itself supposes.

    Args:
        how: The method.
        tasks: The tasks that learn from rows without labels.
    """

    def __init__(self, how: SemiSupervised, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.threshold, self.weight = float(how.setting("threshold")), float(how.setting("weight"))
        self.ramp: tuple[float, float] | None = how.setting("ramp")
        self.unlabelled_views = how.views()
        self.unlabelled_ratio = how.setting("ratio")
        self._sure: list[Tensor] = []

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' own losses, and for each task that of the rows without labels."""
        views = batch.unlabelled
        inputs = views[0] if len(views) == 1 else tree_map(lambda *each: torch.cat(each), *views)
        outputs = model.score(model.features(inputs))
        weight = self.weight * ramp_at(batch.progress, self.ramp)
        parts, every = dict(batch.losses), model.tasks()
        shares = []
        for name in self.tasks:
            seen = outputs[name].chunk(len(views))
            loss, sure = supposed_loss(seen[0], seen[-1], self.threshold)
            parts[f"{name}/unlabelled"] = weight * every[name].config.weight * loss
            shares.append(sure)
        self._sure.append(torch.stack(shares).mean())
        return parts

    def epoch_ended(self) -> Mapping[str, float]:
        """Give the share of rows without labels that were taken for labelled, as ``sure``, a mean over the tasks."""
        sure, self._sure = self._sure, []
        return {"sure": torch.stack(sure).mean().item()} if sure else {}


def supposed_loss(weak: Tensor, strong: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Give the loss of rows whose class one view says and another learns, and the share of rows that count.

    ``1/N Σ 1(max q ≥ threshold) H(argmax q, p)`` with the probabilities ``q`` of the weak view, through which no
    gradient goes, and ``p`` of the strong one.

    Args:
        weak: Logits of the view that says the class, ``(N, K)``.
        strong: Those of the view that learns, ``(N, K)``.
        threshold: Least probability of a class.

    Source:
        Sohn et al., 2020, arXiv:2001.07685, equation 4; with both views the same and a threshold of 0, Lee, 2013.
    """
    likeliest, label = weak.detach().float().softmax(dim=1).max(dim=1)
    sure = (likeliest >= threshold).float()
    return (F.cross_entropy(strong.float(), label, reduction="none") * sure).mean(), sure.mean()


def ramp_at(progress: float, ramp: tuple[float, float] | None) -> float:
    """Give the share of the weight at a share of the run: 0 before the ramp, 1 behind it and where there is none.

    Source:
        Lee, 2013, equation 16.
    """
    if ramp is None:
        return 1.0
    begin, end = ramp
    return 1.0 if progress >= end else max(0.0, (progress - begin) / (end - begin))


def _check_ramp(ramp: Any) -> None:
    numbers = isinstance(ramp, (list, tuple)) and len(ramp) == 2 and all(type(one) in (int, float) for one in ramp)
    if not numbers or not 0 <= ramp[0] <= ramp[1] <= 1:
        raise ConfigError(f"ramp must be two shares of the run, 0 to 1, the lesser first, got {ramp!r}.")


def _of_one_label(task: Task) -> bool:
    return task.activation == "softmax" and task.masks is None

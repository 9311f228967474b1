"""Distillation: a student learns from a teacher's outputs, maps, attention and relations, beside its own labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features, Want
from zoo.contracts.head import Task
from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.objective import Batch, Objective, TrainingRows
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError
from zoo_methods.distilling.answers import ATTENTION, HINTS, OUTPUTS, VECTORS, Questions, keep, vector_of
from zoo_methods.distilling.losses import (
    angle_loss,
    attention_loss,
    attention_of,
    distance_loss,
    hint_loss,
    soft_loss,
)
from zoo_methods.distilling.pairing import Level, check_room, levels, pair_streams, pair_tasks
from zoo_methods.distilling.teachers import check_teacher, load_teacher, tell_teacher
from zoo_methods.settings import check_number

if TYPE_CHECKING:
    from zoo.ensembling.ensemble import Ensemble
    from zoo.model import Model

__all__ = ["Distillation", "Distilling"]

log = logging.getLogger("zoo")

_GB = 1e9


@dataclass(frozen=True)
class Distillation(Method):
    """Train a student on what a teacher says of the same rows, each model with its own preprocessing.

    What is trained is, for each task that learns from the teacher, ``(1 - alpha) * loss + alpha * weight * soft``, with
    the head's own loss and :func:`~zoo_methods.distilling.losses.soft_loss`, the divergence from the teacher's output;
    other tasks keep their own loss. To this come ``hints``, ``attention``, ``distances`` and ``angles``, each times its
    setting. Rows without a label learn from the teacher alone. Classes are matched by name.

    Where every epoch sees the same pictures, the teacher runs once on each before training, and its answers are kept;
    with an augmentation it runs in each step, on the very view that the student sees. The teacher never learns, and is
    left in eval mode.

    Args:
        teacher: A ``zoo.Model``, a ``zoo.Ensemble`` (for outputs only), or the path of a bundle.
        tasks: List of the student's tasks that learn from the teacher, or each with the name of the teacher's task;
            None for all of them.
        temperature: What the logits of both are divided by, above 0; numbers have none.
        alpha: Share of the teacher in the loss of a task, 0 to 1; 0 for features alone.
        hints: Weight of the maps (FitNets), 0 or more; the student's go through a 1×1 convolution that learns with it.
        attention: Weight of the attention maps, 0 or more.
        distances: Weight of the distances between rows (RKD), 0 or more.
        angles: Weight of the angles between rows (RKD), 0 or more.
        reductions: List of the levels of hints and attention: input size divided by map size, such as 8 and 16; None
            for all that both models have.
        keep_gb: Gigabytes that kept answers may take, 0 or more; if they would take more, the teacher runs in each
            step, and with 0 it always does.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531; Romero et al., "FitNets:
        Hints for Thin Deep Nets", 2014, arXiv:1412.6550; Park et al., "Relational Knowledge Distillation", 2019,
        arXiv:1904.05068; Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017, arXiv:1612.03928. Ours
        trains all parts at once, where FitNets trains the hint first; maps of other sizes, since the two models may see
        pictures of other sizes, are resized to the student's; and sums over elements, pairs and triplets are means.
    """

    teacher: Any = None
    tasks: Sequence[str] | Mapping[str, str] | None = None
    temperature: float = 4.0
    alpha: float = 0.5
    hints: float = 0.0
    attention: float = 0.0
    distances: float = 0.0
    angles: float = 0.0
    reductions: Sequence[float] | None = None
    keep_gb: float = 1.0
    backbone_lr_scale: float = 0.1

    summary = "A student learns from a teacher's outputs, maps, attention and relations, beside its own labels"
    when = "A large model, or several, is good at the task, and a small one is wanted; also for rows without labels."

    def __post_init__(self) -> None:
        """Check what does not depend on the models."""
        check_teacher(self.teacher)
        check_number("temperature", self.temperature)
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        for name in ("alpha", "hints", "attention", "distances", "angles", "keep_gb"):
            value = getattr(self, name)
            if isinstance(value, bool) or value != 0:
                check_number(name, value)
        if self.alpha > 1:
            raise ConfigError(f"alpha must be a share, 0 to 1, got {self.alpha!r}.")
        if not any((self.alpha, self.hints, self.attention, self.distances, self.angles)):
            raise ConfigError(
                "Nothing is left to learn from the teacher: set alpha, hints, attention, distances or angles."
            )
        self._check_names()

    def _check_names(self) -> None:
        """Check the lists, and that something reads them."""
        tasks, reductions = self.tasks, self.reductions
        if tasks is not None:
            held: list[Any] = list(tasks) if isinstance(tasks, (Mapping, list, tuple)) else []
            held += tasks.values() if isinstance(tasks, Mapping) else ()
            if not held or not all(isinstance(one, str) for one in held):
                raise ConfigError(f"tasks must be a list of names of tasks, or names to the teacher's, got {tasks!r}.")
            if not self.alpha:
                raise ConfigError(
                    "tasks says whose outputs are distilled, and alpha=0 leaves them out; drop one of them."
                )
        if reductions is not None:
            if not isinstance(reductions, (list, tuple)) or not reductions:
                raise ConfigError(f"reductions must be a list of numbers, such as [8, 16], got {reductions!r}.")
            for one in reductions:
                check_number("Each of reductions", one)
            if not (self.hints or self.attention):
                raise ConfigError("reductions is of hints and attention, and both are 0; set one of them or drop it.")

    def told(self) -> dict[str, Any]:
        """Give the settings as JSON; the teacher by the id of its bundle, or a digest of its state."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        listed = {name: list(value) for name, value in named.items() if isinstance(value, tuple)}
        return {**named, **listed, "teacher": tell_teacher(self.teacher)}

    def objective(self, model: Model, *, seed: int = 0) -> Distilling:
        """Load the teacher, and pair it with the student."""
        return Distilling(self, model, load_teacher(self.teacher, model), seed)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)


class Distilling(Objective):
    """The heads' own losses and how far the student is from its teacher.

    Args:
        how: The method.
        model: The student.
        teacher: The teacher; it is no part of this module, and does not learn.
        seed: Seed of the projectors' weights.

    Raises:
        ConfigError: If the two have no such tasks, classes, streams or levels in common, or an ensemble is to give
            features.
        UnknownName: If a task is not there.
        CapabilityError: If the layers that give what is wanted were cut off.
    """

    def __init__(self, how: Distillation, model: Model, teacher: Model | Ensemble, seed: int) -> None:
        super().__init__()
        self.how = how
        self._questions = _questions(how, model, teacher)
        self._kept: dict[str, Tensor] = {}  # no buffers: several processes would send these to one another in each step
        self._home = torch.device("cpu")
        self.others = {"teacher": teacher}
        asked = self._questions
        self.wants = _wants(model, asked)
        for stream, want in self.wants.items():
            check_room("student", model.backbones[model.spec.owner(stream)], model.wants[stream] | want)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projectors = nn.ModuleDict(
                {level.key: nn.Conv2d(level.channels, level.taught_channels, 1) for level in asked.hints}
            )

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Let the teacher answer for all rows, where that can be kept; no step needs it then."""
        teacher: Any = self._questions.teacher
        self._home = next((parameter.device for parameter in teacher.parameters()), rows.place)
        teacher.eval().to(rows.place)
        if not rows.fixed or not self.how.keep_gb:
            return
        kept = keep(self._questions.ask, rows.batches("teacher"), len(rows), self.how.keep_gb * _GB)
        if kept is None:
            log.info(
                "The teacher's answers differ in shape or take more than %g GB: it runs in each step.", self.how.keep_gb
            )
            return
        size = sum(one.numel() * one.element_size() for one in kept.values())
        log.info("The teacher answered for %d rows, which takes %.3g MB; no step runs it.", len(rows), size / 1e6)
        self._kept, self.others = kept, {}
        teacher.to(self._home)

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' own losses, and the parts that the teacher teaches."""
        how, asked = self.how, self._questions
        answers = {name: one[batch.rows] for name, one in self._kept.items()}
        if not answers:
            answers = asked.ask(batch.others["teacher"])
        parts = dict(batch.losses)
        tasks = model.tasks()
        for pair in asked.tasks:
            task, taught = tasks[pair.name], answers[f"{OUTPUTS}{pair.name}"]
            soft = soft_loss(
                batch.outputs[pair.name], taught, pair.activation, temperature=how.temperature, scale=_unit(task)
            )
            parts[pair.name] = (1 - how.alpha) * parts[pair.name]
            parts[f"{pair.name}/teacher"] = how.alpha * task.config.weight * soft
        for name, part in self._feature_losses(batch.features, answers).items():
            parts[name] = getattr(how, name) * part
        return parts

    def _feature_losses(self, features: Mapping[str, Features], answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give what is lost of maps, attention and relations, each a sum over levels or streams."""
        asked = self._questions
        maps = {level.key: features[level.stream].maps[level.stage] for level in (*asked.hints, *asked.attention)}
        vectors = {stream: vector_of(features, stream) for stream in asked.vectors or {}}
        held = [*maps.values(), *vectors.values()]
        if held and not any(one.requires_grad for one in held):
            raise ConfigError("Features are distilled into stages that rest, so nothing would learn; see freeze=….")
        lost: dict[str, list[Tensor]] = {}
        for level in asked.hints:
            guided = self.projectors[level.key](maps[level.key])
            lost.setdefault("hints", []).append(hint_loss(guided, answers[f"{HINTS}{level.key}"]))
        for level in asked.attention:
            attention = attention_of(maps[level.key])
            lost.setdefault("attention", []).append(attention_loss(attention, answers[f"{ATTENTION}{level.key}"]))
        for stream, vector in vectors.items():
            taught = answers[f"{VECTORS}{stream}"]
            for name, loss in (("distances", distance_loss), ("angles", angle_loss)):
                if getattr(self.how, name):
                    lost.setdefault(name, []).append(loss(vector, taught))
        return {name: torch.stack(each).sum() for name, each in lost.items()}

    def finish(self, model: Model) -> None:
        """Put the teacher back where it was."""
        teacher: Any = self._questions.teacher
        teacher.to(self._home)


def _questions(how: Distillation, model: Model, teacher: Model | Ensemble) -> Questions:
    """Say what is asked of the teacher; raises as :class:`Distilling` does."""
    import zoo

    tasks = pair_tasks(model.tasks(), teacher.tasks(), how.tasks) if how.alpha else ()
    of_features = [name for name in ("hints", "attention", "distances", "angles") if getattr(how, name)]
    if not of_features:
        return Questions(teacher, tasks)
    if isinstance(teacher, zoo.Ensemble):
        raise ConfigError(
            f"{of_features[0]} is of one network's features, and an ensemble has several; take one of its members as "
            f"the teacher, or set {of_features[0]}=0."
        )
    streams = pair_streams(model, teacher)
    found: tuple[Level, ...] = ()
    if how.hints or how.attention:
        found = levels(model, teacher, streams, how.reductions)
    asked = Questions(
        teacher,
        tasks,
        vectors=streams if how.distances or how.angles else None,
        hints=found if how.hints else (),
        attention=found if how.attention else (),
    )
    for stream, want in asked.wants().items():
        check_room("teacher", teacher.backbones[teacher.spec.owner(stream)], teacher.wants[stream] | want)
    return asked


def _wants(model: Model, asked: Questions) -> dict[str, Want]:
    """Give what is wanted of the student's backbones beside what its heads read."""
    found: dict[str, Want] = {}
    for level in (*asked.hints, *asked.attention):
        found[level.stream] = found.get(level.stream, Want(pooled=False)) | Want(pooled=False, maps=(level.stage,))
    for stream in asked.vectors or {}:
        found[stream] = found.get(stream, Want(pooled=False)) | Want(pooled=True)
    return {stream: want for stream, want in found.items() if not want <= model.wants[stream]}


def _unit(task: Task) -> float | Tensor:
    """Give the unit in which a task's own loss counts numbers: the learnt spread of its labels, if it has one."""
    spread = dict(task.named_buffers(recurse=False)).get("std")
    return 1.0 if spread is None or spread.ndim else spread

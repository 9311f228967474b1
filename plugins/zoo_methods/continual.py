"""Continual learning: one task after another, with what keeps the model from forgetting those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError, DataError
from zoo_methods.sequences.objective import STATE, SequenceObjective, class_tasks, memory_of
from zoo_methods.settings import check_count, check_number

if TYPE_CHECKING:
    from zoo.contracts.head import Label
    from zoo.contracts.objective import Objective
    from zoo.data import Table
    from zoo.model import Model

__all__ = ["Continual"]

How = Literal["naive", "ewc", "lwf", "replay", "icarl"]

_OWN: dict[str, dict[str, Any]] = {
    "naive": {},
    "ewc": {"strength": 1000.0, "decay": None, "fisher_rows": 200},
    "lwf": {"strength": 1.0, "temperature": 2.0},
    "replay": {"memory": 200, "share": 0.5},
    "icarl": {"memory": 200},
}
"""What each way has for settings, with their defaults; others are refused."""


@dataclass(frozen=True)
class Continual(Method):
    """Learn the next task of a sequence; each call of ``zoo.fit`` is one task.

    Classes that a head does not know yet are added to it (:meth:`zoo.Model.grow`). What the next task needs of this one
    stands in ``model.state["continual"]`` and in bundles: ``tasks`` (how many were learnt), ``ewc`` (Fisher
    information and anchor), ``memory`` (rows). The old model, LwF's and iCaRL's teacher, is the model before the run.

    Args:
        how: ``naive`` for nothing against forgetting, ``ewc``, ``lwf``, ``replay`` or ``icarl``.
        strength: Factor of what holds the old, above 0: λ of the penalty with ``ewc``, 1000 by default; λ_o of the old
            classes' cross-entropy with ``lwf``, 1 by default.
        decay: With ``ewc``: γ of online EWC, in ``(0, 1]``, by which older tasks fade and one anchor is left; None
            to add a penalty a task, as the first paper does.
        fisher_rows: With ``ewc``: number of training rows that the Fisher information is the mean over, 1 or more;
            200 by default.
        temperature: With ``lwf``: T of the softened probabilities, above 0; 2 by default.
        memory: With ``replay`` and ``icarl``: rows that are kept of all tasks together, 1 or more; 200 by default.
        share: With ``replay``: share of the rows drawn that are of the memory, in ``(0, 1)``; a half by default.
        among: The classes among which the softmax of the heads' losses goes: ``all``, or those that rows of this
            ``task`` have, so that new rows do not teach that it is no old class. Not with ``icarl``, which has no
            softmax.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        EWC: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017, arXiv:1612.00796,
        equation 3: ``L(θ) = L_B(θ) + Σ λ/2 F_i (θ_i - θ*_i)²``. F is the empirical Fisher, by the true labels, of
        ``fisher_rows`` rows. The penalties of several tasks are kept as one that differs by a constant. ``decay``:
        Schwarz et al., "Progress & Compress", 2018, arXiv:1805.06370, section 3.2.
        LwF: Li and Hoiem, "Learning without Forgetting", 2016, arXiv:1606.09282, equations 2 to 4. Their old and new
        tasks have outputs of their own; ours share a head, which ``among="task"`` treats so. All learns from the first
        step, without their warm-up of the new outputs alone.
        Replay: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486; ours knows
        where tasks end and keeps as many rows of each class, drawn by seed, in place of a reservoir.
        iCaRL: Rebuffi et al., 2017, arXiv:1611.07725, algorithms 3 to 5: their loss, herding and reduction of the
        memory. The partial means of herding are not normalised again. The model predicts by the head, as their
        "hybrid1" does, not by the nearest mean. Old classes that have new rows learn from these.
    """

    how: How = "naive"
    strength: float | None = None
    decay: float | None = None
    fisher_rows: int | None = None
    temperature: float | None = None
    memory: int | None = None
    share: float | None = None
    among: Literal["all", "task"] = "all"
    backbone_lr_scale: float = 0.1

    summary = "One task after another without forgetting: EWC, LwF, replay, iCaRL; heads grow by new classes"
    when = "Data that comes task by task, new classes or new domains, and the old rows are gone or too many."

    def __post_init__(self) -> None:
        """Check the settings, and that each belongs to the way."""
        if self.how not in get_args(How):
            raise ConfigError(f"how must be one of {', '.join(get_args(How))}, got {self.how!r}.")
        own = _OWN[self.how]
        for name in sorted({name for names in _OWN.values() for name in names}):
            if getattr(self, name) is not None and name not in own:
                takers = ", ".join(how for how, names in _OWN.items() if name in names)
                raise ConfigError(f"{name} is a setting of how={takers}, and this is {self.how!r}; leave it out.")
        if self.among not in ("all", "task"):
            raise ConfigError(f"among must be 'all' or 'task', got {self.among!r}.")
        if self.among == "task" and self.how == "icarl":
            raise ConfigError("among='task' is for the softmax of the heads' losses, which how='icarl' has not.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        for name in ("strength", "temperature"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        for name in ("fisher_rows", "memory"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.share is not None:
            check_number("share", self.share, below=1.0)
        if self.decay is not None and self.decay != 1:
            check_number("decay", self.decay, below=1.0)

    def setting(self, name: str) -> Any:
        """Give a setting of this way, or its default."""
        given = getattr(self, name)
        return _OWN[self.how][name] if given is None else given

    def told(self) -> dict[str, Any]:
        """Give the settings of this way, defaults too."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {
            name: self.setting(name) for name in _OWN[self.how]
        }

    def objective(self, model: Model, *, seed: int = 0) -> Objective:
        """Give what is trained, once it is sure that the model's heads can learn so."""
        tasks = class_tasks(model)
        if self.how in ("lwf", "icarl") and (not tasks or (self.how == "icarl" and len(model.tasks()) != 1)):
            must = "a single task, of one class a sample" if self.how == "icarl" else "a task of one class a sample"
            raise ConfigError(f"how={self.how!r} needs {must}; the model's tasks: {', '.join(model.tasks())}.")
        for name, task in tasks.items():
            config = task.config
            if self.among == "task" and getattr(config, "label_smoothing", None):
                raise ConfigError(f"among='task' leaves classes out, and {name!r} has label_smoothing; set that to 0.")
            if self.how != "icarl":
                continue
            if getattr(config, "label_smoothing", None) or getattr(config, "class_weights", None) is not None:
                raise ConfigError(
                    f"how='icarl' has a loss of its own; leave label_smoothing and class_weights of {name!r}."
                )
            if task.stream not in model.spec.streams or not task.reads(config).pooled:
                raise ConfigError(f"how='icarl' herds pooled vectors, and {name!r} ({task.spec.type}) reads none.")
        if self.among == "task" and not tasks:
            raise ConfigError("among='task' needs a task of one class a sample, and the model has none.")
        return SequenceObjective(self, model, seed)

    def meet(self, model: Model, table: Table, columns: Mapping[str, str], *, seed: int = 0) -> None:
        """Let heads grow by the classes that they do not know, in sorted order."""
        for name, task in model.tasks().items():
            labels = cast("Sequence[Label]", table.column(columns[name]).values)
            if task.masks is None and (new := task.new_classes(labels)):
                model.grow(name, new, seed=seed)

    def rows(self, model: Model, table: Table, columns: Mapping[str, str]) -> Table:
        """Put the memory behind the new rows, for replay and iCaRL."""
        memory = memory_of(model)
        if self.how not in ("replay", "icarl") or not memory:
            return table
        if len(memory["groups"]) != len(memory["kept"]["names"]):
            raise DataError(f"The memory in model.state[{STATE!r}] is damaged: its rows and their groups differ.")
        return table.with_kept(memory["kept"], columns)

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch; what is to rest, ``freeze`` says."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)

"""What is trained of a task in a sequence, and what of it is left for the next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.contracts.head import Task, zero_loss
from zoo.contracts.objective import Batch, Objective
from zoo.errors import ConfigError
from zoo_methods.sequences.consolidating import accumulated, fisher_of, grown_to, penalty
from zoo_methods.sequences.distilling import exemplar_loss, old_classes_loss, teacher_of
from zoo_methods.sequences.remembering import Replayed, herd, kept_rows

if TYPE_CHECKING:
    from torch.utils.data import Sampler

    from zoo.contracts.objective import TrainingRows
    from zoo.model import Model
    from zoo_methods.continual import Continual

__all__ = ["STATE", "SequenceObjective", "class_tasks", "memory_of"]

log = logging.getLogger("zoo")

STATE = "continual"
"""The name of what the method keeps in ``model.state``."""
_OUT = -1e4
"""A logit of a class that no row of the task has; within what 16 bits can hold."""


def class_tasks(model: Model) -> dict[str, Task]:
    """Give the tasks of one class a sample, by name."""
    return {
        name: task
        for name, task in model.tasks().items()
        if task.activation == "softmax" and task.masks is None and getattr(task.config, "classes", None)
    }


def memory_of(model: Model) -> Mapping[str, Any]:
    """Give the memory that a model holds: ``kept`` rows, and the ``groups`` that they are of; empty without one."""
    found: Mapping[str, Any] = model.state.get(STATE, {}).get("memory", {})
    return found


class SequenceObjective(Objective):
    """The heads' losses and what keeps a model from forgetting.

    Args:
        how: The method's settings.
        model: The model before its heads grow.
        seed: The run's seed.
    """

    def __init__(self, how: Continual, model: Model, seed: int) -> None:
        super().__init__()
        self._how, self._seed = how, seed
        self._classes = {name: len(task.config.classes) for name, task in class_tasks(model).items()}
        state = model.state.get(STATE, {})
        self._task = int(state.get("tasks", 0))
        self._learnt = bool(self._task or model.provenance.get("data", {}).get("columns"))
        self._replays = how.how in ("replay", "icarl")
        self._old = len(memory_of(model).get("groups", ())) if self._replays else 0
        self._held: dict[str, dict[str, Tensor]] = {}
        self._out: dict[str, Tensor] = {}
        self._taught: dict[str, Tensor] = {}
        self._aside: dict[str, Any] = {}  # neither its parameters nor its state

    @property
    def live(self) -> bool:
        """Whether the model runs on pictures: for a teacher that needs them, or weights that must be as they are."""
        return self._how.how in ("ewc", "lwf", "icarl")

    def order(self, targets: Mapping[str, Any], seed: int) -> Sampler[int] | None:
        """Draw the memory among the new rows, for replay; else each row comes once an epoch."""
        if not self._old or self._how.how != "replay":
            return None
        count = len(next(iter(targets.values()))) if targets else self._old + 1
        return Replayed(count - self._old, self._old, float(self._how.setting("share")), seed)

    def begin(self, model: Model, rows: TrainingRows) -> None:
        """Take up what the tasks before left."""
        self._aside["rows"] = rows
        state = model.state.get(STATE, {})
        how = self._how.how
        if how == "ewc" and "ewc" in state:
            weights = dict(model.named_parameters())
            known = [name for name in state["ewc"]["fisher"] if name in weights]
            for part, fill in (("fisher", False), ("anchor", True)):
                given = state["ewc"][part]
                self._held[part] = {
                    name: grown_to(given[name].to(rows.place), weights[name], weights[name] if fill else None)
                    for name in known
                }
        elif how != "naive" and not (self._learnt and how == "lwf") and not state:
            log.info("continual: the model has learnt no task by how=%r yet; this is the first.", how)
        if self._learnt and how in ("lwf", "icarl"):
            self._aside["teacher"] = teacher_of(model)
        for name, task in class_tasks(model).items():
            count = len(task.config.classes)
            new = self._seen(rows, name, len(rows) - self._old, count)
            self._taught[name] = (torch.arange(count) < self._classes[name]).to(rows.place)
            if how == "icarl":
                self._taught[name] &= ~new
            if self._how.among == "task":
                self._out[name] = ~self._seen(rows, name, len(rows), count)

    def _seen(self, rows: TrainingRows, name: str, first: int, count: int) -> Tensor:
        """Say which classes the first rows have, ``(K,)``."""
        target = rows.targets[name][:first]
        return (torch.bincount(target[target >= 0], minlength=count) > 0).to(rows.place)

    def losses(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Give the heads' losses, or iCaRL's, and what the old tasks add."""
        how = self._how.how
        taught = {}
        if "teacher" in self._aside:
            with torch.no_grad():
                taught = self._aside["teacher"](batch.inputs)
        if how == "icarl":
            return {f"icarl/{name}": self._exemplars(name, task, batch, taught) for name, task in _only(model)}
        parts = dict(batch.losses)
        if self._out:
            masked = {name: batch.outputs[name].masked_fill(out, _OUT) for name, out in self._out.items()}
            parts |= model.losses({**batch.outputs, **masked}, batch.targets)
        if taught:
            strength, temperature = float(self._how.setting("strength")), float(self._how.setting("temperature"))
            for name, task in class_tasks(model).items():
                old = self._taught[name]
                loss = old_classes_loss(batch.outputs[name][:, old], taught[name][:, old], temperature)
                parts[f"lwf/{name}"] = strength * task.config.weight * loss
        if self._held.get("fisher"):
            weights = dict(model.named_parameters())
            held = self._held
            parts["ewc"] = penalty(weights, held["fisher"], held["anchor"], float(self._how.setting("strength")))
        return parts

    def _exemplars(self, name: str, task: Task, batch: Batch, taught: Mapping[str, Tensor]) -> Tensor:
        output, target = batch.outputs[name], batch.targets[name]
        known = task.known(target)
        if not bool(known.any()):
            return zero_loss(output)
        old = taught[name][known] if name in taught else None
        loss: Tensor = task.config.weight * exemplar_loss(output[known], target[known], old, self._taught[name])
        return loss

    def finish(self, model: Model) -> None:
        """Leave the Fisher information or the memory in the model, and that one more task is learnt."""
        rows: TrainingRows = self._aside["rows"]
        state = {**model.state.get(STATE, {}), "tasks": self._task + 1}
        if self._how.how == "ewc":
            drawn = torch.Generator().manual_seed(self._seed)
            chosen = torch.randperm(len(rows), generator=drawn)[: int(self._how.setting("fisher_rows"))].tolist()
            fisher = fisher_of(model.to(rows.place), rows, chosen)
            decay = self._how.setting("decay")
            state["ewc"] = accumulated(state.get("ewc"), fisher, dict(model.named_parameters()), decay=decay)
        elif self._replays:
            state["memory"] = self._remembered(model, rows, state.get("memory", {}))
        model.state = {**model.state, STATE: state}

    def _remembered(self, model: Model, rows: TrainingRows, before: Mapping[str, Any]) -> dict[str, Any]:
        """Choose the rows of the memory: of each class of each task as many."""
        first = len(rows) - self._old
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (task, code) in enumerate(before.get("groups", ())):
            groups.setdefault((task, code), []).append(first + place)
        for code, found in self._new_groups(model, rows, first).items():
            groups[self._task, code] = found
        memory = int(self._how.setting("memory"))
        if memory < len(groups):
            raise ConfigError(
                f"memory={memory} cannot hold a row of each of {len(groups)} classes and tasks so far; give it more."
            )
        if self._how.how == "icarl":
            groups |= self._herded(model, rows, {key: g for key, g in groups.items() if key[0] == self._task}, memory)
        chosen = kept_rows(list(groups.values()), memory)
        of = {row: key for key, found in groups.items() for row in found}
        return {"kept": rows.keep(chosen), "groups": [list(of[row]) for row in chosen]}

    def _new_groups(self, model: Model, rows: TrainingRows, first: int) -> dict[int, list[int]]:
        """Give the new rows of each class, in an order of the seed; all in one group where no single task has such."""
        order = torch.randperm(first, generator=torch.Generator().manual_seed(self._seed)).tolist()
        tasks = class_tasks(model)
        if len(tasks) != 1 or len(model.tasks()) != 1:
            return {-1: order}
        target = rows.targets[next(iter(tasks))].tolist()
        codes = sorted({target[row] for row in order if target[row] >= 0})
        return {code: [row for row in order if target[row] == code] for code in codes}

    def _herded(
        self, model: Model, rows: TrainingRows, groups: Mapping[tuple[int, int], Sequence[int]], memory: int
    ) -> dict[tuple[int, int], list[int]]:
        """Put the rows of each group in the order in which herding chooses them."""
        ((_, task),) = _only(model)
        with torch.no_grad():
            found_of = [model.features(inputs)[task.stream].pooled for inputs in rows.batches()]
            features = torch.cat([pooled.float() for pooled in found_of if pooled is not None])
        found = {}
        for key, group in groups.items():
            own = sorted(group)
            found[key] = [own[place] for place in herd(features[own], memory)]
        return found


def _only(model: Model) -> list[tuple[str, Task]]:
    return list(class_tasks(model).items())

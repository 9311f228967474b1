"""The ensemble: several models that predict, are evaluated and saved as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.contracts.head import Task
from zoo.contracts.modules import ModuleMap
from zoo.data import Inputs, Preparer, prepared
from zoo.ensembling.aligning import Alignment
from zoo.ensembling.combining import Stack, combined
from zoo.ensembling.feeding import Feeding
from zoo.ensembling.sharing import Sharing
from zoo.ensembling.spec import EnsembleSpec
from zoo.ensembling.uncertainty import EnsemblePrediction, uncertainties
from zoo.ensembling.views import expanded, merged
from zoo.errors import ConfigError
from zoo.model import Model
from zoo.predicting import predict

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Several models as one; made by ``zoo.ensemble`` and ``zoo.load``.

    Its outputs are in the form that the first member's tasks read: loss, metrics and decoding are theirs. A backbone
    that members share byte for byte runs once for each batch.

    Args:
        spec: The ensemble as data.
        members: Member name to model, in the order of the spec.

    Shape:
        - input: ``(B, C, H, W)`` float where all members normalise alike; else what :meth:`preprocess` makes.
        - output: task name to tensor.

    Raises:
        ConfigError: If the members' tasks differ, or the weights name a task that is not there.
    """

    def __init__(self, spec: EnsembleSpec, members: Mapping[str, Model]) -> None:
        super().__init__()
        self.spec = spec
        self.members: ModuleMap[Model] = ModuleMap(members)
        self.stacks: ModuleMap[Stack] = ModuleMap({})
        """Task name to its fitted model, for ``stacking``."""
        self.origins: dict[str, Path] = {}
        """Member name to the folder of the bundle that it came from."""
        self.provenance: dict[str, Any] = {}
        """How the ensemble came to be; JSON, kept in its bundle."""
        held = dict(members)
        self._alignment = Alignment(held)
        self._sharing = Sharing(held)
        self._sharing.groups()
        self._feeding = Feeding(held, self._sharing, spec.views)
        tasks = self.tasks()
        for name in spec.weights:
            if name not in tasks:
                raise ConfigError(f"The weights name the task {name!r}; the members' tasks are {', '.join(tasks)}.")
        self.eval()

    # --- forward

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Give the output of every task for a batch."""
        return self.combine(self.member_outputs(inputs))

    def member_outputs(self, inputs: Any) -> dict[str, Tensor]:
        """Give what each member says: task name to outputs, classes in the order of the first member.

        Args:
            inputs: As for :meth:`forward`.

        Shape:
            - returns: ``(M, B, …)`` for each task.

        Raises:
            ShapeError: If an input is missing or does not fit.
        """
        views = self.spec.views
        keys = {} if views is None else self._feeding.keys()
        fed = self._feeding.by_member(expanded(inputs, views, keys))
        runs = self._sharing.runs()
        tasks = self.tasks()
        found: dict[str, list[Tensor]] = {name: [] for name in tasks}
        for member, model in self.members.items():
            outputs = model.score(model.features(fed[member], run=runs(member)))
            for name, task in tasks.items():
                one = merged(outputs[name], views, task.activation)
                found[name].append(self._alignment.apply(member, name, one))
        return {name: torch.stack(_of_one_type(each)) for name, each in found.items()}

    def combine(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make one output of those of all members, for each task.

        Args:
            outputs: As :meth:`member_outputs` gave them.

        Raises:
            ConfigError: If weights must be fitted first.
        """
        tasks, how, stacks = self.tasks(), self.spec.combine, dict(self.stacks.items())
        self._check_fitted()
        return {
            name: combined(
                each,
                how,
                tasks[name].activation,
                weights=self.weights_of(name, each.device),
                stack=stacks.get(name),
            )
            for name, each in outputs.items()
        }

    def weights_of(self, task: str, device: torch.device | None = None) -> Tensor | None:
        """Give the weights of the members for a task, ``(M,)`` float64; None where all count alike."""
        given = self.spec.weights.get(task)
        return None if given is None else torch.tensor(given, dtype=torch.float64, device=device)

    def _check_fitted(self) -> None:
        how = self.spec.combine
        known = {"weighted": self.spec.weights, "greedy": self.spec.weights, "stacking": self.stacks}.get(how)
        missing = [] if known is None else [name for name in self.tasks() if name not in known]
        if missing:
            raise ConfigError(
                f"combine={how!r} must be fitted on validation data first: ensemble.fit(data); "
                f"{', '.join(missing)} has no weights."
            )

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the loss of every task, by the heads of the first member."""
        first = next(iter(self.members.values()))
        return first.losses(outputs, targets)

    def tasks(self) -> dict[str, Task]:
        """Give the tasks by name: those of the first member, whose order of classes is the ensemble's."""
        return next(iter(self.members.values())).tasks()

    # --- inputs

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self._feeding.modalities)

    @property
    def modalities(self) -> dict[str, str]:
        """Input name to what its samples are, such as ``image``."""
        return dict(self._feeding.modalities)

    def preparers(self) -> dict[str, Preparer]:
        """Give the functions from samples to what :meth:`forward` takes, one for all members that see the same.

        Raises:
            ConfigError: If a backbone has no way from a sample to its input.
        """
        return self._feeding.preparers()

    def preprocess(self, rows: Sequence[Inputs], pool: ThreadPoolExecutor | None = None) -> dict[str, Any]:
        """Turn rows of samples into the batch that the ensemble takes; as ``Model.preprocess``."""
        return prepared(self.preparers(), rows, pool)

    def shared(self) -> list[tuple[str, ...]]:
        """List the groups of ``member.stream`` whose backbones are the same, so that one of them runs for all."""
        return [tuple(f"{member}.{stream}" for member, stream in group.members) for group in self._sharing.groups()]

    # --- prediction

    def predict(self, pictures: Any, *, batch_size: int = 32, device: str | torch.device | None = None) -> Any:
        """Predict in the user's own words, each with how sure the ensemble is.

        Args:
            pictures: As for ``Model.predict``.
            batch_size: Samples in one pass, 1 or more.
            device: Where to run; None for where the ensemble is.

        Returns:
            Task name to prediction, or a list of such dicts in the order of the pictures.

        Raises:
            DataError: If a picture cannot be read.
            ShapeError: If a tensor does not fit, or members would need different ones.
            ConfigError: If weights must be fitted first, ``batch_size`` is below 1, or the device is not there.
        """
        self._check_fitted()
        return predict(self, pictures, self._told, batch_size=batch_size, device=device)

    def _told(self, batch: Mapping[str, Any]) -> dict[str, list[EnsemblePrediction]]:
        """Run the members and decode what they give."""
        outputs = {name: each.cpu() for name, each in self.member_outputs(batch).items()}
        tasks = self.tasks()
        told = {}
        for name, output in self.combine(outputs).items():
            task = tasks[name]
            sure = uncertainties(outputs[name], output, task.activation, self.weights_of(name))
            pairs = zip(task.decode(output), sure, strict=True)
            told[name] = [EnsemblePrediction(prediction, uncertainty) for prediction, uncertainty in pairs]
        return told

    # --- fitting and saving

    def fit(self, data: Any, **settings: Any) -> Ensemble:
        """Fit the weights of ``weighted``, ``greedy`` or ``stacking`` on validation data; see ``zoo.fit_ensemble``.

        Returns:
            The ensemble itself.
        """
        import zoo

        return zoo.fit_ensemble(self, data, **settings)

    def set_weights(self, weights: Mapping[str, Sequence[float]]) -> None:
        """Set the members' weights, task by task; they are made to sum to 1."""
        made = {task: tuple(float(w) / float(sum(each)) for w in each) for task, each in weights.items()}
        self.spec = replace(self.spec, weights=made)

    def save(
        self, path: str | Path, *, overwrite: bool = False, members: Literal["embed", "refer"] | None = None
    ) -> Path | str:
        """Save the ensemble as a bundle; see ``zoo.save``."""
        import zoo

        return zoo.save(self, path, overwrite=overwrite, members=members)


def _of_one_type(outputs: list[Tensor]) -> list[Tensor]:
    """Bring outputs to the widest floating type among them, float32 at least."""
    wide = torch.float32
    for output in outputs:
        wide = torch.promote_types(wide, output.dtype)
    return [output.to(wide) for output in outputs]

"""The model: backbones, heads on them, and nothing that a plain training loop could not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, tensor_names
from zoo.contracts.features import Features, Want
from zoo.contracts.head import Decoded, Head, Task
from zoo.contracts.modules import ModuleMap
from zoo.data import Sample, SamplePreprocessor, as_samples
from zoo.errors import ConfigError, ShapeError, UnknownName, nearest
from zoo.freezing import freeze_stages
from zoo.spec import ModelSpec

__all__ = ["Model", "StageRow", "as_device"]

Prediction = dict[str, Decoded]


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a model, as ``model.stages()`` lists it.

    Args:
        name: ``stream.stage``, or ``heads.name``.
        parameters: Number of parameters.
        frozen: Whether it is frozen.
    """

    name: str
    parameters: int
    frozen: bool


class Model(nn.Module):
    """Backbones with heads on them; made by ``zoo.build`` and ``zoo.load``.

    Args:
        spec: The model as data.
        backbones: Stream name to backbone; each is cut to what the spec says that the heads read.
        heads: Head name to head, in order.
        wants: Stream name to the features that the heads need.

    Shape:
        - input: ``(B, C, H, W)`` float for a model with one input; else input name to tensor, or to a mapping of the
          backbone's input names to tensors.
        - output: task name to tensor.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbones: Mapping[str, Backbone],
        heads: Mapping[str, Head],
        wants: Mapping[str, Want],
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backbones: ModuleMap[Backbone] = ModuleMap(backbones)
        self.heads: ModuleMap[Head] = ModuleMap(heads)
        self.wants = dict(wants)
        self.provenance: dict[str, Any] = {}
        """How the model came to be (method, data, metrics); JSON, kept in its bundle."""
        self.cut: dict[str, frozenset[str]] = {
            stream: _cut_off(backbones[stream], entry.keep) for stream, entry in spec.streams.items()
        }
        """The stages of each stream of which nothing is left, since no head reads them."""
        self._frozen: dict[str, frozenset[str]] = {stream: frozenset() for stream in backbones}

    # --- forward

    def forward(self, inputs: Tensor | Mapping[str, Any]) -> dict[str, Tensor]:
        """Give the output of every task for a batch."""
        return self.score(self.features(inputs))

    def features(self, inputs: Tensor | Mapping[str, Any]) -> dict[str, Features]:
        """Give the features of every stream: one pass through each backbone.

        Raises:
            ShapeError: If an input is missing, or has the wrong rank, channels, size or dtype.
        """
        given = self._by_name(inputs)
        return {
            stream: self.backbones[stream](given[entry.input], self.wants[stream])
            for stream, entry in self.spec.streams.items()
        }

    def score(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the output of every task from features."""
        return {name: output for head in self.heads.values() for name, output in head(features).items()}

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weighted loss of every task; the model's loss is their sum.

        Args:
            outputs: As :meth:`forward` gave them.
            targets: Task name to encoded target; a task without an entry has no labels in this batch.
        """
        return {name: loss for head in self.heads.values() for name, loss in head.losses(outputs, targets).items()}

    def tasks(self) -> dict[str, Task]:
        """Give all tasks by name, those inside combinators too."""
        return {name: task for head in self.heads.values() for name, task in head.tasks().items()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the streams."""
        return tuple(dict.fromkeys(entry.input for entry in self.spec.streams.values()))

    def _by_name(self, inputs: Tensor | Mapping[str, Any]) -> Mapping[str, Any]:
        names = self.input_names
        if isinstance(inputs, Tensor):
            if len(names) > 1:
                raise ShapeError(f"The model has the inputs {', '.join(names)}; give a dict of them, got one tensor.")
            return {names[0]: inputs}
        if len(names) == 1 and names[0] not in inputs:
            return {names[0]: inputs}  # the backbone's own input names, such as input_ids
        for name in names:
            if name not in inputs:
                raise ShapeError(f"The model needs the input {name!r}, got {', '.join(inputs) or 'none'}.")
        return inputs

    # --- stages and freezing

    def stages(self) -> list[StageRow]:
        """List the stages of every backbone in the order of execution, then the heads; what was cut off is left out."""
        rows = []
        for stream, backbone in self.backbones.items():
            counts = dict.fromkeys([stage.name for stage in backbone.spec.stages], 0)
            for name, parameter in backbone.native.named_parameters():
                counts[backbone.stage_of(name)] += parameter.numel()
            for cut in self.cut[stream]:
                counts.pop(cut)
            frozen = self._frozen[stream]
            rows += [StageRow(f"{stream}.{stage}", count, stage in frozen) for stage, count in counts.items()]
        for name, head in self.heads.items():
            rows.append(StageRow(f"heads.{name}", sum(p.numel() for p in head.parameters()), False))
        return rows

    def freeze(self, until: str | None = None) -> Model:
        """Freeze the backbones: weights, running statistics and dropout, through any later ``.train()``.

        Args:
            until: The last stage to freeze, as ``s3`` (in every stream) or ``stream.s3``; None for all of them.

        Returns:
            The model itself.

        Raises:
            UnknownName: If there is no such stage.
        """
        for stream, stages in self._up_to(until).items():
            self.set_frozen(stream, self._frozen[stream] | stages)
        return self

    def unfreeze(self, since: str | None = None) -> Model:
        """Let stages train again.

        Args:
            since: The first stage to unfreeze, as in :meth:`freeze`; None for all of them.

        Returns:
            The model itself.

        Raises:
            UnknownName: If there is no such stage.
        """
        if since is None:
            below: Mapping[str, frozenset[str]] = {stream: frozenset() for stream in self.backbones}
        else:
            stage = since.rpartition(".")[2]
            below = {stream: stages - {stage} for stream, stages in self._up_to(since).items()}
        for stream, stages in below.items():
            self.set_frozen(stream, self._frozen[stream] & stages)
        return self

    def set_frozen(self, stream: str, stages: frozenset[str]) -> None:
        """Make exactly these stages of a stream frozen."""
        self._frozen[stream] = stages
        freeze_stages(self.backbones[stream], stages)

    def frozen(self) -> dict[str, frozenset[str]]:
        """Give the frozen stages of each stream."""
        return dict(self._frozen)

    def _up_to(self, until: str | None) -> dict[str, frozenset[str]]:
        wanted, _, stage = (until or "").rpartition(".")
        if wanted and wanted not in self.backbones:
            raise UnknownName(f"The model has no stream {wanted!r}; it has {', '.join(self.backbones)}.")
        found = {}
        for stream, backbone in self.backbones.items():
            if wanted and stream != wanted:
                continue
            names = [entry.name for entry in backbone.spec.stages]
            if until is None:
                found[stream] = frozenset(names)
                continue
            backbone.spec.stage(stage)
            found[stream] = frozenset(names[: names.index(stage) + 1])
        return found

    # --- prediction

    @overload
    def predict(
        self, pictures: str | Path | Sample, *, batch_size: int = 32, device: str | torch.device | None = None
    ) -> Prediction: ...
    @overload
    def predict(
        self, pictures: list[Any] | tuple[Any, ...], *, batch_size: int = 32, device: str | torch.device | None = None
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, pictures: Any, *, batch_size: int = 32, device: str | torch.device | None = None
    ) -> Prediction | list[Prediction]: ...
    def predict(
        self, pictures: Any, *, batch_size: int = 32, device: str | torch.device | None = None
    ) -> Prediction | list[Prediction]:
        """Predict in the user's own words: class names, probabilities, numbers.

        Args:
            pictures: A path, a Pillow image or a ``(C, H, W)`` tensor gives one prediction; a sequence of them, or a
                ``(B, C, H, W)`` tensor, a list. A tensor must be normalised already; paths and images are preprocessed
                as the backbone was trained.
            batch_size: Pictures in one pass, 1 or more.
            device: Where to run; None for where the model is.

        Returns:
            Task name to prediction, or a list of such dicts in the order of the pictures.

        Raises:
            DataError: If a picture cannot be read; the message has its path and the reason.
            ShapeError: If a tensor does not fit.
            ConfigError: If the model takes something else than one picture, ``batch_size`` is below 1, or the device is
                not there.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
        samples, single = as_samples(pictures)
        found = [row for rows in self._predict_batches(samples, batch_size, device) for row in rows]
        return found[0] if single else found

    def _predict_batches(
        self, samples: list[Sample], batch_size: int, device: str | torch.device | None
    ) -> Iterator[list[Prediction]]:
        place = as_device(device) if device is not None else next(self.parameters()).device
        was_training = self.training
        self.eval().to(place)
        try:
            with torch.no_grad(), ThreadPoolExecutor(max_workers=4) as pool:
                for start in range(0, len(samples), batch_size):
                    batch = self.preprocess(samples[start : start + batch_size], pool)
                    outputs = self({name: tensor.to(place) for name, tensor in batch.items()})
                    tasks = self.tasks()
                    decoded = {name: tasks[name].decode(_plain(output)) for name, output in outputs.items()}
                    count = len(samples[start : start + batch_size])
                    yield [{name: rows[row] for name, rows in decoded.items()} for row in range(count)]
        finally:
            self.train(was_training)

    def preprocess(self, samples: Sequence[Sample], pool: ThreadPoolExecutor | None = None) -> dict[str, Tensor]:
        """Turn samples into the batch that the model takes.

        Args:
            samples: Pictures, or ready tensors.
            pool: Threads that open pictures; None to open them one by one.

        Returns:
            Input name to ``(B, C, H, W)``.

        Raises:
            ConfigError: If the model has several inputs, or its input is not a picture.
            DataError: If a picture cannot be read.
            ShapeError: If the tensors differ in size.
        """
        one = self.preprocessor()
        tensors = list(pool.map(one, samples) if pool is not None else map(one, samples))
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise ShapeError(
                f"The pictures of one batch must have one size, got {sorted(sizes)}; "
                "name a size in the reference ('?img_size=224'), or give pictures of one shape."
            )
        return {self.input_names[0]: torch.stack(tensors)}

    def preprocessor(self) -> SamplePreprocessor:
        """Give the function from one sample to the tensor that the model takes.

        Raises:
            ConfigError: If the model has several inputs, or its input is not a picture.
        """
        names = self.input_names
        if len(names) > 1:
            raise ConfigError(f"The model has the inputs {', '.join(names)}; call it with a dict of tensors.")
        backbones = [stream.backbone for stream in self.spec.streams.values()]
        recipes = {backbone.preprocessing for backbone in backbones}
        recipe = recipes.pop()
        if recipes:
            raise ConfigError("The model's streams see a picture each in its own form; call it with a dict of tensors.")
        if recipe is None:
            what = ", ".join(entry.name for entry in backbones[0].inputs)
            raise ConfigError(
                f"{backbones[0].reference} ({backbones[0].modality}) has no way from a picture to its input; "
                f"call the model with tensors: {what}."
            )
        return SamplePreprocessor(recipe)

    # --- saving

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Save the model as a bundle; see ``zoo.save``."""
        import zoo

        return zoo.save(self, path, overwrite=overwrite)

    def task(self, name: str) -> Task:
        """Find a task by name.

        Raises:
            UnknownName: If the model has no such task.
        """
        tasks = self.tasks()
        if name not in tasks:
            raise UnknownName(f"The model has no task {name!r}; it has {', '.join(nearest(name, tasks) or tasks)}.")
        return tasks[name]


def _plain(output: Tensor) -> Tensor:
    """Bring an output to the CPU, in a type that numpy knows."""
    return output.float().cpu() if output.dtype in (torch.bfloat16, torch.float16) else output.cpu()


def _cut_off(backbone: Backbone, keep: Want | None) -> frozenset[str]:
    """Trim a backbone to what is read of it; give the stages that had tensors and have none now."""
    if keep is None:
        return frozenset()
    before = list(tensor_names(backbone.native))
    backbone.trim(keep)
    if backbone.kept is None:
        return frozenset()
    left = frozenset(map(backbone.stage_of, tensor_names(backbone.native)))
    return frozenset(map(backbone.stage_of, before)) - left


def as_device(device: str | torch.device) -> torch.device:
    """Check that a device is there.

    Raises:
        ConfigError: If it is not.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"device must be one of this machine, such as 'cpu', got {device!r}: {reason}") from error

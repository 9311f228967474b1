"""The model: backbones, heads on them, and nothing that a plain training loop could not use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from zoo.adapters.surface import Adapting
from zoo.contracts.backbone import Backbone, tensor_names
from zoo.contracts.features import Features, Want
from zoo.contracts.head import Decoded, Head, Task
from zoo.contracts.modules import ModuleMap
from zoo.contracts.sharing import Shared
from zoo.data import PRESENT, Inputs, Preparer, Sample, prepared
from zoo.errors import UnknownName, nearest
from zoo.freezing import NormPins, freeze_module, freeze_stages
from zoo.growing import Growing
from zoo.predicting import Prediction, plain, predict
from zoo.routing import by_stream
from zoo.spec import ModelSpec
from zoo.stages import StageRow, heads_named, one_stage, parameters_by_stage, stages_up_to

__all__ = ["Model", "StageRow"]


class Model(Adapting, Growing):
    """Backbones with heads on them; made by ``zoo.build`` and ``zoo.load``.

    Args:
        spec: The model as data.
        backbones: Stream name to backbone; each is cut to what the spec says that the heads read.
        heads: Head name to head, in order.
        wants: Stream name to the features that the heads need.
        optional: The streams whose input a sample may lack.

    Shape:
        - input: ``(B, C, H, W)`` float for a model with one input; else input name to tensor, or to a mapping of the
          backbone's input names to tensors. Where streams see one input each in its own form, stream name to that; and
          under ``present``, for an input that some samples lack, its name to ``(B,)`` bool.
        - output: task name to tensor.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbones: Mapping[str, Backbone],
        heads: Mapping[str, Head],
        wants: Mapping[str, Want],
        optional: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backbones: ModuleMap[Backbone] = ModuleMap(backbones)
        self.heads: ModuleMap[Head] = ModuleMap(heads)
        self.wants = dict(wants)
        self.input_names = tuple(dict.fromkeys(entry.input for entry in spec.streams.values()))
        """Names of the inputs, in the order of the streams."""
        self._optional = optional
        self._alone = next(iter(spec.streams)) if len(spec.streams) == 1 and not optional else None
        self.provenance: dict[str, Any] = {}
        """How the model came to be (method, data, metrics); JSON, kept in its bundle."""
        self.state: dict[str, Any] = {}
        """What methods keep from one run to the next, by name: trees of tensors and JSON, kept in its bundle."""
        self.cut: dict[str, frozenset[str]] = {
            stream: _cut_off(backbone, spec.streams[stream].keep) for stream, backbone in backbones.items()
        }
        """The stages of each backbone of which nothing is left, since no head reads them."""
        self.rates: dict[str, float] = {}
        """Stage to the learning rate that a training plan gave it last, ``heads`` for all heads."""
        self._frozen: dict[str, frozenset[str]] = {stream: frozenset() for stream in backbones}
        self._frozen_heads: frozenset[str] = frozenset()
        self._norms: dict[str, NormPins] = {}

    # --- forward

    def forward(self, inputs: Tensor | Mapping[str, Any]) -> dict[str, Tensor]:
        """Give the output of every task for a batch."""
        return self.score(self.features(inputs))

    def features(
        self,
        inputs: Tensor | Mapping[str, Any],
        *,
        run: Callable[[str, Any], Features] | None = None,
        wants: Mapping[str, Want] | None = None,
    ) -> dict[str, Features]:
        """Give the features of every stream: one pass through each backbone for each input that it sees.

        Args:
            inputs: As for :meth:`forward`.
            run: Gives the features of a stream from what it sees; None to run its own backbone.
            wants: Stream name to what is wanted of its backbone beside what the heads read.

        Raises:
            CapabilityError: If a backbone cannot give what is wanted, or it was cut off.
            ShapeError: If an input is missing, or has the wrong rank, channels, size or dtype.
        """
        if self._alone is not None and run is None and not wants and isinstance(inputs, Tensor):
            return {self._alone: self.backbones[self._alone](inputs, self.wants[self._alone])}
        given = by_stream(self.spec, self.input_names, inputs)
        found: dict[str, Features] = {}
        passes: dict[tuple[str, int], Features] = {}
        for stream, entry in self.spec.streams.items():
            owner, seen = entry.shares or stream, given[stream]
            if (owner, id(seen)) not in passes:
                own, want = self.backbones[owner], self.wants[stream]
                if wants and stream in wants:
                    want = want | wants[stream]
                passes[owner, id(seen)] = own(seen, want) if run is None else run(stream, seen)
            found[stream] = passes[owner, id(seen)]
            if self._optional and isinstance(inputs, Mapping):
                found[stream] = replace(found[stream], present=inputs.get(PRESENT, {}).get(entry.input))
        return found

    def score(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Give the output of every task from features."""
        return {name: output for head in self.heads.values() for name, output in head(features).items()}

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], *, later: bool = False
    ) -> dict[str, Tensor]:
        """Give the weighted loss of every task; the model's loss is their sum.

        Args:
            outputs: As :meth:`forward` gave them.
            targets: Task name to encoded target; a task without an entry has no labels in this batch.
            later: Whether heads that balance tasks by shared parameters may find none, as a backbone trains later;
                else that is a ``ConfigError``.
        """
        found: dict[str, Tensor] = {}
        for head in self.heads.values():
            losses: Mapping[str, Tensor] = head.losses(outputs, targets)
            if self.training and torch.is_grad_enabled() and head.balances:
                losses = head.balance(losses, targets, Shared.of(dict(self.backbones.items()), later=later))
            found.update(losses)
        return found

    def tasks(self) -> dict[str, Task]:
        """Give all tasks by name, those inside combinators too."""
        return {name: task for head in self.heads.values() for name, task in head.tasks().items()}

    # --- stages and freezing

    def stages(self) -> list[StageRow]:
        """List the stages of every backbone in the order of execution, then the heads; what was cut off is left out."""
        rows = []
        for stream, backbone in self.backbones.items():
            rows += [
                self._row(f"{stream}.{stage}", *counts, stage in self._frozen[stream], f"{stream}.{stage}")
                for stage, counts in parameters_by_stage(backbone).items()
                if stage not in self.cut[stream]
            ]
        for name, head in self.heads.items():
            count = sum(parameter.numel() for parameter in head.parameters())
            rows.append(self._row(f"heads.{name}", count, 0, name in self._frozen_heads, "heads"))
        return rows

    def _row(self, name: str, parameters: int, adapters: int, frozen: bool, planned: str) -> StageRow:
        return StageRow(name, parameters, frozen, None if frozen else self.rates.get(planned), adapters)

    def freeze(self, until: str | None = None) -> Model:
        """Freeze stages or heads: weights, running statistics and dropout, through any later ``.train()``.

        Args:
            until: The last stage to freeze, as ``s3`` (in every stream) or ``stream.s3``; ``heads.name`` for a head,
                ``heads`` for all of them; None for all stages of the backbones.

        Returns:
            The model itself.

        Raises:
            UnknownName: If there is no such stage or head.
        """
        heads = heads_named(self.spec, until)
        if heads is not None:
            self.set_frozen_heads(self._frozen_heads | heads)
            return self
        for stream, stages in stages_up_to(self.spec, self.backbones, until).items():
            self.set_frozen(stream, self._frozen[stream] | stages)
        return self

    def unfreeze(self, since: str | None = None) -> Model:
        """Let stages or heads train again; norms that :meth:`freeze_norms` pinned stay so.

        Args:
            since: The first stage to unfreeze, or the heads, as in :meth:`freeze`; None for all stages and heads.

        Returns:
            The model itself.

        Raises:
            UnknownName: If there is no such stage or head.
        """
        heads = frozenset(self.heads) if since is None else heads_named(self.spec, since)
        if heads is not None:
            self.set_frozen_heads(self._frozen_heads - heads)
        if since is None:
            for stream in self.backbones:
                self.set_frozen(stream, frozenset())
        elif heads is None:
            stage = since.rpartition(".")[2]
            for stream, stages in stages_up_to(self.spec, self.backbones, since).items():
                self.set_frozen(stream, self._frozen[stream] & stages - {stage})
        return self

    def freeze_norms(self, *stages: str, weights: bool = False) -> Model:
        """Pin the norms with running statistics of the backbones, also in stages that train, whatever the method.

        Args:
            stages: The very stages, as ``s3`` (in every stream) or ``stream.s3``; none for all of them.
            weights: Whether their weights and biases are frozen as well; those that are stay so.

        Returns:
            The model itself.

        Raises:
            UnknownName: If there is no such stage.
        """
        every = [f"{stream}.{stage.name}" for stream, b in self.backbones.items() for stage in b.spec.stages]
        for found in [one_stage(self.spec, self.backbones, name) for name in stages or every]:
            for stream, stage in found.items():
                pins = self._norms.get(stream, {})
                self._norms[stream] = {**pins, stage: weights or pins.get(stage, False)}
        return self._pin_again()

    def unfreeze_norms(self) -> Model:
        """Let all norms follow their stages again."""
        self._norms.clear()
        return self._pin_again()

    def _pin_again(self) -> Model:
        for stream, stages in self._frozen.items():
            self.set_frozen(stream, stages)
        return self

    def set_frozen(self, stream: str, stages: frozenset[str]) -> None:
        """Make exactly these stages of a stream frozen."""
        self._frozen[stream] = stages
        freeze_stages(self.backbones[stream], stages, self._norms.get(stream))
        self._rest_adapters(stream, stages)

    def set_frozen_heads(self, names: frozenset[str]) -> None:
        """Make exactly these heads frozen."""
        for name in names ^ self._frozen_heads:
            freeze_module(self.heads[name], frozen=name in names, training=self.training)
        self._frozen_heads = names

    def frozen(self) -> dict[str, frozenset[str]]:
        """Give the frozen stages of each stream."""
        return dict(self._frozen)

    @property
    def frozen_heads(self) -> frozenset[str]:
        """The names of the frozen heads; a bundle does not keep them."""
        return self._frozen_heads

    @property
    def pinned_norms(self) -> dict[str, NormPins]:
        """Stream to the stages whose norms are pinned, and whether their weights are frozen; no bundle keeps it."""
        return dict(self._norms)

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
                as the backbone was trained. Where the input is a text, a str is one. For a model with several inputs, a
                dict of them by name, or a sequence of such dicts.
            batch_size: Pictures in one pass, 1 or more.
            device: Where to run; None for where the model is.

        Returns:
            Task name to prediction, or a list of such dicts in the order of the pictures.

        Raises:
            DataError: If a picture cannot be read; the message has its path and the reason.
            ShapeError: If a tensor does not fit.
            ConfigError: If a backbone has no way from a sample to its input, ``batch_size`` is below 1, or the device
                is not there.
        """
        return predict(self, pictures, self._told, batch_size=batch_size, device=device)

    def _told(self, batch: Mapping[str, Any]) -> dict[str, list[Decoded]]:
        tasks = self.tasks()
        return {name: tasks[name].decode(plain(output)) for name, output in self(batch).items()}

    def preprocess(self, rows: Sequence[Inputs], pool: ThreadPoolExecutor | None = None) -> dict[str, Any]:
        """Turn rows of samples into the batch that the model takes.

        Args:
            rows: Input name to sample, a row.
            pool: Threads that open samples; None to open them one by one.

        Returns:
            What :meth:`forward` takes.

        Raises:
            ConfigError: If a backbone has no way from a sample to its input.
            DataError: If a sample cannot be read, or is missing.
            ShapeError: If the tensors differ in size.
        """
        return prepared(self.preparers(), rows, pool)

    @property
    def modalities(self) -> dict[str, str]:
        """Input name to what its samples are, such as ``image``."""
        return self.spec.modalities

    def preparers(self) -> dict[str, Preparer]:
        """Give the functions from samples to what the model takes, by the key under which :meth:`forward` takes it.

        That is the input's name, or the stream's where streams that share an input each see it in a form of their own.

        Raises:
            ConfigError: If a backbone has no way from a sample to its input.
        """
        found: dict[str, Preparer] = {}
        for name in self.input_names:
            streams = [stream for stream, entry in self.spec.streams.items() if entry.input == name]
            optional = self._optional.issuperset(streams)
            made = {stream: self._preparer(stream, optional=optional) for stream in streams}
            first = made[streams[0]]
            found |= {name: first} if all(map(first.like, made.values())) else made
        return found

    def _preparer(self, stream: str, *, optional: bool) -> Preparer:
        entry = self.spec.streams[stream]
        spec, recipe = entry.backbone, entry.backbone.preprocessing
        prepare = self.backbones[self.spec.owner(stream)].preprocessor() if recipe is None else recipe.apply
        size = spec.inputs[0].size if recipe is None else recipe.size
        return Preparer(entry.input, spec.modality, prepare, recipe, size, optional)

    # --- saving

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        kind: Literal["full", "delta"] | None = None,
        base: Model | str | Path | None = None,
        probe: bool = True,
    ) -> Path | str:
        """Save the model as a bundle; see ``zoo.save``."""
        import zoo

        return zoo.save(self, path, overwrite=overwrite, kind=kind, base=base, probe=probe)

    def task(self, name: str) -> Task:
        """Find a task by name.

        Raises:
            UnknownName: If the model has no such task.
        """
        tasks = self.tasks()
        if name not in tasks:
            raise UnknownName(f"The model has no task {name!r}; it has {', '.join(nearest(name, tasks) or tasks)}.")
        return tasks[name]


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

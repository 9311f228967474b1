"""What a run starts with: backbones and heads that are built, or a model that was saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from zoo.cli.arguments import heads_for, read_head, read_model, read_pairs, read_weights
from zoo.cli.runfile import is_said
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.data import Table
    from zoo.model import Model
    from zoo.spec import HeadSpec, ModelSpec

__all__ = ["New", "Saved", "Start", "start_of"]


def start_of(context: typer.Context) -> New | Saved:
    """Read what a run starts with from the options of a command that have to do with it.

    Raises:
        ConfigError: If they do not go together.
    """
    given = context.params
    if given["model"] is not None:
        return Saved.of(context, given["model"])
    asked = [given[name] or () for name in ("stream", "inputs", "share")]
    streams = Streams.of(given["backbone"], *asked, command=f"zoo {context.info_name}")
    return New.of(streams, given["head"] or (), given["target"] or (), given.get("weights", "none"))


@dataclass(frozen=True, slots=True)
class Streams:
    """The backbones of a run, as ``zoo.build`` takes them.

    Args:
        backbones: The reference of the only backbone, or stream name to reference.
        inputs: The input of all, or stream name to input; None for each its own.
        share: New stream to the one whose module it runs.
    """

    backbones: str | dict[str, str]
    inputs: str | dict[str, str] | None
    share: dict[str, str] | None

    @classmethod
    def of(
        cls,
        backbone: str | None,
        stream: Sequence[str],
        inputs: Sequence[str],
        share: Sequence[str],
        *,
        command: str,
    ) -> Streams:
        """Read what was typed after a command.

        Raises:
            ConfigError: If there is no backbone, or one of each kind.
        """
        if (backbone is None) == (not stream):
            raise ConfigError(
                f"{command} takes --backbone REF, or --stream NAME=REF for each of several, or --model BUNDLE; give "
                "one of them."
            )
        one = next((text for text in inputs if "=" not in text), None)
        if one is not None and len(inputs) > 1:
            raise ConfigError(f"--input {one} is the input of all streams; leave the others out, or write STREAM=NAME.")
        return cls(
            backbone if backbone is not None else read_pairs("--stream", stream),
            one if one is not None else read_pairs("--input", inputs) or None,
            read_pairs("--share", share) or None,
        )

    def plan(self) -> ModelSpec:
        """Plan the model without its heads; it costs nothing, and says what is wrong."""
        from zoo.assembly import plan_model

        return plan_model(self.backbones, inputs=self.inputs, share=self.share)


class Start(ABC):
    """What gives the model that is trained, and reads the data as it needs them."""

    @abstractmethod
    def make(self, data: str, source: Mapping[str, Any], *, method: str, seed: int) -> tuple[Model, Table]:
        """Give the model and the table.

        Args:
            data: Where the data are.
            source: Arguments of ``zoo.read``.
            method: The training method, or ``auto``.
            seed: Seed of new weights.

        Raises:
            ZooError: If a reference, a bundle or the data cannot be used.
        """


@dataclass(frozen=True, slots=True)
class New(Start):
    """A model that is built.

    Args:
        streams: Its backbones.
        heads: Heads that were typed.
        weights: As ``--weights`` has it.
    """

    streams: Streams
    heads: Sequence[HeadSpec]
    weights: str

    @classmethod
    def of(cls, streams: Streams, head: Sequence[str], target: Sequence[str], weights: str) -> New:
        """Read heads as they were typed.

        Raises:
            ConfigError: If one cannot be read, or columns were typed beside heads.
        """
        if head and target:
            raise ConfigError("--head names the column of each head itself; leave --target out.")
        return cls(streams, [read_head(text) for text in head], weights)

    def make(self, data: str, source: Mapping[str, Any], *, method: str, seed: int) -> tuple[Model, Table]:
        """Read the data, and build heads for their labels where none were typed."""
        import zoo
        from zoo.training.rows.tables import input_columns

        planned = self.streams.plan()
        weights = read_weights(self.weights)
        table = zoo.read(data, **source, **input_columns(planned.modalities))
        asked = bool(self.heads or source["labels"] or source["masks"])
        specs = heads_for(method, table, self.heads, asked=asked)
        backbones, inputs, share = self.streams.backbones, self.streams.inputs, self.streams.share
        return zoo.build(backbones, specs, inputs=inputs, share=share, weights=weights, seed=seed), table


@dataclass(frozen=True, slots=True)
class Saved(Start):
    """A model that was saved, with its heads and all that methods keep in it.

    Args:
        bundle: Folder or URL.
    """

    bundle: str

    @classmethod
    def of(cls, context: typer.Context, bundle: str) -> Saved:
        """Refuse the options of models that are built.

        Raises:
            ConfigError: If one of them was typed or stands in the run file.
        """
        built = ("backbone", "stream", "inputs", "share", "head", "target", "mask", "weights")
        options = {one.name: max(one.opts, key=len) for one in context.command.params}
        if taken := [options[name] for name in built if name in options and is_said(context, name)]:
            instead = ", or give --weights a bundle for its backbones alone" if "weights" in options else ""
            raise ConfigError(
                f"--model {bundle} brings its own backbones and heads; leave {' and '.join(taken)} out{instead}."
            )
        return cls(bundle)

    def make(self, data: str, source: Mapping[str, Any], *, method: str, seed: int) -> tuple[Model, Table]:
        """Load the model, and read the columns of its inputs and heads."""
        from zoo.training.rows.tables import read_for

        model = self.load()
        return model, read_for(model, data, image=source["image"], split=source["split"], strict=source["strict"])

    def load(self) -> Model:
        """Load the model.

        Raises:
            BundleError: If the bundle cannot be read.
            ConfigError: If it is an ensemble.
        """
        return read_model("--model", self.bundle)

"""A run as a file: what ``zoo fit --file`` reads, and its schema, which ``zoo schema`` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.cli.output import say_json, speaks
from zoo.errors import ConfigError
from zoo.strict import check_options, from_json

__all__ = ["RunFile", "is_said", "read_run", "schema", "take_file"]

EXAMPLES = "zoo schema > run.schema.json\n\nzoo schema bundle > zoo.schema.json\n\nzoo fit --file run.yaml --epochs 3"


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run of ``zoo fit``; each field is the option of its name, and what stands on the command line goes first.

    Args:
        data: Folder of class folders, or CSV, TSV or Parquet table; paths are relative to where the command runs.
        out: Folder of the new bundle.
        backbone: The reference of the only backbone.
        streams: Stream name to reference, for a model with several; each reads the column of its name.
        inputs: The one input that all streams see, or stream name to input.
        share: New stream to the stream whose module it runs too.
        heads: The heads: a type, or type, name and settings, other heads among them.
        targets: Columns to learn, with the heads that they call for.
        masks: Columns of masks, for segmentation.
        model: A saved model that is trained on, with its heads and state, in place of backbones and heads.
        method: The training method, or auto for the one that zoo advise names.
        settings: The method's own settings.
        weights: pretrained, none, or a safetensors file.
        epochs: Passes over the training rows.
        batch_size: Rows in a step.
        lr: Highest learning rate of the heads.
        weight_decay: Weight decay of matrices.
        warmup: Share of the steps that warms up.
        optimizer: A class of torch.optim, in any case.
        optimizer_settings: The optimizer's own settings.
        schedule: cosine, linear, constant, one_cycle or plateau.
        schedule_settings: The schedule's own settings.
        clip: Largest norm of the gradient; 0 for any.
        accumulate: Batches whose gradients make one step.
        seed: Seed of new weights, split, order and dropout.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        validation: Share of the training rows to choose the best epoch by.
        patience: Epochs without a better one before it stops.
        select: What the best epoch is chosen by.
        augmentation: light, standard, or the fields of an augmentation.
        freeze: What rests whatever the method says: stages up to the one that is named, heads.NAME; or several.
        cached_views: Views of a picture that frozen stages run on, once each.
        feature_precision: fp32, or bf16 for what frozen stages give once.
        solver: sgd, or lbfgs for linear heads on frozen backbones.
        sampling: balanced, or balanced/task, for every class as often as any other.
        shots: How many labelled training rows of each class are drawn.
        mixup: Parameter of the shares by which training pictures are blended; 0 for not at all.
        cutmix: The same for rectangles of one picture in another.
        freeze_norms: Whether norms keep their running statistics in the stages that train, too.
        ema: Decay of the moving average of the weights.
        checkpoint: Folder that keeps checkpoints and the history.
        resume: Whether to go on from the newest checkpoint there.
        checkpoint_every: Steps from one checkpoint to the next, beside those at epochs' ends.
        keep_checkpoints: How many checkpoints are kept.
        report_to: Trackers, such as tensorboard or wandb.
        compile: Whether to train through torch.compile.
        sharded: Whether each of several processes holds a part of the model.
        unlabelled: Rows without labels, for methods that learn from them.
        image: Column of the pictures, for a model with one input.
        split: Column of train, validation and test.
        strict: Whether to stop at the first unreadable picture.
        kind: full, or delta for a bundle that keeps the backbones only by what differs from their base.
        base: The bundle that a delta is based on; the library's weights by default.
        overwrite: Whether to replace a bundle that is there.
    """

    data: str | None = None
    out: str | None = None
    backbone: str | None = None
    streams: dict[str, str] | None = None
    inputs: str | dict[str, str] | None = None
    share: dict[str, str] | None = None
    heads: tuple[str | dict[str, Any], ...] | None = None
    targets: tuple[str, ...] | None = None
    masks: tuple[str, ...] | None = None
    model: str | None = None
    method: str | None = None
    settings: dict[str, Any] | None = None
    weights: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup: float | None = None
    optimizer: str | None = None
    optimizer_settings: dict[str, Any] | None = None
    schedule: str | None = None
    schedule_settings: dict[str, Any] | None = None
    clip: float | None = None
    accumulate: int | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    validation: float | None = None
    patience: int | None = None
    select: str | None = None
    augmentation: str | dict[str, Any] | None = None
    freeze: str | tuple[str, ...] | None = None
    cached_views: int | None = None
    feature_precision: str | None = None
    solver: str | None = None
    freeze_norms: bool | None = None
    sampling: str | None = None
    shots: int | None = None
    mixup: float | None = None
    cutmix: float | None = None
    ema: float | None = None
    checkpoint: str | None = None
    resume: bool | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int | None = None
    report_to: str | tuple[str, ...] | None = None
    compile: bool | None = None
    sharded: bool | None = None
    unlabelled: str | None = None
    image: str | None = None
    split: str | None = None
    strict: bool | None = None
    kind: str | None = None
    base: str | None = None
    overwrite: bool | None = None


# pydantic reads it, the dataclass does not know it
setattr(RunFile, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010


def read_run(path: Path) -> dict[str, Any]:
    """Read a run file, YAML or JSON, as the options that it stands for.

    Returns:
        Name of a parameter of ``zoo fit`` to its value, as if it were typed.

    Raises:
        ConfigError: If it cannot be read, or says something that no option says.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"--file {path} cannot be read as YAML or JSON: {reason}.") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"--file {path} must hold options by name, such as 'backbone: timm:vit'; see zoo schema.")
    check_options(f"The run file {path}", found, {field.name for field in fields(RunFile)})
    run = from_json(RunFile, found, called=f"--file {path}")
    said = {field.name: value for field in fields(RunFile) if (value := getattr(run, field.name)) is not None}
    return _as_typed(said)


_PAIRS = ("share", "settings", "inputs", "optimizer_settings", "schedule_settings")
"""Mappings that are typed as pairs, NAME=VALUE, under the same name."""


def _as_typed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a file says as the command line would have it."""
    typed = dict(said)
    for name, option in (("streams", "stream"), *((name, name) for name in _PAIRS)):
        if isinstance(said.get(name), dict):
            pairs = typed.pop(name).items()
            typed[option] = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in pairs]
    if isinstance(typed.get("inputs"), str):
        typed["inputs"] = [typed["inputs"]]
    if "heads" in typed:
        typed["head"] = [one if isinstance(one, str) else json.dumps(one) for one in typed.pop("heads")]
    for name in ("freeze", "report_to"):
        if name in typed:
            typed[name] = [typed[name]] if isinstance(typed[name], str) else list(typed[name])
    for name, option in (("targets", "target"), ("masks", "mask")):
        if name in typed:
            typed[option] = list(typed.pop(name))
    if isinstance(typed.get("augmentation"), dict):
        typed["augmentation"] = json.dumps(typed["augmentation"])
    return typed


def take_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let a run file's options stand where none is typed."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_run(path)}
    return path


def is_said(context: typer.Context, name: str) -> bool:
    """Say whether an option stands on the command line or in a run file; what is no option was set by ``--set``."""
    source = context.get_parameter_source(name) if name in context.params else None
    return name not in context.params or (source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP"))


@speaks
def schema(
    what: Annotated[
        Literal["run", "bundle", "chain"],
        typer.Argument(metavar="WHAT", help="run: files of zoo fit --file; bundle: zoo.json; chain: of zoo chain."),
    ] = "run",
) -> None:
    """Print the JSON schema of the files that zoo fit --file or zoo chain reads, or of a bundle's manifest."""
    from zoo.bundle.schema import manifest_schema
    from zoo.chaining.recipe import Chain
    from zoo.strict import adapter

    if what == "bundle":
        return say_json(manifest_schema())
    return say_json(adapter(RunFile if what == "run" else Chain).json_schema())

"""Domain adaptation: rows with labels teach the task, rows of another domain without labels where it is to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed

from zoo.augmentation import Augmentation
from zoo.contracts.head import HeadContext, Needs, Task
from zoo.contracts.method import Method, Plan, StageState
from zoo.contracts.outline import BackboneOutline
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.norms import running_norms
from zoo.registry import registry
from zoo.spec import HeadSpec
from zoo_methods.adapting.objective import Adapting
from zoo_methods.settings import check_count, check_number
from zoo_methods.views import read_view, tell_view

if TYPE_CHECKING:
    from zoo.model import Model

__all__ = ["DomainAdaptation"]

TAKES: Mapping[str, tuple[str, ...]] = {
    "dann": ("weight", "domain_head", "norms", "views", "stream"),
    "coral": ("weight", "norms", "views", "stream"),
    "mmd": ("weight", "kernels", "norms", "views", "stream"),
    "adabn": (),
}
"""The settings that each way has, beside the rate of the backbones."""
DOMAINS = ("source", "target")
DOMAIN_HEAD = {"type": "classifier", "hidden": 100}


@dataclass(frozen=True)
class DomainAdaptation(Method):
    """Train heads and backbones on rows with labels, so that they hold for rows of another domain without labels.

    Each step sees as many rows of the other domain as rows with labels. ``dann``, ``coral`` and ``mmd`` make the pooled
    vectors of both alike; ``adabn`` trains as ``fine_tuning`` does, and changes norms alone. The two domains are two
    batches to norms with running statistics, each by its own; in the end those norms are given the statistics of the
    rows without labels (``norms``). Epochs are judged by rows with labels, before that.

    Args:
        how: ``dann``, ``coral``, ``mmd`` or ``adabn``.
        weight: Factor of what brings the domains together, above 0; None for 1. That of ``dann`` is of the reversed
            gradient.
        domain_head: What tells the domains apart for ``dann``: a head of one label that reads the pooled vector, as a
            dict of its type and settings; None for a classifier with a hidden layer of 100.
        kernels: How many Gaussian kernels ``mmd`` has, 1 or more; None for 5.
        norms: ``target``: norms that train end with the statistics of the rows without labels; ``both``: with those
            that followed both domains in turn. None for ``target``, which ``adabn`` always does.
        views: How pictures without labels are varied: None for not at all, the name of a preset, an ``Augmentation``,
            or a dict of its fields.
        stream: The stream whose pooled vector is to be of no domain; None for the only one.
        backbone_lr_scale: Learning rate of the backbones as a share of the heads', above 0.

    Source:
        DANN: Ganin et al., 2016, arXiv:1505.07818, with its schedule of the reversed gradient. Deep CORAL: Sun and
        Saenko, 2016, arXiv:1607.01719. MMD: Long et al., 2015, arXiv:1502.02791. AdaBN: Li et al., 2016,
        arXiv:1603.04779. Ours differ in this: rates and their schedule are the run's; CORAL and MMD are of the pooled
        vector, where the papers take the last fully connected layers; domains pass apart, each by its own batch
        statistics; MMD takes all pairs of a batch and weighs its kernels alike; AdaBN computes all layers in one pass.
    """

    how: Literal["dann", "coral", "mmd", "adabn"] = "dann"
    weight: float | None = None
    domain_head: Mapping[str, Any] | None = None
    kernels: int | None = None
    norms: Literal["both", "target"] | None = None
    views: Augmentation | str | Mapping[str, Any] | None = None
    stream: str | None = None
    backbone_lr_scale: float = 0.1

    summary = "Rows without labels of another domain are made to look alike: DANN, Deep CORAL, MMD or AdaBN"
    when = "What the model will see differs from the labelled rows, and rows of it have no labels."

    def __post_init__(self) -> None:
        """Check what does not depend on the model."""
        if self.how not in TAKES:
            raise ConfigError(f"how must be one of {', '.join(TAKES)}, got {self.how!r}.")
        for name in sorted({name for names in TAKES.values() for name in names} - set(TAKES[self.how])):
            if getattr(self, name) is not None:
                theirs = " and ".join(how for how, names in TAKES.items() if name in names)
                raise ConfigError(f"{name} is a setting of {theirs}, and how is {self.how!r}.")
        check_number("backbone_lr_scale", self.backbone_lr_scale)
        if self.weight is not None:
            check_number("weight", self.weight)
        if self.kernels is not None:
            check_count("kernels", self.kernels)
        if self.norms not in (None, "both", "target"):
            raise ConfigError(f"norms must be both or target, got {self.norms!r}.")
        if self.domain_head is not None:
            self._head_spec()
        read_view("views", self.views)

    def told(self) -> dict[str, Any]:
        """Give the settings, the views and the domain head as plain values."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        head = None if self.domain_head is None else dict(self.domain_head)
        return named | {"views": tell_view(read_view("views", self.views)), "domain_head": head}

    def plan(self, streams: Mapping[str, BackboneOutline], *, epochs: int, lr: float) -> Plan:
        """Train every stage in every epoch."""
        low = StageState(trainable=True, lr=lr * self.backbone_lr_scale)
        states = {f"{name}.{stage.name}": low for name, spec in streams.items() for stage in spec.stages}
        return Plan(epochs=({**states, "heads": StageState(trainable=True, lr=lr)},) * epochs)

    def objective(self, model: Model, *, seed: int = 0) -> Adapting:
        """Make what brings the domains together.

        Raises:
            UnknownName: If there is no such stream or no such type of head.
            ConfigError: If the stream has no pooled vector, the head cannot tell two domains apart, ``adabn`` finds no
                norms, or several processes train.
        """
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError(
                "domain_adaptation compares the rows of a batch with one another, which several processes would "
                "divide; train in one."
            )
        stream = next(iter(model.spec.streams)) if self.how == "adabn" else self._chosen(model)
        if self.how == "adabn" and not running_norms(model):
            raise ConfigError(
                "how='adabn' changes norms with running statistics, and this model has none; use dann, coral or mmd."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = self._head(model, stream) if self.how == "dann" else None
        return Adapting(
            self.how,
            stream,
            read_view("views", self.views),
            weight=1.0 if self.weight is None else self.weight,
            kernels=self.kernels or 5,
            norms=self.norms != "both",
            head=head,
        )

    def _chosen(self, model: Model) -> str:
        """Name the stream whose features are to be of no domain."""
        streams: Sequence[str] = list(model.spec.streams)
        if self.stream is not None and self.stream not in streams:
            near = nearest(self.stream, streams) or streams
            raise UnknownName(f"domain_adaptation: there is no stream {self.stream!r}; choose of {', '.join(near)}.")
        if self.stream is None and len(streams) > 1:
            raise ConfigError(f"domain_adaptation aligns one stream; choose with stream= of {', '.join(streams)}.")
        stream = streams[0] if self.stream is None else self.stream
        entry = model.spec.streams[stream]
        if "pooled" not in entry.backbone.capabilities or (entry.keep is not None and not entry.keep.pooled):
            raise ConfigError(
                f"domain_adaptation aligns the pooled vector, which {entry.backbone.reference} does not give in this "
                "model; build it with a head that reads it, or use how='adabn'."
            )
        return stream

    def _head_spec(self) -> HeadSpec:
        """Read the domain head; its classes are the domains."""
        given: Any = DOMAIN_HEAD if self.domain_head is None else self.domain_head
        if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
            raise ConfigError(f"domain_head must be a dict with the type of a head, got {given!r}.")
        for name in ("classes", "name", "stream", "target"):
            if name in given:
                raise ConfigError(f"domain_head: {name} is the method's own; leave it out.")
        settings = {name: value for name, value in given.items() if name != "type"}
        spec = HeadSpec(type=given["type"], name="domain", config={**settings, "classes": list(DOMAINS)})
        registry().head_class(spec.type).read_config(spec)
        return spec

    def _head(self, model: Model, stream: str) -> Task:
        """Build the domain head, as a head of the model's own would be built."""
        spec = self._head_spec()
        context = HeadContext({stream: model.spec.streams[stream].backbone}, registry().head_class)
        reads = context.needs(spec).get(stream)
        head = context.build(spec)
        if not isinstance(head, Task) or head.activation != "softmax" or reads != Needs(pooled=True):
            raise ConfigError(
                f"domain_head must be of one label and read the pooled vector alone, and {spec.type} is not; use a "
                "classifier."
            )
        return head

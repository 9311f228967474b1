"""Zero-shot: classes told in words, for the picture (or sound) tower of a dual model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.contracts.head import HeadContext, Label, Needs
from zoo.errors import CapabilityError, ConfigError, ShapeError
from zoo.spec import HeadSpec
from zoo_heads.classes import ClassConfig, ClassTask

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["ZeroShot", "ZeroShotConfig", "prompt_embeddings"]

PROMPTS = 64
"""Prompts that go through the text tower at once."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(ClassConfig):
    """Settings of a zero-shot head; those of a task over named classes, and how the classes are told.

    Args:
        dim: Width of the space that picture and text share, such as 512; the projection's width in the dual model.
        templates: Sentences about a class, 1 or more, each with ``{}`` where its name goes.
        scale: What cosines are multiplied by, above 0; the exponential of the dual model's ``logit_scale``.
        bias: What is added to the logits, as SigLIP learns one for its sigmoid; it decides with ``multi_label`` only.
    """

    dim: int
    templates: tuple[str, ...] = ("a photo of a {}.",)
    scale: float = 100.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        ClassConfig.__post_init__(self)
        if self.dim < 1:
            raise ConfigError(f"dim must be 1 or more, got {self.dim}.")
        if not self.scale > 0:
            raise ConfigError(f"scale must be above 0, got {self.scale}.")
        check_templates(self.templates)


class ZeroShot(ClassTask):
    """A classifier whose weights are the embeddings of sentences; it has no parameters.

    :meth:`read_prompts` has the text tower read the classes once. From then on only the embeddings are needed, which
    are a buffer and travel in the bundle.

    Shape:
        - embed: ``(B, dim)``, rows of length 1.
        - output: ``(B, K)`` logits, ``scale * cosine + bias``, before softmax (sigmoid with ``multi_label``).
        - target: ``(B,)`` int64, -100 where missing; with ``multi_label`` ``(B, K)`` float32, NaN rows where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.

    Source:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020,
        section 3.1, with the mean over templates of its section 3.1.4; Zhai et al., "Sigmoid Loss for Language Image
        Pre-Training", 2023, arXiv:2303.15343, for ``bias`` with ``multi_label``.
    """

    Config = ZeroShotConfig
    summary = "Classes told in words, on the embedding of a dual-tower model (CLIP, SigLIP); nothing is trained"

    def __init__(self, spec: HeadSpec, config: ZeroShotConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        self.register_buffer("class_embeddings", torch.zeros(len(self.labels.classes), config.dim))

    @classmethod
    def reads(cls, config: ZeroShotConfig) -> Needs:
        """Read the projected vector."""
        return Needs(embed=True)

    def read_prompts(self, text: Backbone) -> None:
        """Let a text tower read the classes, in the head's templates.

        Args:
            text: The text tower of the same dual model, such as ``zoo.build("hf:…#text").backbones["main"]``.

        Raises:
            ConfigError: If the tower brings no tokenizer.
            CapabilityError: If it gives no projected vector.
            ShapeError: If that is not ``dim`` wide.
        """
        self.set_classes(prompt_embeddings(text, self.labels.classes, self.config.templates))

    def set_classes(self, embeddings: Tensor) -> None:
        """Set the embedding of each class, from wherever it comes.

        Args:
            embeddings: One vector a class, of any length but 0.

        Shape:
            - embeddings: ``(K, dim)``, any float dtype.

        Raises:
            ShapeError: If it has another shape.
            ConfigError: If a vector is of length 0 or not finite.
        """
        own = self.get_buffer("class_embeddings")
        if embeddings.shape != own.shape:
            width = f"; build the head with dim={embeddings.shape[1]}" if embeddings.ndim == 2 else ""
            raise ShapeError(
                f"The head {self.spec.name!r} (zero_shot) takes an embedding of {tuple(own.shape)} (classes, dim), got "
                f"{tuple(embeddings.shape)}{width if embeddings.shape[:1] == own.shape[:1] else ''}."
            )
        lengths = embeddings.norm(dim=-1)
        if not bool((lengths.isfinite() & (lengths > 0)).all()):
            raise ConfigError(f"The head {self.spec.name!r} (zero_shot) takes finite embeddings, none of length 0.")
        own.copy_(F.normalize(embeddings.detach(), dim=-1))

    def prepare(self, labels: Sequence[Label]) -> None:
        """Refuse to learn without embeddings, and learn the balanced class weights, if they are asked for."""
        self.check_told()
        super().prepare(labels)

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        if features.embed is None:
            raise CapabilityError(f"The head {self.spec.name!r} needs the projected vector, and it was not computed.")
        if features.embed.shape[-1] != self.config.dim:
            width = features.embed.shape[-1]
            raise ShapeError(
                f"The head {self.spec.name!r} (zero_shot) has dim={self.config.dim}, and its backbone gives {width} "
                f"channels; build the head with dim={width}."
            )
        cosines = F.linear(features.embed, self.get_buffer("class_embeddings").to(features.embed))
        return cosines * self.config.scale + self.config.bias

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed a batch to the metrics."""
        self.check_told()
        super().update(metrics, output, target)

    def decode(self, output: Tensor) -> list[Any]:
        """Give a ``ClassPrediction`` or ``LabelsPrediction`` for each sample."""
        self.check_told()
        return super().decode(output)

    def check_told(self) -> None:
        """Refuse to tell anything before the classes' embeddings are set.

        Raises:
            ConfigError: If they are not.
        """
        if not bool(self.get_buffer("class_embeddings").any()):
            raise ConfigError(
                f"The head {self.spec.name!r} (zero_shot) does not know what its classes mean yet; call "
                f"model.task({self.spec.name!r}).read_prompts(…) with the text tower."
            )


@torch.no_grad()
def prompt_embeddings(text: Backbone, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed classes by sentences about them: the mean over templates of normalised embeddings, at length 1.

    Args:
        text: A text tower that gives ``embed`` and brings its tokenizer; it is run in eval mode, where it is.
        classes: Names of the classes.
        templates: Sentences, 1 or more, each with ``{}`` where the name goes.

    Shape:
        - returns: ``(K, E)``, on the tower's device.

    Raises:
        ConfigError: If a template has no ``{}``, or the tower brings no tokenizer.
        CapabilityError: If the tower gives no projected vector.
    """
    check_templates(templates)
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    place = next(text.parameters()).device
    was_training = text.training
    text.eval()
    found = []
    try:
        for start in range(0, len(prompts), PROMPTS):
            inputs = text.preprocess(prompts[start : start + PROMPTS])
            named = inputs if isinstance(inputs, dict) else {text.spec.inputs[0].name: inputs}
            given = text({name: tensor.to(place) for name, tensor in named.items()}, Want(pooled=False, embed=True))
            if given.embed is None:
                raise CapabilityError(f"{text.spec.reference} gives no projected vector.")
            found.append(F.normalize(given.embed, dim=-1))
    finally:
        text.train(was_training)
    means = torch.cat(found).reshape(len(classes), len(templates), -1).mean(dim=1)
    return F.normalize(means, dim=-1)


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates into which no class name would go.

    Raises:
        ConfigError: If there is none, or one lacks ``{}``.
    """
    if not templates:
        raise ConfigError("templates must be 1 or more, got none.")
    for template in templates:
        if "{}" not in template:
            raise ConfigError(f"a template must have {{}} where the class name goes, got {template!r}.")

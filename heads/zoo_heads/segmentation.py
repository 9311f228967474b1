"""Segmentation: a class for each pixel, from maps of several reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.contracts.features import Features
from zoo.contracts.head import Decoded, HeadContext, Label, Needs, Task, TaskConfig, zero_loss
from zoo.contracts.masks import MISSING, MaskCode
from zoo.errors import CapabilityError, ConfigError, DataError, UnknownName, nearest
from zoo.spec import BackboneSpec, HeadSpec
from zoo_heads.classes import check_classes, must_have_classes
from zoo_heads.label_map import LabelMap
from zoo_heads.pyramid import Pyramid, resized
from zoo_heads.token_fusing import stage_at

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

__all__ = ["Segmentation", "SegmentationConfig", "dice_loss"]

USUAL = (4, 8, 16, 32)
"""Reductions that are read where none are set, those of them that the backbone gives."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(TaskConfig):
    """Settings of a segmentation.

    Args:
        classes: Names of the classes, 2 or more, in the order of the logits; None to take them from the pixel values of
            the training masks.
        values: The pixel value of each class, 0 or more, all different; None for 0, 1, 2 and on.
        ignore: The pixel value that has no label; None if each pixel has one.
        dim: Channels of the decoder, 1 or more.
        reductions: Reductions of the maps that are read; None for those of 4, 8, 16 and 32 that the backbone gives, or
            all that it gives if it has none of these.
        loss: ``cross_entropy``, ``dice``, or ``both``, their sum.
        label_smoothing: Share of the target spread over all classes, in ``[0, 1)``; of the cross-entropy.
        class_weights: ``balanced`` to weigh each class by the inverse of its share of the training pixels, or one
            factor a class; None to weigh all alike.
        dropout: Chance that a channel of the merged map is zeroed in training, in ``[0, 1)``.
    """

    classes: tuple[str, ...] | None = None
    values: tuple[int, ...] | None = None
    ignore: int | None = 255
    dim: int = 128
    reductions: tuple[int, ...] | None = None
    loss: Literal["cross_entropy", "dice", "both"] = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        TaskConfig.__post_init__(self)
        check_classes(self.classes, least=2)
        self._check_values()
        if self.dim < 1:
            raise ConfigError(f"dim must be 1 or more channels, got {self.dim}.")
        given = self.reductions
        if given is not None and (not given or min(given) < 1 or len(set(given)) < len(given)):
            raise ConfigError(f"reductions must be one or more different numbers of 1 or more, got {list(given)}.")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}.")
        if self.label_smoothing and self.loss == "dice":
            raise ConfigError("label_smoothing is of the cross-entropy, and the loss is dice; leave it out.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}.")
        weights = self.class_weights
        if isinstance(weights, tuple) and not all(weight > 0 for weight in weights):
            raise ConfigError(f"class_weights must be above 0, got {list(weights)}.")
        if isinstance(weights, tuple) and self.classes is not None and len(weights) != len(self.classes):
            raise ConfigError(
                f"class_weights must have one factor for each of the {len(self.classes)} classes, got {len(weights)}."
            )

    def _check_values(self) -> None:
        """Check the pixel values beside the classes."""
        if self.ignore is not None and self.ignore < 0:
            raise ConfigError(f"ignore must be a pixel value, 0 or more, or None, got {self.ignore}.")
        if self.classes is None:
            if self.values is not None:
                raise ConfigError("values are those of the classes; give classes=[…] too, or leave values out.")
            return
        values = self.pixel_values
        if len(values) != len(self.classes):
            raise ConfigError(f"values must be one for each of the {len(self.classes)} classes, got {len(values)}.")
        if min(values) < 0 or len(set(values)) < len(values):
            raise ConfigError(f"values must be different pixel values, 0 or more, got {list(values)}.")
        if self.ignore in values:
            name = self.classes[values.index(self.ignore)]
            raise ConfigError(f"ignore={self.ignore} is the pixel value of the class {name!r}; set another, or None.")

    @property
    def pixel_values(self) -> tuple[int, ...]:
        """The pixel value of each class."""
        return self.values if self.values is not None else tuple(range(len(self.classes or ())))


class Segmentation(Task):
    """A class for each pixel: a light feature pyramid over the maps, a 1×1 convolution, and the way back to full size.

    Shape:
        - maps: ``(B, C, H / r, W / r)`` for each reduction ``r``, any float dtype.
        - output: ``(B, K, H, W)`` logits, in nats, before softmax; H and W are those of the finest map times its
          reduction, which is the size of the prepared picture where that is divisible by it.
        - target: ``(B, H, W)`` int64, class indices, -100 where there is no label. Where it has another size than the
          output, the logits are resized to it bilinearly.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.
        CapabilityError: If its stream has no map of a reduction.

    Source:
        The decoder is :class:`~zoo_heads.pyramid.Pyramid`; the Dice loss :func:`dice_loss`.
    """

    Config = SegmentationConfig
    summary = "A class for each pixel: a light feature pyramid over maps, cross-entropy or Dice, and mIoU"

    def __init__(self, spec: HeadSpec, config: SegmentationConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        classes = must_have_classes(spec, config.classes)
        self._code = MaskCode(spec.name, classes, config.pixel_values, config.ignore)
        backbone = context.streams[self.stream]
        channels = {}
        self.names: dict[int, str] = {}
        for reduction in sorted(_reductions(backbone, config)):
            stage = stage_at(backbone, reduction)
            if stage is None or stage.channels is None:
                raise CapabilityError(
                    f"The head {spec.name!r} ({spec.type}) needs a map of reduction {reduction}; {backbone.reference} "
                    f"gives {', '.join(f'{one.reduction:g}' for one in backbone.maps) or 'none'}."
                )
            channels[stage.name] = stage.channels
            self.names[reduction] = stage.name
        self.finest = min(self.names)
        self.pyramid = Pyramid(channels, config.dim)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(config.dim, len(classes), 1)
        if config.class_weights is not None:
            given = config.class_weights if isinstance(config.class_weights, tuple) else (1.0,) * len(classes)
            self.register_buffer("class_weights", torch.tensor(given, dtype=torch.float32))

    @classmethod
    def needs(cls, spec: HeadSpec, config: SegmentationConfig, context: HeadContext) -> Mapping[str, Needs]:
        """Ask its stream for the maps that are set, or those that it has."""
        return {
            stream: Needs(reductions=_reductions(context.streams[stream], config))
            for stream in super().needs(spec, config, context)
        }

    @classmethod
    def reads(cls, config: SegmentationConfig) -> Needs:
        """Read maps; which ones, :meth:`needs` says where none are set."""
        return Needs(reductions=config.reductions or ())

    @classmethod
    def complete(cls, spec: HeadSpec, columns: Mapping[str, Sequence[Label]], context: HeadContext) -> HeadSpec:
        """Take the classes from the pixel values of the masks, each called like its value; opens every mask."""
        config: SegmentationConfig = cls.read_config(spec)
        if config.classes is not None:
            return spec
        column = config.target or spec.name
        if column not in columns:
            near = ", ".join(nearest(column, columns) or columns)
            raise UnknownName(f"The head {spec.name!r} finds no label column {column!r}; there are {near}.")
        found: set[int] = set()
        for label in columns[column]:
            if label is not None:
                found |= set(_mask(spec.name, label).unique().tolist())
        values = sorted(found - {config.ignore})
        if len(values) < 2:
            raise DataError(f"The masks of {column!r} have the pixel values {values}; a {spec.type} needs 2 or more.")
        return spec.with_config(classes=[str(value) for value in values], values=values)

    @property
    def masks(self) -> MaskCode:
        """What its pixel values mean."""
        return self._code

    def prepare(self, labels: Sequence[Label]) -> None:
        """Learn the balanced class weights, if they are asked for; opens every mask."""
        if self.config.class_weights != "balanced":
            return
        counts = torch.zeros(len(self._code.classes), dtype=torch.int64)
        for label in labels:
            if label is not None:
                target = self._code.encode(_mask(self.spec.name, label))
                counts += torch.bincount(target[target != MISSING], minlength=len(counts))
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
        self.get_buffer("class_weights").copy_(weights)

    def score(self, features: Features) -> Tensor:
        """Give the logits of each pixel."""
        missing = [name for name in self.names.values() if name not in features.maps]
        if missing:
            raise CapabilityError(f"The head {self.spec.name!r} needs the map {missing[0]!r}, and it was not computed.")
        merged = self.dropout(self.pyramid(features.maps))
        height, width = merged.shape[-2:]
        return resized(self.classify(merged), (height * self.finest, width * self.finest))

    def encode(self, labels: Sequence[Label]) -> Tensor:
        """Turn masks of one size into targets, pixel values into class indices.

        Raises:
            DataError: If a label is no mask, or has a pixel value that no class has.
            ShapeError: If masks differ in size.
        """
        return self._code.encode_all([None if label is None else _mask(self.spec.name, label) for label in labels])

    def known(self, target: Tensor) -> Tensor:
        """Say which samples have a pixel with a label."""
        return (target != MISSING).flatten(1).any(dim=1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Give the loss over all pixels that have a label: cross-entropy in nats, Dice loss, or their sum."""
        known = target != MISSING
        if not bool(known.any()):
            return zero_loss(output)
        logits = _at_size_of(output, target)
        weights = self.get_buffer("class_weights") if self.config.class_weights is not None else None
        found = []
        if self.config.loss != "dice":
            smoothing = self.config.label_smoothing
            found.append(F.cross_entropy(logits, target, weights, ignore_index=MISSING, label_smoothing=smoothing))
        if self.config.loss != "cross_entropy":
            found.append(dice_loss(logits, target, weights))
        return torch.stack(found).sum()

    @property
    def activation(self) -> Literal["softmax", "sigmoid"] | None:
        """Softmax over the classes of each pixel."""
        return "softmax"

    def metrics(self) -> MetricCollection:
        """Make mIoU over the classes that occur in targets or predictions, and pixel accuracy."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        count = len(self._code.classes)
        return MetricCollection(
            {
                "miou": MulticlassJaccardIndex(count, average="macro", ignore_index=MISSING),
                "pixel_accuracy": MulticlassAccuracy(count, average="micro", ignore_index=MISSING),
            }
        )

    @property
    def best_metric(self) -> tuple[str, bool]:
        """The mean of the classes' intersections over unions."""
        return "miou", True

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the pixels that have a label."""
        known = self.known(target)
        if bool(known.any()):
            target = target[known]
            metrics.update(_at_size_of(output[known], target).argmax(dim=1), target)

    def decode(self, output: Tensor) -> list[Decoded]:
        """Give a ``LabelMap`` for each sample."""
        values = dict(zip(self._code.classes, self._code.values, strict=True))
        return [LabelMap(one, values) for one in self._code.decode(output.argmax(dim=1))]

    def example_labels(self) -> list[Label]:
        """Give masks of stripes that have all classes, one with a pixel to ignore, and a missing one."""
        values = torch.tensor(self._code.values)
        stripes = values[torch.arange(8 * max(len(values), 8)).reshape(8, -1) % len(values)]
        other = stripes.flip(0).clone()
        other[0, 0] = self._code.fill
        return [stripes, other, None]


def dice_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Give one less the mean Dice coefficient of the classes that occur among the targets.

    For class ``k``, with ``p`` the softmax and ``g`` 1 where it is the target, over all pixels of the batch that have a
    label: ``d_k = 2 Σ p_k g_k / (Σ p_k + Σ g_k)``.

    Args:
        logits: Scores before softmax.
        target: Class indices, -100 where there is no label; one pixel at least must have one.
        weights: Factor of each class in the mean; None for equal ones.

    Shape:
        - ``logits``: ``(B, K, H, W)``; ``target``: ``(B, H, W)`` int64; ``weights``: ``(K,)``.
        - returns: a scalar in ``[0, 1]``.

    Source:
        Milletari et al., "V-Net", 2016, arXiv:1606.04797, section 3. Ours is over several classes and does not square
        what it adds below; classes that no target has are left out, so nothing is added for smoothness.
    """
    known = target != MISSING
    chances = logits.float().softmax(dim=1).movedim(1, -1)[known]
    truth = F.one_hot(target[known], logits.shape[1]).to(chances.dtype)
    sizes = truth.sum(dim=0)
    dice = 2 * (chances * truth).sum(dim=0) / (chances.sum(dim=0) + sizes).clamp(min=torch.finfo(chances.dtype).tiny)
    share = (sizes > 0).to(dice.dtype) * (1.0 if weights is None else weights)
    return 1 - (dice * share).sum() / share.sum()


def _reductions(backbone: BackboneSpec, config: SegmentationConfig) -> tuple[int, ...]:
    """Say which maps to read of a backbone; the usual ones if it has none, so that it is told what it lacks."""
    if config.reductions is not None:
        return config.reductions
    given = {int(stage.reduction) for stage in backbone.maps if stage.reduction and stage.reduction.is_integer()}
    usual = tuple(reduction for reduction in USUAL if reduction in given)
    return usual or tuple(sorted(given)) or USUAL


def _mask(who: str, label: Any) -> Tensor:
    """Give a label that is a mask.

    Raises:
        DataError: If it is none.
    """
    if not isinstance(label, Tensor):
        raise DataError(
            f"The head {who!r} learns masks, (height, width) of pixel values, got {label!r}; read their column with "
            "zoo.read(…, masks=[…])."
        )
    return label


def _at_size_of(output: Tensor, target: Tensor) -> Tensor:
    return resized(output, (target.shape[-2], target.shape[-1]))

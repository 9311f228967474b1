"""Checks of preprocessing, and the sample that they prepare."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.errors import ConfigError
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject
from zoo.testing.rules import rule

__all__ = ["prepared", "sample_for"]


def sample_for(subject: Subject) -> Any:
    """Make one sample of the kind that a backbone prepares: a picture, a clip, a text, a second of sound."""
    spec = subject.spec
    kind = spec.inputs[0].kind
    picture = Image.radial_gradient("L").resize((211, 160)).convert("RGB")
    if kind == "video":
        return [picture] * (spec.inputs[0].length or 8)
    if kind == "tokens":
        return "a black cat in a green garden"
    if kind in ("waveform", "spectrogram"):
        return np.sin(np.arange(16000) / 9).astype(np.float32)
    return picture


def prepared(subject: Subject) -> Tensor | dict[str, Tensor]:
    """Prepare the sample.

    Raises:
        Unfit: If the backbone brings no way from a sample to its input.
    """
    spec = subject.spec
    if spec.inputs[0].kind == "image" and spec.inputs[0].channels not in (1, 3):
        raise Unfit(f"a picture file cannot have {spec.inputs[0].channels} channels")
    if spec.preprocessing is not None:
        return subject.backbone.preprocess(sample_for(subject))
    try:
        return subject.backbone.preprocess(sample_for(subject))
    except ConfigError as error:
        raise Unfit(f"it brings no preprocessing: {error}") from error


@check("A prepared sample is what the backbone takes.")
def preprocess(subject: Subject) -> None:
    """See that a picture becomes a tensor of the channels and the size that the spec says."""
    found = prepared(subject)
    entry, recipe = subject.spec.inputs[0], subject.spec.preprocessing
    tensors = found if isinstance(found, dict) else {subject.main: found}
    main = tensors.get(subject.main)
    rule(isinstance(main, Tensor), f"preprocess must give the main input {subject.main!r}, got {', '.join(tensors)}.")
    assert main is not None
    got = tuple(main.shape)
    rule(main.ndim == entry.rank - 1, f"preprocess must give one sample without the batch dimension, got {got}.")
    if entry.kind == "image" and recipe is not None and recipe.fixed:
        expected = (entry.channels, *recipe.size)
        rule(got == expected, f"A prepared picture must be {expected}, as the spec says, got {got}.")
    pooled = subject.run(subject.backbone, inputs={name: tensor[None] for name, tensor in tensors.items()}).pooled
    fits = pooled is not None and tuple(pooled.shape) == (1, subject.spec.pooled_dim)
    rule(fits and bool(torch.isfinite(pooled).all()), "A prepared sample must give a finite pooled vector.")  # type: ignore[arg-type]

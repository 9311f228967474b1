"""Tip-Adapter: a few labelled rows as a cache that is looked up by likeness, beside zero-shot logits if there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext, Label, Needs
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import HeadSpec
from zoo_heads.labels import MISSING
from zoo_heads.taught import TaughtConfig, TaughtTask
from zoo_heads.zero_shot import ZeroShot

__all__ = ["TipAdapter", "TipAdapterConfig"]


@dataclass(frozen=True, kw_only=True)
class TipAdapterConfig(TaughtConfig):
    """Settings of a cache over a few rows.

    Args:
        shots: Rows of each class that the cache has room for, 1 or more.
        alpha: What the cache's logits are multiplied by, above 0.
        beta: How sharply likeness counts, above 0: a row at cosine ``c`` counts ``exp(-beta * (1 - c))``.
        dim: Width of the space that picture and text share, for a cache beside zero-shot logits on a dual model; None
            for the cache alone, on the pooled vector.
        templates: As for ``zero_shot``, with ``dim`` only; None for ``a photo of a {}.``.
        scale: What the cosines to the sentences are multiplied by, with ``dim`` only; None for 100.
    """

    shots: int = 16
    alpha: float = 1.0
    beta: float = 5.5
    dim: int | None = None
    templates: tuple[str, ...] | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        TaughtConfig.__post_init__(self)
        if self.shots < 1:
            raise ConfigError(f"shots must be 1 or more, got {self.shots}.")
        for what in ("alpha", "beta"):
            if not getattr(self, what) > 0:
                raise ConfigError(f"{what} must be above 0, got {getattr(self, what)}.")
        if self.dim is None and (said := [what for what in ("templates", "scale") if getattr(self, what) is not None]):
            raise ConfigError(f"{said[0]} is of zero-shot logits; set dim to the width of the dual model, or leave it.")


class TipAdapter(TaughtTask):
    """What the rows of a cache vote for, each by its likeness, added to zero-shot logits; it has no parameters.

    ``zoo.fit`` shows it the training rows, of which it keeps the first ``shots`` of each class; ``zoo.fit(shots=…)``
    draws them by seed. With ``dim``, :meth:`read_prompts` has the text tower read the classes, as for ``zero_shot``.

    Shape:
        - pooled, or embed with ``dim``: ``(B, D)``, any float dtype; brought to length 1.
        - output: ``(B, K)`` logits, ``alpha * sum over rows of the class of exp(-beta * (1 - cosine))``, and with
          ``dim`` ``scale * cosine`` to the class's sentences besides.
        - target: ``(B,)`` int64, -100 where missing.

    Raises:
        ConfigError: If ``classes`` is not set when it is built.

    Source:
        Zhang et al., "Tip-Adapter: Training-free CLIP-Adapter for Better Vision-Language Modeling", 2021,
        arXiv:2111.03930, equations 2 to 6, without training. Ours can do without the text, on any backbone's pooled
        vector; keys are not fine-tuned, which is the paper's Tip-Adapter-F, nor averaged over augmented views.
    """

    Config = TipAdapterConfig
    summary = "Few-shot: each class by its likeness to a few kept rows, beside zero-shot logits on a dual model"
    learns = "cache"

    def __init__(self, spec: HeadSpec, config: TipAdapterConfig, context: HeadContext) -> None:
        super().__init__(spec, config, context)
        classes = self.labels.classes
        self.zero_shot: ZeroShot | None = None
        if config.dim is not None:
            told = {"classes": list(classes), "dim": config.dim, "stream": self.stream}
            told |= {} if config.templates is None else {"templates": list(config.templates)}
            told |= {} if config.scale is None else {"scale": config.scale}
            inner = HeadSpec(type="zero_shot", name=spec.name, config=told)
            self.zero_shot = ZeroShot(inner, ZeroShot.read_config(inner), context)
        width = config.dim or context.streams[self.stream].pooled_dim
        self.register_buffer("keys", torch.zeros(len(classes), config.shots, width))
        self._seen: list[list[Tensor]] = [[] for _ in classes]

    @classmethod
    def reads(cls, config: TipAdapterConfig) -> Needs:
        """Read the pooled vector, or the projected one."""
        return Needs(pooled=True) if config.dim is None else Needs(embed=True)

    def read_prompts(self, text: Backbone) -> None:
        """Let a text tower read the classes; as :meth:`zoo_heads.zero_shot.ZeroShot.read_prompts`.

        Raises:
            ConfigError: If the head was built without ``dim``, or the tower brings no tokenizer.
            CapabilityError: If the tower gives no projected vector.
            ShapeError: If that is not ``dim`` wide.
        """
        self._beside().read_prompts(text)

    def set_classes(self, embeddings: Tensor) -> None:
        """Set the embedding of each class, ``(K, dim)``; as :meth:`zoo_heads.zero_shot.ZeroShot.set_classes`.

        Raises:
            ConfigError: If the head was built without ``dim``, or a vector is of length 0 or not finite.
            ShapeError: If it has another shape.
        """
        self._beside().set_classes(embeddings)

    def prepare(self, labels: Sequence[Label]) -> None:
        """Refuse to learn before the classes were read, where they are told in words, too."""
        if self.zero_shot is not None:
            self.zero_shot.check_told()

    def learn(self, features: Features, target: Tensor) -> None:
        """Keep the first rows of each class."""
        for vector, label in zip(self._vectors(features).cpu(), target.tolist(), strict=True):
            if label != MISSING and len(self._seen[label]) < self.config.shots:
                self._seen[label].append(vector)

    def learnt(self) -> None:
        """Make the cache.

        Raises:
            DataError: If a class has no training row, and is not told in words.
        """
        seen, self._seen = self._seen, [[] for _ in self.labels.classes]
        rows = torch.tensor([len(one) for one in seen])
        if self.zero_shot is None or not bool(rows.any()):
            self._check_all(rows)
        keys = self.get_buffer("keys")
        keys.zero_()
        for own, vectors in zip(keys, seen, strict=True):
            if vectors:
                own[: len(vectors)] = torch.stack(vectors)
        self.get_buffer("rows").copy_(rows)

    def score(self, features: Features) -> Tensor:
        """Give the logits."""
        given, keys, rows = self._vectors(features), self.get_buffer("keys"), self.get_buffer("rows")
        there = torch.arange(keys.shape[1], device=rows.device) < rows[:, None]
        affinities = torch.exp(-self.config.beta * (1 - torch.einsum("bd,ksd->bks", given, keys.to(given))))
        logits: Tensor = self.config.alpha * (affinities * there).sum(dim=-1)
        return logits if self.zero_shot is None else logits + self.zero_shot.score(features)

    def _vectors(self, features: Features) -> Tensor:
        found = features.pooled if self.zero_shot is None else features.embed
        if found is None:
            what = "pooled" if self.zero_shot is None else "projected"
            raise CapabilityError(f"The head {self.spec.name!r} needs the {what} vector, and it was not computed.")
        return F.normalize(found, dim=-1)

    def _beside(self) -> ZeroShot:
        if self.zero_shot is None:
            raise ConfigError(
                f"The head {self.spec.name!r} (tip_adapter) is a cache alone; build it with dim=… of a dual model."
            )
        return self.zero_shot

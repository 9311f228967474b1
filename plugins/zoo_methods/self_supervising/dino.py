"""DINO: a student that sees small pieces, too, gives the distribution that a slow teacher gives of large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.augmentation import Augmentation
from zoo_methods.self_supervising.layers import Prototypes
from zoo_methods.self_supervising.scheme import Scheme
from zoo_methods.self_supervising.targets import Followed

if TYPE_CHECKING:
    from zoo.contracts.backbone import Backbone
    from zoo.model import Model

__all__ = ["DINO", "distillation"]

LARGE = 2
"""How many views the teacher sees: the first ones."""
CENTER_MOMENTUM = 0.9
"""Share of itself that the centre keeps in each step."""


def distillation(taught: Sequence[Tensor], students: Sequence[Tensor], temperature: float) -> Tensor:
    """Give the cross entropy of a student's distribution to the teacher's, in nats, the mean over pairs of views.

    Args:
        taught: The teacher's distributions of the first views.
        students: The student's logits of all views, in the same order; a view is not compared with itself.
        temperature: What the student's logits are divided by, above 0.

    Shape:
        - each of ``taught`` and ``students``: ``(B, K)``.
        - returns: a scalar, 0 or more.

    Source:
        Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021, arXiv:2104.14294, equation 3
        and algorithm 1.
    """
    told = [F.log_softmax(logits.float() / temperature, dim=1) for logits in students]
    pairs = [
        -(target * given).sum(1).mean() for t, target in enumerate(taught) for s, given in enumerate(told) if s != t
    ]
    return torch.stack(pairs).mean()


class DINO(Scheme):
    """A head of prototypes on student and teacher, whose outputs are centred and sharpened.

    Args:
        stream: The stream whose backbone trains.
        views: Two large views, and the small ones.
        backbone: The backbone that the teacher copies.
        hidden: Width of the head's hidden layers.
        projection: Number of prototypes.
        temperature: What the student's logits are divided by.
        teacher_temperature: What the teacher's are divided by, less than the student's.
        momentum: Share of itself that the teacher keeps in the first step.
    """

    takes: ClassVar[Mapping[str, Any]] = {
        **{"hidden": 2048, "projection": 4096, "momentum": 0.996},
        **{"temperature": 0.1, "teacher_temperature": 0.04, "small_views": 8},
    }

    def __init__(
        self,
        stream: str,
        views: Sequence[Augmentation],
        backbone: Backbone,
        *,
        hidden: int,
        projection: int,
        temperature: float,
        teacher_temperature: float,
        momentum: float,
    ) -> None:
        super().__init__(stream, views)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.head = Prototypes(backbone.spec.pooled_dim, hidden, projection)
        self.teacher = Followed(momentum, backbone, self.head)
        self.register_buffer("center", torch.zeros(projection))
        self.center: Tensor

    def compare(self, model: Model, views: Sequence[Any]) -> Tensor:
        """Give the loss of all views, and let the centre follow the teacher's logits."""
        students = [self.head(self.pooled(model, view)) for view in views]
        backbone, head = self.teacher.copies
        with torch.no_grad():
            logits = [head(self.pooled(model, view, backbone)).float() for view in views[:LARGE]]
        with torch.autocast(students[0].device.type, enabled=False):
            taught = [F.softmax((each - self.center) / self.teacher_temperature, dim=1) for each in logits]
            self.watch(taught[0])
            self.center.lerp_(torch.cat(logits).mean(0), 1 - CENTER_MOMENTUM)
            return distillation(taught, students, self.temperature)

    def stepped(self, model: Model, progress: float) -> None:
        """Let the teacher follow."""
        self.teacher.follow(progress, model.backbones[self.stream], self.head)

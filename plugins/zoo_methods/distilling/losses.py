"""What a student loses by being unlike its teacher: outputs, maps, attention, and how rows lie to one another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ShapeError

__all__ = ["angle_loss", "attention_loss", "attention_of", "distance_loss", "hint_loss", "soft_loss"]


def soft_loss(
    output: Tensor,
    taught: Tensor,
    activation: Literal["softmax", "sigmoid"] | None,
    *,
    temperature: float = 1.0,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Give how far a task's output is from the teacher's, a mean over rows (and pixels).

    Softmax: ``T² KL(softmax(t / T) ‖ softmax(s / T))`` over the classes. Sigmoid: ``T²`` times the same of each label's
    two outcomes, averaged over labels. Numbers: ``((s - t) / scale)²``. ``T²`` keeps the size of the gradient.

    Args:
        output: The student's output.
        taught: The teacher's; a map of pixels of another size is resized to the student's.
        activation: How outputs become probabilities; None for numbers.
        temperature: What logits are divided by, above 0; nothing to numbers.
        scale: The unit of numbers.

    Shape:
        - ``output`` and ``taught``: ``(B, K, …)`` logits, or ``(B, …)`` numbers.
        - returns: a scalar, in nats for probabilities.

    Raises:
        ShapeError: If the two differ in shape.

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, section 2. There it is
        the cross-entropy with the teacher's probabilities; the divergence differs from it by a constant, and is 0 where
        the student is like its teacher. Labels and numbers are ours.
    """
    output, taught = output.float(), taught.float()
    if output.ndim == 4 and taught.ndim == 4:
        taught = _at_size_of(output, taught)
    if output.shape != taught.shape:
        raise ShapeError(
            f"The teacher's output must have the shape of the student's, {tuple(output.shape[1:])} a row, got "
            f"{tuple(taught.shape[1:])}; give both the same head."
        )
    if activation is None:
        return ((output - taught) / scale).square().mean()
    soft, hot = output / temperature, taught / temperature
    if activation == "softmax":
        chances = hot.softmax(dim=1)
        each = (torch.xlogy(chances, chances) - chances * soft.log_softmax(dim=1)).sum(dim=1)
    else:
        chances, no = hot.sigmoid(), (-hot).sigmoid()
        entropy = torch.xlogy(chances, chances) + torch.xlogy(no, no)
        each = entropy - chances * F.logsigmoid(soft) - no * F.logsigmoid(-soft)
    return temperature**2 * each.mean()


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Give half the mean squared difference of two maps.

    Args:
        guided: The student's map, projected to the teacher's channels.
        hint: The teacher's map; one of another size is resized to the student's.

    Shape:
        - ``guided``: ``(B, C, H, W)``; ``hint``: ``(B, C, …)``; returns: a scalar.

    Source:
        Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, arXiv:1412.6550, equation 3. There it is the sum over
        the elements; ours is the mean, so that its size does not depend on that of the map.
    """
    return 0.5 * (guided.float() - _at_size_of(guided, hint.float())).square().mean()


def attention_of(maps: Tensor) -> Tensor:
    """Give where a map is active: the sum over channels of its squares, ``(B, C, H, W)`` to ``(B, H, W)``."""
    return maps.float().square().sum(dim=1)


def attention_loss(attention: Tensor, taught: Tensor) -> Tensor:
    """Give half the distance of two attention maps, each of length 1, a mean over rows.

    Args:
        attention: The student's.
        taught: The teacher's; one of another size is resized to the student's.

    Shape:
        - ``attention``: ``(B, H, W)``; ``taught``: ``(B, …)``; returns: a scalar in ``[0, 1]``.

    Source:
        Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017, arXiv:1612.03928, equation 2 with sums of
        squares (p = 2).
    """
    taught = _at_size_of(attention, taught[:, None])[:, 0]
    ours, theirs = (F.normalize(one.flatten(1), dim=1) for one in (attention, taught))
    return 0.5 * torch.linalg.vector_norm(ours - theirs, dim=1).mean()


def distance_loss(vectors: Tensor, taught: Tensor) -> Tensor:
    """Give the Huber loss of the distances of each two rows, as shares of their mean; 0 for a single row.

    Args:
        vectors: The student's vectors.
        taught: The teacher's.

    Shape:
        - ``vectors``: ``(B, D)``; ``taught``: ``(B, E)``; returns: a scalar.

    Source:
        Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068, equations 4 to 7. There it is the sum
        over pairs; ours is the mean.
    """
    if len(vectors) < 2:
        return vectors.float().sum() * 0.0
    return F.huber_loss(_distances(vectors), _distances(taught))


def angle_loss(vectors: Tensor, taught: Tensor) -> Tensor:
    """Give the Huber loss of the cosines of the angles between each three rows; 0 for fewer.

    It takes memory for ``B² D`` and ``B³`` numbers.

    Args:
        vectors: The student's vectors.
        taught: The teacher's.

    Shape:
        - ``vectors``: ``(B, D)``; ``taught``: ``(B, E)``; returns: a scalar.

    Source:
        Park et al., "Relational Knowledge Distillation", 2019, arXiv:1904.05068, equations 8 to 10. There it is the sum
        over triplets; ours is the mean.
    """
    if len(vectors) < 3:
        return vectors.float().sum() * 0.0
    return F.huber_loss(_cosines(vectors), _cosines(taught))


def _distances(vectors: Tensor) -> Tensor:
    """Give the distances of all pairs of different rows, divided by their mean, ``(B (B - 1),)``."""
    vectors = vectors.float()
    every = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    found = every[~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)]
    return found / found.mean().clamp(min=torch.finfo(found.dtype).tiny)


def _cosines(vectors: Tensor) -> Tensor:
    """Give the cosine of the angle at the first of each three different rows, ``(B (B - 1) (B - 2),)``."""
    vectors = vectors.float()
    rays = F.normalize(vectors[None, :] - vectors[:, None], dim=-1)
    with torch.autocast(vectors.device.type, enabled=False):
        every = torch.bmm(rays, rays.transpose(1, 2))
    same = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return every[~(same[:, :, None] | same[:, None, :] | same[None, :, :])]


def _at_size_of(output: Tensor, taught: Tensor) -> Tensor:
    """Resize a map to the height and width of another."""
    size = output.shape[-2:]
    return taught if taught.shape[-2:] == size else F.interpolate(taught, size=size, mode="bilinear")

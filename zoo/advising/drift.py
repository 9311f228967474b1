"""Drift: how far a short fine-tuning of a copy moves the features."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.advising.cka import linear_cka
from zoo.advising.linear_probe import fit_linear, standardise
from zoo.advising.questions import Question
from zoo.advising.vectors import live_vectors, vectors_of
from zoo.data import Inputs, placed
from zoo.model import Model

__all__ = ["Drift", "drift"]

STEPS = 30
BATCH = 16
ROWS = 160
"""Rows of the probe; 30 batches of 16 see each three times."""
SECONDS = 60.0
"""The probe stops after the step in which this time is over; it decides nothing, so it may depend on the machine."""
LR = 1e-4
"""Rate of the backbones, that of fine-tuning with the usual settings."""
LAYER_LR = 1e-3
PENALTY = 1e-2


@dataclass(frozen=True, slots=True)
class Drift:
    """What a short fine-tuning did to the features.

    Args:
        cka: Linear CKA of the features before and after; 1 if they stayed as they were.
        untrained: The same of pretrained features and those of random weights, for what unrelated features come to;
            None where there are none.
        share: ``(1 - cka) / (1 - untrained)``: how far they went on the way to unrelated ones; None as above.
        steps: Optimizer steps that were taken.
        rows: Rows on which it was measured, those of the probe.
    """

    cka: float
    untrained: float | None
    share: float | None
    steps: int
    rows: int


def drift(
    model: Model,
    rows: Sequence[Inputs],
    question: Question,
    before: Tensor,
    unrelated: Tensor | None,
    place: torch.device,
    streams: Sequence[str],
    *,
    seed: int,
) -> Drift | None:
    """Fine-tune a copy of a model for a few dozen steps and compare its features with those it had.

    A linear layer stands on the features in the place of the head, and starts where it is best on the frozen ones, so
    that what moves the features is not a head that begins with noise (Kumar et al., 2022, arXiv:2202.10054).

    Args:
        model: The model; it stays as it is.
        rows: The rows of the question.
        question: The labels.
        before: The frozen features of these rows, ``(n, D)``.
        unrelated: Features of random weights, ``(n, D)``; None if there are none.
        place: Where to run.
        streams: The streams whose features are looked at.
        seed: Seed of the rows, their order and dropout; torch's global generator stays as it was.

    Returns:
        The drift; None if the features do not vary, or become no numbers.
    """
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(question), generator=draw)[:ROWS]
    some, asked, frozen = [rows[at] for at in chosen.tolist()], question.at(chosen), before[chosen]
    probe = copy.deepcopy(model).unfreeze().to(place)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        steps = _tune(probe, some, asked, frozen, place, streams, draw)
    after = live_vectors(probe, some, place, streams)
    moved = linear_cka(frozen, after)
    base = linear_cka(frozen, unrelated[chosen]) if unrelated is not None else None
    if math.isnan(moved) or (base is not None and math.isnan(base)):
        return None
    share = None if base is None or base >= 1 else (1 - moved) / (1 - base)
    return Drift(moved, base, share, steps, len(some))


def _tune(
    probe: Model,
    rows: Sequence[Inputs],
    question: Question,
    frozen: Tensor,
    place: torch.device,
    streams: Sequence[str],
    draw: torch.Generator,
) -> int:
    """Train all backbones of a copy; gives the number of steps."""
    ends = time.monotonic() + SECONDS
    target = question.target
    if question.kind == "numbers":
        target = (target - target.mean()) / target.std().clamp_min(1e-12)
        question = Question(question.task, "numbers", (), target, question.rows)
    started = fit_linear(standardise(frozen), question, PENALTY).float()
    spread = frozen.std(dim=0).clamp_min(1e-6 * float(frozen.std().clamp_min(1e-12)))
    mean, scale = frozen.mean(dim=0).to(place), (spread * frozen.shape[1] ** 0.5).to(place)
    layer = started.to(place).requires_grad_(True)
    target = target.float().to(place) if question.kind != "classes" else target.to(place)
    backbones = [parameter for parameter in probe.backbones.parameters() if parameter.requires_grad]
    solver = torch.optim.AdamW([{"params": backbones, "lr": LR}, {"params": [layer], "lr": LAYER_LR}])
    probe.train()
    done = 0
    with ThreadPoolExecutor(max_workers=4) as pool, torch.enable_grad():
        while done < STEPS and time.monotonic() < ends:
            numbers = torch.randperm(len(rows), generator=draw)[: min(BATCH, len(rows))]
            inputs = placed(probe.preprocess([rows[at] for at in numbers.tolist()], pool), place)
            found = (vectors_of(probe.features(inputs), streams) - mean) / scale
            scores = found @ layer[:-1] + layer[-1]
            loss = _loss(scores, target[numbers.to(place)], question)
            solver.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*backbones, layer], 1.0)
            solver.step()
            done += 1
    probe.eval()
    return done


def _loss(scores: Tensor, target: Tensor, question: Question) -> Tensor:
    if question.kind == "classes":
        return F.cross_entropy(scores, target)
    if question.kind == "labels":
        return F.binary_cross_entropy_with_logits(scores, target)
    return F.mse_loss(scores.squeeze(1), target)

"""One output of many: what an ensemble gives is in the form that the task's own loss, metrics and decoding take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.ensembling.spec import Combine

__all__ = ["Activation", "Stack", "combined", "mixture", "stacked_outputs"]

Activation = Literal["softmax", "sigmoid"] | None
_TIE = 1e-5  # of a logit: it decides ties, and changes no share by more than this part of itself


def combined(
    outputs: Tensor,
    how: Combine,
    activation: Activation,
    *,
    weights: Tensor | None = None,
    stack: Stack | None = None,
) -> Tensor:
    """Make one output of those of all members.

    Args:
        outputs: What the members gave for one task, their classes in one order.
        how: The way of combining.
        activation: How an output becomes probabilities.
        weights: One for each member, sum 1; for ``weighted`` and ``greedy``.
        stack: The fitted model of ``stacking``.

    Shape:
        - ``outputs``: ``(M, B, …)``; ``weights``: ``(M,)``.
        - returns: ``(B, …)``, float32 at least.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if how == "stacking":
        assert stack is not None  # the ensemble refuses to run before it is fitted
        return stacked_outputs(outputs, activation, stack)
    if how == "vote":
        return _VOTES[activation](outputs)
    if how == "logits":
        return outputs.mean(dim=0)
    return mixture(outputs, activation, weights)


def mixture(outputs: Tensor, activation: Activation, weights: Tensor | None = None) -> Tensor:
    """Average probabilities, and give the logits of that; numbers are averaged as they are.

    - ``softmax``: ``log Σ_m w_m softmax(o_m)``, whose softmax is the mean of the softmaxes;
    - ``sigmoid``: the logits of ``Σ_m w_m sigmoid(o_m)``;
    - None: ``Σ_m w_m o_m``.

    Args:
        outputs: What the members gave.
        activation: How an output becomes probabilities.
        weights: One for each member, sum 1; None for equal ones.

    Shape:
        - ``outputs``: ``(M, B, …)``; ``weights``: ``(M,)``; returns: ``(B, …)``.
    """
    count = len(outputs)
    if weights is None:
        if activation is None:
            return outputs.mean(dim=0)
        logs = outputs.new_full((count,), -math.log(count))
    else:
        if activation is None:  # a member without weight has no say, even where it is not finite
            held = torch.where(_wide(weights, outputs) > 0, outputs, 0)
            return (held * _wide(weights.to(outputs), outputs)).sum(dim=0)
        logs = weights.to(outputs).log()
    wide = _wide(logs, outputs)
    if activation == "softmax":
        return _logsumexp(outputs.log_softmax(dim=2) + wide)
    return _logsumexp(F.logsigmoid(outputs) + wide) - _logsumexp(F.logsigmoid(-outputs) + wide)


def _logsumexp(terms: Tensor) -> Tensor:
    return terms.logsumexp(dim=0)


def _wide(weights: Tensor, outputs: Tensor) -> Tensor:
    """Give ``(M,)`` as many dimensions as the outputs have."""
    return weights.reshape(-1, *[1] * (outputs.ndim - 1))


# --- votes


def _vote_for_one(outputs: Tensor) -> Tensor:
    """Give the logits of the classes' shares of the votes; ties go to the class with the higher mean probability."""
    classes = outputs.shape[2]
    votes = F.one_hot(outputs.argmax(dim=2), classes).movedim(-1, 2)
    shares = votes.to(outputs.dtype).mean(dim=0)
    return shares.clamp(min=torch.finfo(shares.dtype).tiny).log() + _TIE * outputs.softmax(dim=2).mean(dim=0)


def _vote_for_each(outputs: Tensor) -> Tensor:
    """Give the logits of each label's share of the votes; ties go to the side of the mean probability."""
    chances = outputs.sigmoid()
    shares = (chances >= 0.5).to(outputs.dtype).mean(dim=0)
    tiny = torch.finfo(shares.dtype).tiny
    logits = shares.clamp(min=tiny).log() - (1 - shares).clamp(min=tiny).log()
    return logits + _TIE * (chances.mean(dim=0) - 0.5)


def _middle(outputs: Tensor) -> Tensor:
    """Give the median; of an even number of members the mean of the two in the middle."""
    ranked = outputs.sort(dim=0).values
    count = len(ranked)
    return (ranked[(count - 1) // 2] + ranked[count // 2]) / 2


_VOTES: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": _vote_for_one,
    "sigmoid": _vote_for_each,
    None: _middle,
}


# --- stacking


class Stack(torch.nn.Module):
    """The linear model of stacking, for one task: ``z_k = Σ_m w_mk x_mk + b_k``.

    ``x`` are log-probabilities (softmax), logits (sigmoid), or the numbers themselves. It begins as the plain mean.

    Args:
        members: Number of members.
        width: Number of scores of a sample, ``K``; 1 for a single number.

    Shape:
        - ``weight``: ``(M, K)``; ``bias``: ``(K,)``; float64.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((members, width), 1 / members, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(width, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Score; see :func:`stack_inputs`."""
        return linear(inputs, self.weight, self.bias)


LEAST_LOG = math.log(1e-6)


def stack_inputs(outputs: Tensor, activation: Activation) -> Tensor:
    """Turn outputs into what a stack weighs: log-probabilities of 1e-6 at the least, logits within ±13.8, or numbers.

    Shape:
        - ``outputs``: ``(M, B, …)``; returns: the same.
    """
    if activation == "softmax":
        return outputs.log_softmax(dim=2).clamp(min=LEAST_LOG)
    return outputs.clamp(LEAST_LOG, -LEAST_LOG) if activation == "sigmoid" else outputs


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Weigh and add: dimension 2 of the inputs are the scores, where there is one.

    Shape:
        - ``inputs``: ``(M, B)``, or ``(M, B, K, …)``; returns: without the ``M``.
    """
    if inputs.ndim == 2:
        return (inputs * weight).sum(dim=0) + bias
    more = [1] * (inputs.ndim - 3)
    return (inputs * weight.reshape(len(weight), 1, -1, *more)).sum(dim=0) + bias.reshape(-1, *more)


def stacked_outputs(outputs: Tensor, activation: Activation, stack: Stack) -> Tensor:
    """Score the outputs of all members by a fitted stack."""
    inputs = stack_inputs(outputs, activation)
    scored: Tensor = linear(inputs, stack.weight.to(inputs), stack.bias.to(inputs))
    return scored

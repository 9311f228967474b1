"""Heads of attention and hidden widths of MLPs, pruned by slices: what transformers are pruned by, with our own hands.

The residual stream keeps its width, so a block may lose any number of its heads and hidden units without the others
noticing. torch-pruning follows the graph through attention by the numbers in its reshapes, and breaks where a library
writes those otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.pruning.channels import MOST, STEPS

__all__ = ["has_attention", "slice_steps"]


@dataclass(frozen=True, slots=True)
class _Part:
    """Something in a block of which parts can go: attention with its heads, or an MLP with its hidden units.

    Args:
        scores: Gives the importance of each of its parts, ``(n,)``.
        keep: Keeps the parts of the given numbers.
        multiple_of: The number of parts that are left is a multiple of this.
        whole: How many parts there were at first.
    """

    scores: Callable[[], Tensor]
    keep: Callable[[Tensor], None]
    multiple_of: int
    whole: int


def has_attention(model: Model) -> bool:
    """Say whether any backbone of a model has attention, and so is pruned here."""
    return any(_is_attention(layer) for backbone in model.backbones.values() for layer in backbone.native.modules())


def _is_attention(layer: nn.Module) -> bool:
    return isinstance(layer, nn.MultiheadAttention) or "attention" in type(layer).__name__.lower()


def slice_steps(model: Model, importance: str, *, ranking: str, multiple_of: int, seed: int) -> Iterator[bool]:
    """Prune a model's transformers in place, step by step.

    The importance of a part is the mean over its weights (of magnitudes, squares, or weight times gradient), divided by
    the mean over the parts beside it; each step takes the same share of all heads and of all hidden units.

    Args:
        model: The model; with gradients where the importance is ``taylor``.
        importance: ``l1``, ``l2``, ``taylor`` or ``random``.
        ranking: ``local``, where each layer loses the same share, or ``global``, where all heads are ranked together,
            and all hidden units.
        multiple_of: Hidden widths stay multiples of this.
        seed: Seed of ``random``.

    Yields:
        True after each step.

    Raises:
        ConfigError: If a backbone has neither heads nor MLPs of a form that is known here.

    Source:
        Michel et al., "Are Sixteen Heads Really Better than One?", 2019, arXiv:1905.10650, for whole heads; Molchanov
        et al., 2019, arXiv:1906.10771, for ``taylor``. Ours divides by the mean of a layer, and prunes MLPs too.
    """
    drawn = torch.Generator().manual_seed(seed)
    score = _scoring(importance, drawn)
    heads, hidden = _parts(model, score, multiple_of)
    if not heads and not hidden:
        told = ", ".join(entry.backbone.reference for entry in model.spec.streams.values())
        raise ConfigError(f"{told}: neither its attention nor its MLPs have a form that can be pruned; use sparsity=….")
    for step in range(1, STEPS + 1):
        for parts in (heads, hidden) if ranking == "global" else ([part] for part in (*heads, *hidden)):
            _take(parts, MOST * step / STEPS)
        yield True


def _scoring(importance: str, drawn: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Give what a weight's numbers are worth, one by one."""

    def taylor(weight: Tensor) -> Tensor:
        return torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).detach().abs()

    known: dict[str, Callable[[Tensor], Tensor]] = {
        "l1": lambda weight: weight.detach().abs(),
        "l2": lambda weight: weight.detach().square(),
        "taylor": taylor,
        "random": lambda weight: torch.rand(weight.shape, generator=drawn),
    }
    return known[importance]


def _take(parts: list[_Part], share: float) -> None:
    """Let the least important go until this share of what there was at first is gone; one at least stays in each."""
    if not parts:
        return
    ranked = []
    for part in parts:
        scores = part.scores()
        ranked.append(scores / scores.mean().clamp_min(1e-12))
    gone = int(share * sum(part.whole for part in parts)) - sum(
        p.whole - len(r) for p, r in zip(parts, ranked, strict=True)
    )
    if gone <= 0:
        return
    threshold = torch.cat(ranked).sort().values[gone - 1]
    for part, scores in zip(parts, ranked, strict=True):
        left = int((scores > threshold).sum())
        least = max(1, round(part.whole * (1 - MOST)))
        left = -(-max(left, least) // part.multiple_of) * part.multiple_of
        if left < len(scores):
            part.keep(scores.argsort(descending=True, stable=True)[:left].sort().values)


def _parts(model: Model, score: Callable[[Tensor], Tensor], multiple_of: int) -> tuple[list[_Part], list[_Part]]:
    """Find the attentions and the MLPs of all backbones."""
    heads, hidden = [], []
    for backbone in model.backbones.values():
        for layer in backbone.native.modules():
            if _sliceable(layer):
                heads.append(_attention(layer, score))
            pair = _mlp(layer)
            if pair is not None:
                hidden.append(_hidden(*pair, score, multiple_of))
    return heads, hidden


def _sliceable(layer: nn.Module) -> bool:
    """Say whether a layer is attention whose heads are nothing but rows of ``qkv`` and columns of ``proj``."""
    held: Any = layer
    qkv, proj = getattr(layer, "qkv", None), getattr(layer, "proj", None)
    sizes = [getattr(layer, name, None) for name in ("num_heads", "head_dim", "attn_dim")]
    if not (type(qkv) is nn.Linear and type(proj) is nn.Linear and all(type(size) is int for size in sizes)):
        return False
    whole = held.num_heads * held.head_dim
    fits = held.attn_dim == whole and qkv.out_features == 3 * whole and proj.in_features == whole
    # Norms of q and k are of one head's width and shared by all; whatever else has parameters knows the heads.
    known = {"qkv", "proj", "q_norm", "k_norm"}
    alone = all(name in known or next(child.parameters(), None) is None for name, child in layer.named_children())
    return fits and alone and next(layer.parameters(recurse=False), None) is None


def _attention(layer: Any, score: Callable[[Tensor], Tensor]) -> _Part:
    width = layer.head_dim

    def scores() -> Tensor:
        rows = score(layer.qkv.weight).unflatten(0, (3, layer.num_heads, width)).mean(dim=(0, 2, 3))
        columns = score(layer.proj.weight).unflatten(1, (layer.num_heads, width)).mean(dim=(0, 2))
        return rows + columns

    def keep(numbers: Tensor) -> None:
        of_one = (numbers[:, None] * width + torch.arange(width)).flatten()
        of_all = torch.cat([of_one + part * layer.num_heads * width for part in range(3)])
        _keep_rows(layer.qkv, of_all)
        _keep_columns(layer.proj, of_one)
        layer.num_heads, layer.attn_dim = len(numbers), len(of_one)

    return _Part(scores, keep, 1, layer.num_heads)


def _mlp(layer: nn.Module) -> tuple[nn.Linear, nn.Linear] | None:
    """Give the two linear layers of an MLP with nothing but functions between them."""
    children = dict(layer.named_children())
    linear = [child for child in children.values() if type(child) is nn.Linear]
    others = [child for child in children.values() if type(child) is not nn.Linear]
    named = {"fc1", "fc2"} <= children.keys() or isinstance(layer, nn.Sequential)
    bare = all(next(child.parameters(), None) is None for child in others)
    if not (named and bare and len(linear) == 2 and next(layer.parameters(recurse=False), None) is None):
        return None
    first, second = linear
    return (first, second) if first.out_features == second.in_features else None


def _hidden(first: nn.Linear, second: nn.Linear, score: Callable[[Tensor], Tensor], multiple_of: int) -> _Part:
    def scores() -> Tensor:
        return score(first.weight).mean(dim=1) + score(second.weight).mean(dim=0)

    def keep(numbers: Tensor) -> None:
        _keep_rows(first, numbers)
        _keep_columns(second, numbers)

    return _Part(scores, keep, multiple_of, first.out_features)


def _keep_rows(layer: nn.Linear, numbers: Tensor) -> None:
    layer.weight = _kept(layer.weight, 0, numbers)
    if layer.bias is not None:
        layer.bias = _kept(layer.bias, 0, numbers)
    layer.out_features = len(numbers)


def _keep_columns(layer: nn.Linear, numbers: Tensor) -> None:
    layer.weight = _kept(layer.weight, 1, numbers)
    layer.in_features = len(numbers)


def _kept(tensor: Tensor, dim: int, numbers: Tensor) -> nn.Parameter:
    left = nn.Parameter(tensor.detach().index_select(dim, numbers))
    if tensor.grad is not None:
        left.grad = tensor.grad.index_select(dim, numbers)
    return left

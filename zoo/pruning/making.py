"""``zoo.prune``: a copy is pruned, described, rebuilt from its description as a bundle is, and put in place."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch

from zoo.errors import ConfigError
from zoo.model import Model
from zoo.norms import measure_norms, running_norms
from zoo.pruning.attention import has_attention, slice_steps
from zoo.pruning.channels import channel_steps, library
from zoo.pruning.describing import copied, rebuilt
from zoo.pruning.gradients import BATCH, MOST_ROWS, add_gradients
from zoo.pruning.measuring import QuickCount, latencies, macs_of, macs_when_whole, sample_of
from zoo.pruning.report import PruneReport
from zoo.pruning.sparsity import prune_weights, share_of_zeros
from zoo.training.rows.looking import look_at
from zoo.training.rows.tables import read_for
from zoo.wrapping import WRAPPED

__all__ = ["MULTIPLE", "Importance", "Ranking", "check_pruning", "prune"]

log = logging.getLogger("zoo")

MULTIPLE = 8
"""What widths stay multiples of where nothing else is asked for."""
Importance = Literal["l1", "l2", "taylor", "random"]
Ranking = Literal["local", "global"]


class OutOfReach(ConfigError):
    """Even the narrowest model costs more than the target."""


def prune(
    model: Model,
    *,
    macs: float | None = None,
    latency: float | None = None,
    sparsity: float | None = None,
    importance: Importance | None = None,
    ranking: Ranking | None = None,
    data: Any = None,
    multiple_of: int | None = None,
    seed: int = 0,
) -> PruneReport:
    """Prune the backbones of a model in place, to one of three targets; fine-tune it afterwards.

    With ``macs`` or ``latency`` layers become narrower: the channels of convolutional backbones in the groups that must
    stay of one width, with torch-pruning; the heads of attention and the hidden units of MLPs of vision transformers.
    The widths stand in the model's spec, so that its bundle loads anywhere, without the model as it was and without
    torch-pruning. The heads' inputs shrink with what they read; where a head cannot follow, what it reads keeps its
    width. With ``sparsity`` single weights become zero, and nothing becomes smaller or faster by itself.

    Norms with running statistics keep those of the whole layers, which no longer fit what comes there, and the model
    can be much worse for that until it has been trained. With ``data`` they are measured anew on what is left.

    Every target is one of the architecture, not of the model as it came, so a model that meets it is left as it is;
    pruning in rounds is calling this with a smaller target each time, and training in between.

    Args:
        model: The model. Its parameters are new objects afterwards, so make the optimizer after this.
        macs: Share of the multiply-accumulates of the whole architecture that may be left, in ``(0, 1)``; for one
            picture at the size of the weights, heads not counted.
        latency: Milliseconds that one picture may take in the backbones on this CPU, with the threads that torch has;
            measured after each step, so it depends on the machine.
        sparsity: Share of the weights of convolutions and linear layers that is to be zero, in ``(0, 1)``.
        importance: By what the least important are told: ``l2``, the default for widths, or ``l1`` norms of what would
            go; ``taylor``, weight times gradient of the loss on ``data``; or ``random``. For ``sparsity``, ``l1``, the
            default, or ``random``.
        ranking: With what a part is compared: ``local``, with those of its own layers, so that all lose the same
            share, or ``global``, with those of all layers. None for ``local`` where channels go, and for ``global``
            where heads of attention, hidden units or single weights do.
        data: Training rows as ``zoo.fit`` takes them, of which 256 are looked at, evenly spread: for ``taylor``, with
            labels, and to measure the norms of narrower layers anew, which needs none. Where the model meets the target
            they are read, and not looked at.
        multiple_of: Numbers of channels and hidden units stay multiples of this, 1 or more; None for 8, which
            processors like. Single weights have no widths.
        seed: Seed of ``random``, 0 or more.

    Returns:
        What it cost before and costs now.

    Raises:
        ConfigError: If there is not one target, a setting cannot be used, the target cannot be reached, or the model is
            of a kind that cannot be pruned so; the model is as it was then.
        DataError: If ``data`` cannot be used.
        PluginError: If torch-pruning is needed and not installed.

    Example:
        >>> import zoo
        >>> model = zoo.build("timm:test_vit", zoo.head("classifier", classes=["cat", "dog"]), weights=None, seed=0)
        >>> report = zoo.prune(model, macs=0.7)
        >>> report.share <= 0.7
        True

    Source:
        See :func:`zoo.pruning.channels.channel_steps`, :func:`zoo.pruning.attention.slice_steps` and
        :func:`zoo.pruning.sparsity.prune_weights`.
    """
    how = check_pruning(macs, latency, sparsity, importance, ranking, data is not None, multiple_of, seed)
    if not isinstance(model, Model):
        raise ConfigError(f"zoo.prune takes a model of zoo.build or zoo.load, got {type(model).__name__}.")
    if sparsity is not None:
        return _sparse(model, sparsity, how, ranking or "global", seed)
    _check_model(model, has_data=data is not None and how != "taylor")
    if data is not None:
        data = read_for(model, data, strict=False)  # what cannot be read is told before minutes of work
    whole = macs_when_whole(model)
    work, norms = model, 0
    if not _reached(model, macs, latency, whole):
        ways = _ways(model, how, ranking, multiple_of=multiple_of or MULTIPLE, seed=seed)
        work = _narrower(model, macs, latency, whole, ways, data if how == "taylor" else None)
        if data is not None and running_norms(work):
            batches = (batch["inputs"] for batch in look_at(work, data, most=MOST_ROWS, size=BATCH))
            norms = measure_norms(work, batches, told="data=…")
    before, after = latencies([_on_cpu(model), work]) if work is not model else 2 * latencies([_on_cpu(model)])
    report = PruneReport(
        macs_whole=whole,
        macs_before=macs_of(model),
        macs_after=macs_of(work),
        parameters_before=_count(model),
        parameters_after=_count(work),
        latency_before=round(before, 3),
        latency_after=round(after, 3),
        sparsity=share_of_zeros(work),
        narrowed=sum(len(entry.backbone.widths) for entry in work.spec.streams.values() if entry.shares is None),
        protected=_read(work) == _read(model),
        norms=norms,
    )
    if work is not model:
        _put(model, work)
    return report


def check_pruning(
    macs: Any = None,
    latency: Any = None,
    sparsity: Any = None,
    importance: Any = None,
    ranking: Any = None,
    has_data: bool = False,
    multiple_of: Any = None,
    seed: Any = 0,
) -> Importance:
    """Check the settings of :func:`prune`, and give the importance.

    Raises:
        ConfigError: If there is not one target, or a setting cannot be used.
    """
    targets = {"macs": macs, "latency": latency, "sparsity": sparsity}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"Give one target of macs, latency and sparsity, got {' and '.join(given) or 'none'}.")
    (name,) = given
    value, most = targets[name], math.inf if name == "latency" else 1
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < most:
        what = "milliseconds above 0" if name == "latency" else "a share above 0 and below 1"
        raise ConfigError(f"{name} must be {what}, got {value!r}.")
    known = ("l1", "random") if name == "sparsity" else get_args(Importance)
    how: Any = importance or ("l1" if name == "sparsity" else "l2")
    if how not in known:
        raise ConfigError(f"importance must be one of {', '.join(known)} for {name}=…, got {importance!r}.")
    if ranking is not None and ranking not in get_args(Ranking):
        raise ConfigError(f"ranking must be one of {', '.join(get_args(Ranking))}, got {ranking!r}.")
    if how == "taylor" and not has_data:
        raise ConfigError("importance='taylor' is told from labelled data; pass data=….")
    if name == "sparsity" and has_data:
        raise ConfigError("sparsity=… looks at no data; leave data=… out.")
    if multiple_of is not None and name == "sparsity":
        raise ConfigError("multiple_of is of widths, and sparsity=… changes none; leave it out.")
    width = MULTIPLE if multiple_of is None else multiple_of
    for what, number, least in (("multiple_of", width, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ConfigError(f"{what} must be a whole number, {least} or more, got {number!r}.")
    return how


def _check_model(model: Model, *, has_data: bool) -> None:
    """Refuse a model whose widths cannot be pruned; the message names what is in the way.

    Args:
        model: The model.
        has_data: Whether there is data, for nothing but the norms.
    """
    if model.adapters:
        raise ConfigError("The model has adapters, whose widths are those of its layers; merge them first.")
    for stream, entry in model.spec.streams.items():
        spec = entry.backbone
        if spec.provider == WRAPPED:
            raise ConfigError(
                f"The stream {stream!r} is a module of your own, which is built by your code; prune it before zoo.wrap."
            )
        sample_of(spec)
        if spec.quantized is not None:
            raise ConfigError(f"{spec.reference} is quantized; prune the float model first, then quantize it again.")
        if "embed" in spec.capabilities:
            raise ConfigError(f"{spec.reference} is half of a dual-tower model, whose width the other half shares.")
    floating = {one.dtype for one in model.parameters()}
    if floating - {torch.float32}:
        raise ConfigError("Widths are pruned in float32; turn the model into it first, with model.float().")
    if not has_attention(model):
        library()
    if has_data and not running_norms(model):
        raise ConfigError(
            "The model has no norms with running statistics to measure; leave data=… out, or set importance='taylor'."
        )


def _sparse(model: Model, share: float, how: Importance, ranking: Ranking, seed: int) -> PruneReport:
    before = _count(model)
    prune_weights(model, share, how, ranking=ranking, seed=seed)
    return PruneReport(parameters_before=before, parameters_after=before, sparsity=share_of_zeros(model))


def _ways(
    model: Model, how: Importance, ranking: Ranking | None, *, multiple_of: int, seed: int
) -> list[Callable[[Model], Iterator[bool]]]:
    """Give the ways to prune a model step by step, the freest first."""
    if has_attention(model):
        compared = ranking or "global"
        return [lambda work: slice_steps(work, how, ranking=compared, multiple_of=multiple_of, seed=seed)]

    def channels(protected: bool) -> Callable[[Model], Iterator[bool]]:
        compared = ranking or "local"
        return lambda work: channel_steps(
            work, how, ranking=compared, multiple_of=multiple_of, protected=protected, seed=seed
        )

    return [channels(protected=False), channels(protected=True)]


def _narrower(
    model: Model,
    macs: float | None,
    latency: float | None,
    whole: int,
    ways: list[Callable[[Model], Iterator[bool]]],
    labelled: Any,
) -> Model:
    """Give a narrower copy as its bundle would load it."""
    for steps in ways:
        work = copied(model)
        for parameter in work.parameters():
            parameter.requires_grad_(True)
        if labelled is not None:
            add_gradients(work, labelled)
        try:
            _until(work, steps(work), macs, latency, whole)
            return rebuilt(work)
        except OutOfReach:
            raise
        except ConfigError as error:
            if steps is ways[-1]:
                raise
            log.info("What heads read keeps its width: %s", error)
    raise AssertionError("one of the ways returns or raises")


def _until(work: Model, steps: Iterator[bool], macs: float | None, latency: float | None, whole: int) -> None:
    """Take steps until the target is reached, of the last one no more than it takes."""
    quick = QuickCount(work) if macs is not None else None
    for ended in steps:
        near = quick is not None and macs is not None and quick.macs() <= macs * whole
        if (ended or near) and _reached(work, macs, latency, whole):
            return
    left = macs_of(work) / whole
    target = f"macs={macs}" if macs is not None else f"latency={latency}"
    raise OutOfReach(
        f"{target} cannot be reached: with all that may go gone, {left:.3f} of the multiply-accumulates are left. "
        "Raise the target, or lower multiple_of."
    )


def _reached(model: Model, macs: float | None, latency: float | None, whole: int) -> bool:
    if macs is not None:
        return macs_of(model) <= macs * whole
    assert latency is not None
    return all(latencies([_on_cpu(model)])[0] <= latency for _ in range(2))  # twice, since times are noisy


def _on_cpu(model: Model) -> Model:
    at = next(model.parameters()).device.type
    return model if at == "cpu" else copied(model)


def _read(model: Model) -> list[tuple[int, ...]]:
    """Give the widths of what the heads read, stream by stream."""
    found = []
    for stream, want in model.wants.items():
        spec = model.spec.streams[stream].backbone
        vector = [spec.pooled_dim] * want.pooled + [spec.token_dim or 0] * want.tokens
        found.append((*vector, *(spec.stage(name).channels or 0 for name in want.maps)))
    return found


def _count(model: Model) -> int:
    return sum(p.numel() for backbone in model.backbones.values() for p in backbone.native.parameters())


def _put(model: Model, made: Model) -> None:
    """Let a model have the parts of another; it stays where it is, and in its mode, and what is frozen stays so."""
    place, training = next(model.parameters()).device, model.training
    frozen, heads = model.frozen(), model.frozen_heads
    made.to(place)
    model.spec = made.spec
    model.backbones, model.heads, model.cut = made.backbones, made.heads, made.cut
    model.set_frozen_heads(frozenset())
    for stream, stages in frozen.items():
        model.set_frozen(stream, stages)
    model.set_frozen_heads(heads)
    model.train(training)

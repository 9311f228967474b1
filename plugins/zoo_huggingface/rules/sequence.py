"""How a type of transformers takes texts or sounds, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Rate", "Sequence"]

Rate = Literal["same", "vector", "output", "half", "quarter", "every"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """What goes in, how long it may be, and how its mask reaches the rate of the tokens.

    Args:
        kind: ``tokens`` (text), ``waveform`` or ``spectrogram`` (sound).
        argument: transformers' name of the main input.
        extra: Further inputs that may be given, each to its number of dimensions, the batch included.
        mask: transformers' name of the mask; empty if it takes none, so that the mask only pools.
        masked: Whether transformers cannot do without a mask.
        unless: Field and value of the config at which transformers must not be given the mask.
        rate: How the mask of the input becomes that of the tokens: ``same`` (one for one), ``vector`` (the module's own
            ``_get_feature_vector_attention_mask``), ``output`` (the output holds it), ``half`` and ``quarter`` (of the
            lengths, as strided convolutions round), ``every`` (each so many steps, by ``step``); None for a type that
            can be given no mask.
        limit: Field of the config with the greatest length, and what it is multiplied by; None if there is no limit.
        offset: Whether the positions begin after the padding token's number, as RoBERTa's do.
        fixed: Whether the limit is the only length.
        padded: Whether texts are filled up to the limit, as they were in training.
        shifted: Whether positions are counted from the first real token, so that padding may stand on the left.
        prefix: Number of tokens in front of the others.
        bins: Number of bins of a spectrogram, or field of the config that has it and what it is multiplied by.
        steps_first: Whether transformers takes ``(B, steps, bins)``; zoo's is ``(B, bins, steps)``.
        channel: Whether transformers wants a dimension of 1 after the batch.
        step: Field of the config with the number of samples or steps a token; with a dot, a field of an inner
            config; or fields and numbers, whose product it is.
        filled: Whether lengths must be multiples of ``step``; silence is added at the end.
        trial: Number of samples or steps of a trial pass.
    """

    kind: Literal["tokens", "waveform", "spectrogram"] = "tokens"
    argument: str = "input_ids"
    extra: Mapping[str, int] = field(default_factory=dict)
    mask: str = "attention_mask"
    masked: bool = False
    unless: tuple[str, str] | None = None
    rate: Rate | None = "same"
    limit: tuple[str, int] | None = ("max_position_embeddings", 1)
    offset: bool = False
    fixed: bool = False
    padded: bool = False
    shifted: bool = False
    prefix: int = 0
    bins: int | tuple[str, int] = 0
    steps_first: bool = False
    channel: bool = False
    step: str | tuple[str | float, ...] = ""
    filled: bool = False
    trial: int = 16

"""Texts and sounds: what goes in, how the mask reaches the rate of the tokens, and how a vector is pooled from them.

A spectrogram is ``(B, bins, steps)`` here, whichever way transformers takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ConfigError, ShapeError
from zoo.spec import InputSpec
from zoo_huggingface.rules.sequence import Sequence

__all__ = ["MASK", "arguments_of", "last_real", "limit_of", "masked_mean", "sequence_inputs", "token_mask"]

MASK = "attention_mask"
"""The uniform name of the mask."""


def sequence_inputs(who: str, sequence: Sequence, config: Any) -> tuple[InputSpec, ...]:
    """Say what goes in: texts as ``input_ids``, sounds as ``waveform`` or ``spectrogram``, the mask, and further ids.

    Args:
        who: The reference, for messages.
        sequence: How the type takes it.
        config: The config of the tower.

    Raises:
        ConfigError: If the config does not say how many bins a spectrogram has.
    """
    limit = limit_of(sequence, config)
    texts = sequence.kind == "tokens"
    main = InputSpec(
        name="input_ids" if texts else sequence.kind,
        kind=sequence.kind,
        rank=3 if sequence.kind == "spectrogram" else 2,
        channels=_bins(who, sequence, config) if sequence.kind == "spectrogram" else None,
        length=limit,
        fixed_length=sequence.fixed,
        dtype="int64" if texts else "float32",
    )
    mask = InputSpec(
        name=MASK, kind="mask", rank=2, length=limit, fixed_length=sequence.fixed, dtype="int64", required=False
    )
    extra = [
        InputSpec(name=name, kind="tokens", rank=rank, dtype="int64", required=False)
        for name, rank in sequence.extra.items()
    ]
    return (main, *([] if sequence.rate is None else [mask]), *extra)


def limit_of(sequence: Sequence, config: Any) -> int | None:
    """Give the greatest number of tokens, samples or steps; None if there is none."""
    if sequence.limit is None or getattr(config, "position_biased_input", True) is False:  # DeBERTa without positions
        return None
    name, factor = sequence.limit
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        return None
    padding = getattr(config, "pad_token_id", None)
    return value * factor - (0 if not sequence.offset or padding is None else int(padding) + 1)


def _bins(who: str, sequence: Sequence, config: Any) -> int:
    if isinstance(sequence.bins, int):
        return sequence.bins
    name, factor = sequence.bins
    value = getattr(config, name, None)
    if not isinstance(value, int):
        raise ConfigError(f"{who}: its config has no {name!r}, the number of bins of its spectrograms.")
    return value * factor


def arguments_of(sequence: Sequence, config: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Turn the uniform inputs into what transformers' forward pass takes.

    Raises:
        ShapeError: If the mask, or a further input, is not as long as the main input.
    """
    names = [name for name in inputs if name not in (MASK, *sequence.extra)]
    main, mask = inputs[names[0]], inputs.get(MASK)
    count = int(main.shape[-1])
    for name in (MASK, *sequence.extra):
        if name in inputs and tuple(inputs[name].shape[:2]) != (main.shape[0], count):
            got = tuple(inputs[name].shape)
            raise ShapeError(f"{name} must be as long as {names[0]}, {(int(main.shape[0]), count)}, got {got}.")
    given: dict[str, Any] = {name: inputs[name] for name in sequence.extra if name in inputs}
    if sequence.filled:
        more = -count % _step(sequence, config)
        main, mask = F.pad(main, (0, more)), None if mask is None else F.pad(mask, (0, more))
    if sequence.steps_first:
        main = main.transpose(1, 2)
    given[sequence.argument] = main.unsqueeze(1) if sequence.channel else main
    if mask is None and sequence.masked:
        mask = main.new_ones((main.shape[0], count), dtype=torch.int64)
    if mask is not None and _takes_mask(sequence, config):
        given[sequence.mask] = mask.to(torch.int64)
    if mask is not None and sequence.shifted:
        given["position_ids"] = _from_first_real(mask)
    return given


def _takes_mask(sequence: Sequence, config: Any) -> bool:
    if not sequence.mask:
        return False
    return sequence.unless is None or getattr(config, sequence.unless[0], None) != sequence.unless[1]


def _from_first_real(mask: Tensor) -> Tensor:
    """Count positions from each row's first real token."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places - mask.to(torch.int64).argmax(1, keepdim=True)).clamp(min=0)


def token_mask(
    sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor | None, count: int
) -> Tensor | None:
    """Bring the mask of the input to the rate of the tokens.

    Args:
        sequence: How the type takes its input.
        tower: The encoder, whose own rule of the rate is asked where it has one.
        config: Its config.
        output: What its pass gave.
        mask: ``(B, length)``, 1 where a token, sample or step is real; None if all are.
        count: Number of tokens that the pass gave, without the prefix.

    Shape:
        - returns: ``(B, count)``, bool; None if all are real.
    """
    if mask is None or sequence.rate is None:
        return None
    found = _RATES[sequence.rate](sequence, tower, config, output, mask.to(torch.int64), count)
    return found.bool()


def _same(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    return mask


def _vector(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    found: Tensor = tower._get_feature_vector_attention_mask(count, mask)
    return found


def _output(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    held = [output[name] for name in ("attention_mask", "output_mask") if output.get(name) is not None]
    found: Tensor = held[0]
    return found[:, :count]


def _half(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    return _up_to((mask.sum(1) - 1) // 2 + 1, count)


def _quarter(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    return _up_to(((mask.sum(1) - 1) // 2 - 1) // 2 + 1, count)


def _every(sequence: Sequence, tower: Any, config: Any, output: Any, mask: Tensor, count: int) -> Tensor:
    return mask[:, :: _step(sequence, config)][:, :count]


def _step(sequence: Sequence, config: Any) -> int:
    product: Any = 1
    for factor in (sequence.step,) if isinstance(sequence.step, str) else sequence.step:
        value = factor
        if isinstance(factor, str):
            value = config
            for name in factor.split("."):
                value = getattr(value, name)
        product *= value
    return round(product)


def _up_to(lengths: Tensor, count: int) -> Tensor:
    return torch.arange(count, device=lengths.device) < lengths[:, None]


_RATES: dict[str, Callable[[Sequence, Any, Any, Any, Tensor, int], Tensor]] = {
    "same": _same,
    "vector": _vector,
    "output": _output,
    "half": _half,
    "quarter": _quarter,
    "every": _every,
}


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Average the real tokens; a row without any gives zeros.

    Args:
        tokens: ``(B, N, D)``.
        mask: ``(B, N)``, bool; None if all are real.

    Shape:
        - returns: ``(B, D)``.
    """
    if mask is None:
        return tokens.mean(1)
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def last_real(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Give the last real token of each row, ``(B, D)``, on whichever side the padding stands."""
    if mask is None:
        return tokens[:, -1]
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (mask * positions).argmax(1)
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), index]

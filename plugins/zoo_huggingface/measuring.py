"""The spec of a backbone: built without memory, run once on zeros, and written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from zoo.contracts.weights import norm_kinds
from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, StageSpec
from zoo_huggingface.natives import class_of, create
from zoo_huggingface.plans import Plan
from zoo_huggingface.processors import DEFAULT_SIZE, read_preprocessing
from zoo_huggingface.reading import Reader, Reading, pair
from zoo_huggingface.sources import Source, first_line
from zoo_huggingface.stages import Tap, find_taps

__all__ = ["measure"]

_TOKENS = 8
"""Length of the text that a text backbone is measured with, in tokens."""


@dataclass(frozen=True, slots=True)
class _Measured:
    native: nn.Module
    reader: Reader
    reading: Reading
    pooled: Tensor
    maps: list[Tensor]


def measure(reference: Reference, plan: Plan, source: Source) -> BackboneSpec:
    """Say what a planned backbone takes and gives.

    Args:
        reference: Its reference, resolved.
        plan: Which module it is.
        source: Where it comes from; its weights are not read.

    Raises:
        ConfigError: If it cannot be built or run; the message has the type and the reason.
    """
    who, config = str(reference), plan.make_config()
    inputs, preprocessing = _inputs(reference, plan, source, config)
    found = _run(who, plan, inputs)
    size = inputs[0].size
    taps = find_taps(plan, found.native, [(int(m.shape[-2]), int(m.shape[-1])) for m in found.maps])
    native: Any = found.native
    tokens, prefix = _tokens(found)
    return BackboneSpec(
        reference=who,
        provider=reference.provider,
        architecture=plan.model_type if plan.part is None else f"{plan.model_type}#{plan.part}",
        library="transformers",
        library_version=transformers.__version__,
        modality="text" if size is None else "image",
        inputs=inputs,
        pooled_dim=int(found.pooled.shape[-1]),
        token_dim=tokens,
        prefix_tokens=prefix,
        stages=_stages(taps, found.maps, size),
        capabilities=_capabilities(found, inputs, tokens, config),
        norms=norm_kinds(native),
        parameters=sum(parameter.numel() for parameter in native.parameters()),
        pooling=plan.pooling,
        weights=_weights(source),
        preprocessing=preprocessing,
        construction={**plan.as_json(), "taps": [tap.as_json() for tap in taps]},
    )


def _weights(source: Source) -> str | None:
    if source.kind == "type" or (source.kind == "folder" and not source.has_weights()):
        return None
    return f"{source.name}@{source.revision}" if source.revision else source.name


def _inputs(
    reference: Reference, plan: Plan, source: Source, config: Any
) -> tuple[tuple[InputSpec, ...], Preprocessing | None]:
    main = str(class_of(str(reference), plan, config).main_input_name)
    if main == "input_ids":
        ids = InputSpec(name="input_ids", kind="tokens", rank=2, dtype="int64")
        return (ids, InputSpec(name="attention_mask", kind="mask", rank=2, dtype="int64", required=False)), None
    if main != "pixel_values":
        raise ConfigError(
            f"{reference}: {plan.model_type!r} cannot be served yet: it takes {main!r}, and this release serves "
            "pictures (pixel_values) and texts (input_ids)."
        )
    own = pair(getattr(config, "image_size", None))
    asked = bool({"img_size", "image_size"} & set(reference.options))
    channels = int(getattr(config, "num_channels", 3))
    needed = own if asked or plan.rule.resize != "free" else None
    has_processor = source.kind != "type"
    preprocessing = read_preprocessing(
        str(reference), source, plan.model_type, channels=channels, size=needed if has_processor else own
    )
    size = preprocessing.size if preprocessing is not None else own or DEFAULT_SIZE
    fixed = plan.rule.resize == "fixed"
    image = InputSpec(name="image", kind="image", rank=4, channels=channels, size=size, fixed_size=fixed)
    return (image,), preprocessing


def _run(who: str, plan: Plan, inputs: tuple[InputSpec, ...]) -> _Measured:
    """Run zeros through it where no memory is needed; what needs real numbers is run with them."""
    try:
        with torch.device("meta"):
            return _forward(who, plan, inputs, "meta")
    except ConfigError:
        raise
    except Exception:
        try:
            return _forward(who, plan, inputs, "cpu")
        except Exception as error:  # what a forward pass raises has no common type
            reason = first_line(error)
            raise ConfigError(f"{who}: {plan.model_type!r} cannot be served: its pass fails: {reason}") from error


def _forward(who: str, plan: Plan, inputs: tuple[InputSpec, ...], device: str) -> _Measured:
    main = inputs[0]
    if main.size is not None:
        zeros = torch.zeros(1, main.channels or 3, *main.size, device=device)
    else:
        zeros = torch.zeros(1, _TOKENS, dtype=torch.int64, device=device)
    native = create(who, plan).eval()
    reader = Reader(plan, native)
    with torch.no_grad():
        reading = reader.run(native, {main.name: zeros}, hidden=plan.rule.maps is not None)
        return _Measured(native, reader, reading, reader.pool(reading), reader.maps(reading))


def _tokens(found: _Measured) -> tuple[int | None, int]:
    """Give the width of a token, None if there are no tokens, and the number of prefix tokens."""
    last: Tensor = found.reading.output.last_hidden_state
    if last.ndim != 3 or (found.reading.size is not None and found.reader.grid(found.reading) is None):
        return None, 0
    return int(last.shape[-1]), found.reader.prefix(found.reading)


def _stages(taps: list[Tap], maps: list[Tensor], size: tuple[int, int] | None) -> tuple[StageSpec, ...]:
    stages = [] if taps and taps[0].stage == "stem" else [StageSpec(name="stem")]
    for tap in taps:
        if tap.index is None or size is None:
            stages.append(StageSpec(name=tap.stage, module=tap.module))
            continue
        shape = maps[tap.index].shape
        reduction = round(size[0] / int(shape[-2]), 4)
        stages.append(StageSpec(name=tap.stage, module=tap.module, channels=int(shape[1]), reduction=reduction))
    return (*stages, StageSpec(name="post"))


def _capabilities(found: _Measured, inputs: tuple[InputSpec, ...], tokens: int | None, config: Any) -> tuple[str, ...]:
    native: Any = found.native
    image = inputs[0].kind == "image"
    has = {
        "pooled": True,
        "maps": bool(found.maps),
        "tokens": tokens is not None,
        "mask": not image,
        "in_channels": image and hasattr(config, "num_channels"),
        "dynamic_size": image and not inputs[0].fixed_size,
        "grad_checkpointing": bool(native.supports_gradient_checkpointing),
    }
    return tuple(sorted(name for name, there in has.items() if there))

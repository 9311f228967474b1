"""The spec of a backbone: built without memory, run once on zeros, and written down."""

from __future__ import annotations

import json
import logging
from math import prod
from typing import Any

import transformers

from zoo.contracts.weights import norm_kinds
from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, Modality, StageSpec
from zoo_huggingface.anatomy import Trial, dissect
from zoo_huggingface.cutting import under
from zoo_huggingface.natives import class_of
from zoo_huggingface.plans import Plan
from zoo_huggingface.processors import DEFAULT_SIZE, default_preprocessing, read_preprocessing, usual_size
from zoo_huggingface.reading import pair, size_of
from zoo_huggingface.reading.sequence import sequence_inputs
from zoo_huggingface.rules import Rule
from zoo_huggingface.rules.sequence import Sequence
from zoo_huggingface.sources import Source
from zoo_huggingface.stages import Tap

__all__ = ["measure", "needed_size", "takes_of"]

log = logging.getLogger("zoo")

_MAIN_INPUTS = {"pixel_values": "picture", "input_ids": "sequence"}
"""transformers' main input to the maker of a type's arguments, where its rule names none."""


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
    takes = takes_of(who, plan, config)
    inputs, preprocessing = _inputs(reference, plan, source, plan.view(config), takes)
    anatomy, found = dissect(who, plan, takes, inputs)
    native: Any = found.native
    features = found.features
    assert features.pooled is not None
    left = [p for name, p in native.named_parameters() if not under(name, (*anatomy.unused, *anatomy.resting))]
    stages = _stages(found, anatomy.taps)
    return BackboneSpec(
        reference=who,
        provider=reference.provider,
        architecture=plan.model_type if plan.part is None else f"{plan.model_type}#{plan.part}",
        library="transformers",
        library_version=transformers.__version__,
        modality=_modality(inputs[0]),
        inputs=inputs,
        pooled_dim=int(features.pooled.shape[-1]),
        token_dim=None if features.tokens is None else int(features.tokens.shape[-1]),
        prefix_tokens=0 if features.prefix is None else int(features.prefix.shape[1]),
        stages=stages,
        capabilities=_capabilities(found, inputs, stages, plan),
        norms=norm_kinds(native),
        parameters=sum(parameter.numel() for parameter in left),
        pooling=plan.pooling,
        weights=_weights(source),
        preprocessing=preprocessing,
        construction={**plan.as_json(), **anatomy.as_json()},
    )


def takes_of(who: str, plan: Plan, config: Any) -> str:
    """Name the maker of the arguments.

    Raises:
        ConfigError: If the type takes what zoo does not give.
    """
    rule = plan.rule
    if rule.takes or rule.sequence is not None:
        return rule.takes or "sequence"
    main = str(class_of(who, plan, config).main_input_name)
    if main not in _MAIN_INPUTS:
        raise ConfigError(
            f"{who}: {plan.model_type!r} cannot be served: it takes {main!r}, and zoo gives types without a rule of "
            "their own pictures (pixel_values) and texts (input_ids)."
        )
    return _MAIN_INPUTS[main]


def _modality(main: InputSpec) -> Modality:
    kinds: dict[str, Modality] = {"image": "image", "video": "video", "tokens": "text"}
    return kinds.get(main.kind, "audio")


def _weights(source: Source) -> str | None:
    if source.kind == "type" or (source.kind == "folder" and not source.has_weights()):
        return None
    return f"{source.name}@{source.revision}" if source.revision else source.name


def _inputs(
    reference: Reference, plan: Plan, source: Source, config: Any, takes: str
) -> tuple[tuple[InputSpec, ...], Preprocessing | None]:
    if takes == "sequence":
        return sequence_inputs(str(reference), plan.rule.sequence or Sequence(), config), None
    rule, channels = plan.rule, channels_of(config)
    own = _own_size(reference, rule, config)
    needed = needed_size(reference, rule, config)
    divisor = divisor_of(rule, config)
    if _asks(reference) and own is not None:
        _check_size(str(reference), own, divisor, _least(rule, config))
    bare = source.kind == "type"
    if bare and own is None and rule.resize == "fixed":  # a default config need not take what its processor makes
        preprocessing: Preprocessing | None = default_preprocessing(channels, DEFAULT_SIZE)
    else:
        preprocessing = read_preprocessing(
            str(reference), source, plan.model_type, channels=channels, size=own if bare else needed
        )
    if preprocessing is not None:
        size = preprocessing.size
    else:
        size = own or usual_size(source, plan.model_type) or DEFAULT_SIZE
    if any(side % divisor for side in size):
        size = (max(1, size[0] // divisor) * divisor, max(1, size[1] // divisor) * divisor)
        preprocessing = None if preprocessing is None else read_preprocessing(
            str(reference), source, plan.model_type, channels=channels, size=size
        )  # fmt: skip
    video = takes == "clip"
    main = InputSpec(
        name="video" if video else "image",
        kind="video" if video else "image",
        rank=5 if video else 4,
        channels=channels,
        size=size,
        fixed_size=rule.resize == "fixed",
        divisor=divisor,
        least=_least(rule, config),
        length=_frames(config) if video else None,
        fixed_length=video and not rule.any_length,
    )
    return (main,), preprocessing


def needed_size(reference: Reference, rule: Rule, config: Any) -> tuple[int, int] | None:
    """Give the height and width that pictures must have, in pixels; None where those of the processor will do."""
    return _own_size(reference, rule, config) if _asks(reference) or rule.resize != "free" else None


def _own_size(reference: Reference, rule: Rule, config: Any) -> tuple[int, int] | None:
    return size_of(config) or _asked_size(reference) or rule.size


def _asks(reference: Reference) -> bool:
    return bool({"img_size", "image_size"} & set(reference.options))


def _asked_size(reference: Reference) -> tuple[int, int] | None:
    """Read the size of pictures that an option asks for, where the architecture itself knows of none."""
    asked = reference.options.get("img_size")
    sides = json.loads(asked) if isinstance(asked, str) else asked
    return None if sides is None else pair(sides)


def _check_size(who: str, size: tuple[int, int], divisor: int, least: int) -> None:
    """Refuse a size that the user asks for and that the backbone cannot take.

    Raises:
        ConfigError: If it is too small or no multiple of the divisor; the message has the nearest sizes.
    """
    if min(size) >= least and not any(side % divisor for side in size):
        return
    lower = [max(side // divisor * divisor, -(-least // divisor) * divisor, divisor) for side in size]
    upper = [max(-(-side // divisor) * divisor, low) for side, low in zip(size, lower, strict=True)]
    near = " or ".join(dict.fromkeys(f"{height}×{width}" for height, width in (lower, upper)))
    raise ConfigError(
        f"{who}: img_size must be a multiple of {divisor} and {least} or more, got {size[0]}×{size[1]}; "
        f"the nearest are {near}."
    )


def channels_of(config: Any) -> int:
    """Give the number of channels that a config says; 3 where it says none."""
    values = (getattr(config, name, None) for name in ("num_channels", "in_channels"))
    return next((value for value in values if isinstance(value, int)), 3)


def _takes_channels(plan: Plan, config: Any) -> bool:
    own = plan.view(config)
    return hasattr(own, "num_channels") or (plan.rule.packing is None and hasattr(own, "in_channels"))


def divisor_of(rule: Rule, config: Any) -> int:
    """Give what heights and widths must be multiples of."""
    if isinstance(rule.divisor, int):
        return rule.divisor
    values = [name if isinstance(name, int) else getattr(config, name) for name in rule.divisor]
    return prod(int(value if isinstance(value, int) else value[-1]) for value in values)


def _least(rule: Rule, config: Any) -> int:
    """Give the least height and width, in pixels."""
    patch = getattr(config, "patch_size", None)
    stride = rule.stride or (patch if isinstance(patch, int) else max(patch or (1,)))
    if rule.windows:
        return stride * getattr(config, rule.windows) * 2 ** (len(config.depths) - 1)
    return max(rule.least, stride if rule.maps == "tokens" and rule.rounding == "floor" else 1)


def _frames(config: Any) -> int:
    values = (getattr(config, name, None) for name in ("num_frames", "frames_per_clip"))
    return next((value for value in values if isinstance(value, int)), 8)


def _stages(found: Trial, taps: tuple[Tap, ...]) -> tuple[StageSpec, ...]:
    """Describe the stages; a map that is not reduced alike in height and width is none."""
    reading, maps = found.trace.reading, found.features.maps
    assert reading is not None
    stages = [] if taps and taps[0].stage == "stem" else [StageSpec(name="stem")]
    for tap in taps:
        reductions = None
        if tap.stage in maps and reading.size is not None:
            known = found.reader.strides(tap)
            sides = zip(reading.size, maps[tap.stage].shape[-2:], strict=True)
            reductions = known or tuple(round(side / int(got), 4) for side, got in sides)
        if reductions is None or reductions[0] != reductions[1]:
            stages.append(StageSpec(name=tap.stage, module=tap.module))
            continue
        channels = int(maps[tap.stage].shape[1])
        stages.append(StageSpec(name=tap.stage, module=tap.module, channels=channels, reduction=float(reductions[0])))
    return (*stages, StageSpec(name="post"))


def _capabilities(
    found: Trial, inputs: tuple[InputSpec, ...], stages: tuple[StageSpec, ...], plan: Plan
) -> tuple[str, ...]:
    native: Any = found.native
    seen = inputs[0].kind in ("image", "video")
    has = {
        "pooled": True,
        "maps": any(stage.channels is not None for stage in stages),
        "tokens": found.features.tokens is not None,
        "mask": any(entry.kind == "mask" for entry in inputs),
        "embed": plan.rule.projection is not None,
        "in_channels": seen and _takes_channels(plan, native.config),
        "dynamic_size": seen and not inputs[0].fixed_size,
        "grad_checkpointing": bool(native.supports_gradient_checkpointing),
    }
    return tuple(sorted(name for name, there in has.items() if there))

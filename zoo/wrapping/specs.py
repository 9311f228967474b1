"""The spec of a wrapped module, from what the dry runs showed."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from torch import nn

from zoo.contracts.weights import norm_kinds
from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec, InputSpec, Modality, StageSpec
from zoo.strict import to_json
from zoo.wrapping.backbone import WRAPPED, Output, Pooling, Recipe
from zoo.wrapping.layouts import Seen
from zoo.wrapping.looking import Look
from zoo.wrapping.stages import Cut, moved_of

__all__ = ["make_spec"]

_MODALITIES: dict[str, Modality] = {"image": "image", "video": "video", "tokens": "text", "mask": "text"}


def make_spec(
    module: nn.Module,
    seen: Look,
    cuts: list[Cut],
    name: str,
    pooling: Pooling | None,
    preprocessing: Preprocessing | None,
) -> BackboneSpec:
    """Write down what was seen."""
    shape = tuple(seen.first.output.shape)
    other = None if seen.other is None else tuple(seen.other.output.shape)
    final = seen.see("The module", shape, other)
    prefixes = {cut.map.prefix for cut in cuts if cut.map is not None and cut.map.layout == "tokens"}
    if len(shape) == 4 and final is None:
        final = _unpooled(shape)
    if len(shape) == 3 and final is None and seen.sizes is not None and seen.layout is None and not pooling:
        raise ConfigError(
            f"The tokens {shape} fill no grid of the picture; pass pooling='mean' or pooling='class_token', or "
            "prefix_tokens=… if there are some in front."
        )
    prefix = final.prefix if final is not None else (seen.prefix or max(prefixes, default=0))
    tokens = len(shape) == 3
    output: Output = "vector" if len(shape) == 2 else (final.layout if final is not None else "tokens")
    usual: Pooling = "output" if output == "vector" else ("class_token" if tokens and prefix else "mean")
    if prefixes - {prefix}:
        raise ConfigError(f"The stages must have one number of prefix tokens, got {sorted(prefixes | {prefix})}.")
    maps = [cut for cut in cuts if cut.map is not None]
    recipe = Recipe(
        code=f"{type(module).__module__}.{type(module).__qualname__}",
        keywords=seen.keywords,
        output=output,
        pooling=pooling or usual,
        layouts={cut.stage: cut.map.layout for cut in maps if cut.map is not None},
        reduction=final.reduction if tokens and final is not None else None,
        moved=moved_of(module, cuts, seen.first),
    )
    listed = [_stage(cut) for cut in cuts]
    if listed[0].name != "stem":
        listed.insert(0, StageSpec(name="stem"))
    masked = tokens and any(entry.kind == "mask" for entry in seen.entries)
    has = {"pooled": True, "maps": bool(maps), "tokens": tokens, "mask": masked}
    channels = shape[3] if output == "NHWC" else shape[1]
    library = type(module).__module__.partition(".")[0]
    fixed = replace(seen.entries[0], fixed_size=True) if seen.sizes is not None else seen.entries[0]
    _check_preprocessing(preprocessing, seen.entries[0])
    return BackboneSpec(
        reference=str(Reference(WRAPPED, name)),
        provider=WRAPPED,
        architecture=name,
        library=library,
        library_version=_version(library),
        modality=_MODALITIES.get(fixed.kind, "audio"),
        inputs=(fixed, *seen.entries[1:]),
        pooled_dim=shape[2] if tokens else channels,
        token_dim=shape[2] if tokens else None,
        prefix_tokens=prefix if tokens or prefixes else 0,
        stages=(*listed, StageSpec(name="post")),
        capabilities=tuple(sorted(name for name, there in has.items() if there)),
        norms=norm_kinds(module),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        pooling=recipe.pooling,
        preprocessing=preprocessing,
        construction=to_json(recipe),
    )


def _unpooled(shape: tuple[int, ...]) -> Seen | None:
    """Read a picture's output of one cell: what global pooling leaves."""
    if shape[2:] == (1, 1):
        return Seen("NCHW", shape[1], (1, 1), 1.0)
    if shape[1:3] == (1, 1):
        return Seen("NHWC", shape[3], (1, 1), 1.0)
    raise ConfigError(f"The output {shape} cannot be read as a map; pass layout='NCHW' or layout='NHWC'.")


def _stage(cut: Cut) -> StageSpec:
    if cut.map is None:
        return StageSpec(name=cut.stage, module=cut.module)
    return StageSpec(name=cut.stage, module=cut.module, channels=cut.map.channels, reduction=cut.map.reduction)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def _check_preprocessing(recipe: Preprocessing | None, entry: InputSpec) -> None:
    if recipe is None:
        return
    if entry.kind != "image" or (recipe.channels, recipe.size) != (entry.channels, entry.size):
        raise ConfigError(
            f"preprocessing must give what the example is, {entry.kind} of {entry.channels} channels and {entry.size} "
            f"pixels, got {recipe.channels} channels and {recipe.size}."
        )

"""The model card, ``README.md``: what a reader and the Hugging Face hub want to know, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.adapters.spec import AdapterSpec
from zoo.bundle.hub_data import card_data, numbers
from zoo.bundle.inspecting import flat_heads
from zoo.ensembling.spec import EnsembleSpec
from zoo.spec import BackboneSpec, HeadSpec, ModelSpec
from zoo.wrapping import WRAPPED

__all__ = ["ensemble_card", "escape", "make_card"]

MOST_CLASSES = 50
_ADAPTERS = "In `adapters/`, in PEFT's own form; `backbones/` has the backbones' own weights, without them."
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~&!])")


def make_card(spec: ModelSpec, provenance: Mapping[str, Any], adapters: Sequence[AdapterSpec] = ()) -> str:
    """Write the card of a model.

    Args:
        spec: The model as data.
        provenance: How it came to be; numbers under ``metrics`` become a table.
        adapters: What is beside its backbones.
    """
    metrics = list(numbers(provenance.get("metrics")))
    parts = [
        "# A zoo model",
        _sentence(spec),
        _loading(spec),
        "## Backbones\n\n" + _table(("stream", "backbone", "weights from", "license", "parameters"), _backbones(spec)),
    ]
    if spec.heads:
        parts.append("## Heads\n\n" + _table(("head", "type", "classes"), list(_heads(spec.heads))))
    if adapters:
        titles = ("adapter", "stream", "type", "rank", "alpha", "layers")
        told = [(one.name, one.stream, "LoRA", one.rank, one.alpha, len(one.targets)) for one in adapters]
        parts.append(f"## Adapters\n\n{_ADAPTERS}\n\n{_table(titles, told)}")
    if recipes := list(_recipes(spec)):
        parts.append("## Preprocessing\n\n" + _table(("stream", "size", "resize", "filter", "mean", "std"), recipes))
    if metrics:
        rows = [(name, f"{value:.6g}") for name, value in metrics]
        parts.append("## Metrics\n\n" + _table(("metric", "value"), rows))
    return (
        f"---\n{card_data([spec], list(_flat(spec.heads)), provenance).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"
    )


def ensemble_card(spec: EnsembleSpec, provenance: Mapping[str, Any]) -> str:
    """Write the card of an ensemble; the members' own cards are in their folders."""
    rows = [
        (
            member.name,
            " and ".join(stream.backbone.reference for stream in member.model.streams.values()),
            ", ".join(head.name for head in _flat(member.model.heads)),
            "; ".join(f"{task} {weights[n]:.4g}" for task, weights in spec.weights.items()),
        )
        for n, member in enumerate(spec.members)
    ]
    metrics = [(name, f"{value:.6g}") for name, value in numbers(provenance.get("metrics"))]
    call = 'ensemble = zoo.load("path/to/this/folder")\nprint(ensemble.predict("picture.jpg"))'
    code = f"```python\nimport zoo\n\n{call}\n```"
    parts = [
        "# A zoo ensemble",
        f"{len(rows)} models as one, combined by: {escape(spec.combine)}. Saved by zoo (`pip install headzoo`).",
        f"## Load it\n\n{code}",
        "## Members\n\n" + _table(("member", "backbone", "heads", "weight"), rows),
    ]
    if metrics:
        parts.append("## Metrics\n\n" + _table(("metric", "value"), metrics))
    models = [member.model for member in spec.members]
    heads = list(_flat(models[0].heads)) if models else []
    data = card_data(models, heads, provenance, tags=["ensemble"])
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _loading(spec: ModelSpec) -> str:
    """Write how it is loaded; what was wrapped needs code that is not in the bundle."""
    codes = {
        name: escape(stream.backbone.construction.get("code"))
        for name, stream in spec.streams.items()
        if stream.backbone.provider == WRAPPED
    }
    given = f", modules={{{', '.join(f'{name!r}: …' for name in codes)}}}" if codes else ""
    call = f'zoo.load("path/to/this/folder"{given})'
    code = f'```python\nimport zoo\n\nmodel = {call}\nprint(model.predict("picture.jpg"))\n```'
    needs = [f"The module of the stream {name} is a {text}; make one and pass it." for name, text in codes.items()]
    told = "**It needs code that is not in this folder.** " + " ".join(needs) + "\n\n" if codes else ""
    return f"## Load it\n\n{told}{code}"


def escape(text: object) -> str:
    r"""Make a text stand in a Markdown table as it is: no markup, no line break, no control character.

    Example:
        >>> escape("<b>cat|dog</b>")
        '\\<b\\>cat\\|dog\\</b\\>'
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return _SPECIAL.sub(r"\\\1", shown)


def _sentence(spec: ModelSpec) -> str:
    backbones = " and ".join(escape(stream.backbone.reference) for stream in spec.streams.values())
    heads = ", ".join(escape(head.name) for head in spec.heads) or "none; it gives features"
    return f"Backbone: {backbones}. Heads: {heads}. Saved by zoo (`pip install headzoo`)."


def _backbones(spec: ModelSpec) -> list[tuple[object, ...]]:
    return [(name, s.backbone.reference, *_origin(s.backbone)) for name, s in spec.streams.items()]


def _origin(backbone: BackboneSpec) -> tuple[object, ...]:
    return backbone.weights or "", backbone.license or "", f"{backbone.parameters:,}"


def _heads(heads: Sequence[HeadSpec]) -> Iterator[tuple[object, ...]]:
    for head in _flat(heads):
        classes = head.config.get("classes") or ()
        more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
        yield head.name, head.type, ", ".join(str(name) for name in classes[:MOST_CLASSES]) + more


def _flat(heads: Sequence[HeadSpec]) -> Iterator[HeadSpec]:
    """Walk heads, and those inside combinators."""
    return (head for head, _ in flat_heads(heads))


def _recipes(spec: ModelSpec) -> Iterator[tuple[object, ...]]:
    for name, stream in spec.streams.items():
        recipe = stream.backbone.preprocessing
        if recipe is not None:
            resize = "x".join(map(str, recipe.resize)) if recipe.resize else "no"
            size = f"{recipe.size[0]}x{recipe.size[1]}"
            yield name, size, resize, recipe.interpolation, _few(recipe.mean), _few(recipe.std)


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

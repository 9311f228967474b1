"""What the Hugging Face hub reads of a model card: the metadata in front, in the hub's own words and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from zoo.spec import BackboneSpec, HeadSpec, ModelSpec

__all__ = ["card_data", "numbers", "pipeline_tag"]

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(@[\w.-]+)?", re.ASCII)
_STRANGE = re.compile(r"[^A-Za-z0-9_.:/-]+")
_SPLITS = ("train", "validation", "test")
_LONGEST = 200

_LISTED = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-
openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-
by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-
nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-
permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
unknown other
"""

LICENSES = frozenset(_LISTED.split())
"""The licences that the hub knows by an identifier; it takes others as ``other`` with a ``license_name``."""

_TASKS: Mapping[tuple[str, str], str] = {
    ("image", "segmentation"): "image-segmentation",
    ("image", "zero_shot"): "zero-shot-image-classification",
}
"""Modality and head type to the hub's task, where that is not plain classification."""

_CLASSIFYING = {
    "image": "image-classification",
    "text": "text-classification",
    "audio": "audio-classification",
    "video": "video-classification",
}
_FEATURES = {"image": "image-feature-extraction", "text": "feature-extraction"}


def card_data(
    specs: Sequence[ModelSpec], heads: Sequence[HeadSpec], provenance: Mapping[str, Any], *, tags: Sequence[str] = ()
) -> ModelCardData:
    """Make the metadata of a card.

    Args:
        specs: The model, or the members of an ensemble.
        heads: Its heads, those inside others too.
        provenance: How it came to be; where it names data, numbers under ``metrics`` are results on it.
        tags: Further tags.
    """
    backbones = [stream.backbone for spec in specs for stream in spec.streams.values()]
    sources = sorted({found[1] for one in backbones if (found := _HUB_ID.fullmatch(one.weights or "")) is not None})
    metrics = list(numbers(provenance.get("metrics")))
    task = pipeline_tag(backbones, heads)
    results = list(_results(task, provenance, metrics)) if task is not None else []
    license, license_name = _license(backbones)
    named = {_tag(name.rpartition(".")[2].rpartition("/")[2]) for name, _ in metrics}
    return ModelCardData(
        library_name="zoo",
        base_model=sources or None,
        license=license,
        license_name=license_name,
        tags=sorted({"zoo", *tags, *(_tag(t) for one in backbones for t in (one.library, one.architecture))}),
        pipeline_tag=task,
        metrics=sorted(named) or None,
        eval_results=results or None,
        model_name="zoo-model" if results else None,
    )


def _license(backbones: Sequence[BackboneSpec]) -> tuple[str | None, str | None]:
    """Give the licence in the hub's words, and its name where the hub has no word for it."""
    found = sorted({one.license.lower() for one in backbones if one.license})
    if not found:
        return None, None
    if len(found) == 1 and found[0] in LICENSES:
        return found[0], None
    names = [re.sub(r"[^a-z0-9_.]+", "-", one).strip("-") for one in found]
    return "other", "-and-".join(names)[:_LONGEST] or "unnamed"


def pipeline_tag(backbones: Sequence[BackboneSpec], heads: Sequence[HeadSpec]) -> str | None:
    """Name the hub's task of a model; None if the hub has none such."""
    modalities = {one.modality for one in backbones}
    if len(modalities) != 1:
        return None
    modality = modalities.pop()
    if not heads:
        return _FEATURES.get(modality)
    special = [_TASKS[modality, head.type] for head in heads if (modality, head.type) in _TASKS]
    plain = [head for head in heads if head.config.get("classes")]
    return special[0] if special else _CLASSIFYING.get(modality) if plain else None


def _results(task: str, provenance: Mapping[str, Any], metrics: Sequence[tuple[str, float]]) -> Iterator[EvalResult]:
    """Give what was measured on data that has a name."""
    data = provenance.get("data")
    name = _line(data.get("name")) if isinstance(data, Mapping) and isinstance(data.get("name"), str) else ""
    if not name:
        return
    for metric, value in metrics:
        split = metric.partition(".")[0]
        yield EvalResult(
            task_type=task,
            dataset_type=_tag(name.lower()),
            dataset_name=name,
            dataset_split=split if split in _SPLITS else None,
            metric_type=_tag(metric.rpartition(".")[2].rpartition("/")[2]),
            metric_name=_line(metric),
            metric_value=value,
        )


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Give the numbers in nested mappings with their paths, such as ``test.pet.accuracy``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}.{key}" if name else str(key))
    elif name and isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def _tag(text: str) -> str:
    """Make a text an identifier: letters, digits and ``_.:/-``, which no YAML reads as anything else."""
    return _STRANGE.sub("-", text)[:_LONGEST].strip("-") or "unnamed"


def _line(text: object) -> str:
    """Make a text one line of printable characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:_LONGEST].strip()

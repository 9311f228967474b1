"""From a reference to a transformers encoder: names, specs, weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import transformers

from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.errors import ConfigError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.backbone import HuggingFaceBackbone
from zoo_huggingface.measuring import measure
from zoo_huggingface.natives import create, fit_file, load_pretrained
from zoo_huggingface.plans import Plan, make_plan
from zoo_huggingface.rules import PARTS, RULES
from zoo_huggingface.sources import find_source, read_source
from zoo_huggingface.stages import Tap

__all__ = ["HuggingFaceProvider"]

ALIASES = {
    "clip_text": "clip_text_model",
    "clip_vision": "clip_vision_model",
    "mobilenetv2": "mobilenet_v2",
    "pvt": "pvt_v2",
    "siglip_vision": "siglip_vision_model",
}
"""Loose names that people type, and the model type that they mean."""

_REQUIRES = "a hub id or local folder for pretrained weights"


class HuggingFaceProvider(Provider):
    """Encoders of transformers by model type, hub id or local folder; code from a hub repository is never run."""

    library = "transformers"

    def catalog(self) -> Catalog:
        """List the model types that have a rule; others are served by hub id or folder, the generic way."""
        towers = [
            CatalogEntry(
                name=name,
                modality="image-text",
                requires=f"one of its parts ({', '.join(f'#{part}' for part in PARTS[name])}), and {_REQUIRES}",
            )
            for name in PARTS
        ]
        types = [CatalogEntry(name=name, requires=_REQUIRES) for name in RULES]
        return Catalog(
            library="transformers",
            version=transformers.__version__,
            entries=tuple(sorted([*types, *towers], key=lambda entry: entry.name)),
            aliases=ALIASES,
            open_names=True,
        )

    def spec(self, reference: Reference) -> BackboneSpec:
        """Read the config, build it on the meta device, run it once, and write down what it gives."""
        source, model_type, config = read_source(reference)
        plan = make_plan(reference, model_type, config)
        return measure(replace(reference, revision=source.revision), plan, source)

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> HuggingFaceBackbone:
        """Build the encoder from the spec's config, with random weights, the source's own, or a file's."""
        plan = Plan.read(spec.reference, spec.construction)
        taps = _read_taps(spec)
        if weights == "pretrained":
            native = load_pretrained(spec.reference, plan, find_source(Reference.parse(spec.reference)))
        else:
            native = create(spec.reference, plan)
        if weights is not None and weights != "pretrained":
            fit_file(plan, native, weights)
        return HuggingFaceBackbone(spec, native, plan, taps)


def _read_taps(spec: BackboneSpec) -> list[Tap]:
    try:
        return [Tap(**tap) for tap in spec.construction["taps"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{spec.reference}: the stages in its construction are not complete: {error}.") from error

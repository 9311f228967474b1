"""From a reference to a transformers encoder: names, specs, weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.provider import Provider
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.adapting import ADAPTED
from zoo_huggingface.anatomy import Anatomy
from zoo_huggingface.backbone import HuggingFaceBackbone
from zoo_huggingface.companions import from_source
from zoo_huggingface.families import FAMILIES
from zoo_huggingface.measuring import measure, needed_size, takes_of
from zoo_huggingface.natives import create, fit_file, load_pretrained
from zoo_huggingface.plans import Plan, make_plan
from zoo_huggingface.rules import COMPOSITES, PARTS, RULES, UNSERVED, Rule
from zoo_huggingface.sources import find_source, read_source

__all__ = ["HuggingFaceProvider"]

_BY_PART = {"vision": "image", "text": "text", "audio": "audio"}
_REQUIRES = "a hub id or local folder for pretrained weights"


class HuggingFaceProvider(Provider):
    """Encoders of transformers by model type, hub id or local folder; code from a hub repository is never run."""

    library = "transformers"
    measured_once = True

    def catalog(self) -> Catalog:
        """List the model types, by their rules or, where transformers has one that no rule knows, the generic way."""
        parts = {name: {part: _BY_PART[part] for part in fields} for name, fields in COMPOSITES.items()}
        for name, rules in PARTS.items():
            parts[name] = {**parts.get(name, {}), **{part: _modality(rule) for part, rule in rules.items()}}
        towers = [
            CatalogEntry(
                name=name,
                modality="-".join(found.values()),
                requires=f"one of its parts ({', '.join(f'#{part}' for part in found)}), and {_REQUIRES}",
            )
            for name, found in parts.items()
        ]
        within = [
            CatalogEntry(name=f"{name}#{part}", modality=modality, requires=_REQUIRES)
            for name, found in parts.items()
            for part, modality in found.items()
        ]
        kinds = {name: _modality(rule) for name, rule in RULES.items()}
        kinds |= {name: "" for name in MODEL_MAPPING_NAMES if name not in {*kinds, *parts, *UNSERVED}}
        types = [
            CatalogEntry(name=name, modality=kind or "unknown", requires=_REQUIRES) for name, kind in kinds.items()
        ]
        return Catalog(
            library="transformers",
            version=transformers.__version__,
            entries=tuple(sorted([*types, *towers, *within], key=lambda entry: entry.name)),
            aliases=FAMILIES,
            refused=UNSERVED,
            open_names=True,
        )

    def digest(self, reference: Reference) -> str | None:
        """Hash what the spec of a folder or repository is read from; weights count by being there."""
        source = find_source(reference)
        return None if source.kind == "type" else source.digest()

    def spec(self, reference: Reference) -> BackboneSpec:
        """Read the config, build it on the meta device, run it once, and write down what it gives."""
        name, mark, part = reference.name.partition("#")
        if mark and name in {*PARTS, *COMPOSITES}:  # as the catalog lists a part
            reference = replace(reference, name=name, part=part)
        source, model_type, config = read_source(reference)
        plan = make_plan(reference, model_type, config)
        return measure(replace(reference, revision=source.revision), plan, source)

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> HuggingFaceBackbone:
        """Build the encoder from the spec's config, with random weights, the source's own, or a file's."""
        plan = Plan.read(spec.reference, spec.construction)
        anatomy = Anatomy.read(spec.reference, spec.construction)
        source = find_source(Reference.parse(spec.reference))
        published = None if weights is None else _published(Reference.parse(spec.reference))
        if weights == "pretrained":
            native = load_pretrained(spec.reference, plan, source, anatomy.unused, published)
        elif weights is None:
            native = create(spec.reference, plan, anatomy.unused)
        else:
            with skip_initialisers():
                native = create(spec.reference, plan, anatomy.unused)
            fit_file(spec.reference, plan, native, weights, anatomy.unused, published)
        takes = takes_of(spec.reference, plan, native.config)
        companion = None
        if spec.preprocessing is None:
            size = needed_size(Reference.parse(spec.reference), plan.rule, plan.view(native.config))
            companion = from_source(spec, plan, source, read=weights is not None, size=size)
        return HuggingFaceBackbone(spec, native, plan, takes, anatomy, companion)


def _modality(rule: Rule) -> str:
    if rule.sequence is not None:
        return "text" if rule.sequence.kind == "tokens" else "audio"
    return "video" if rule.takes == "clip" else "image"


def _published(reference: Reference) -> Plan | None:
    """Plan the module as it was published, if options make its weights fit another input; None if there are none."""
    kept = {name: value for name, value in reference.options.items() if name not in ADAPTED}
    if len(kept) == len(reference.options):
        return None
    plain = replace(reference, options=kept)
    _, model_type, config = read_source(plain)
    return make_plan(plain, model_type, config)

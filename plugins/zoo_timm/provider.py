"""From a reference to a timm model: names, specs on the meta device, weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.errors import CapabilityError, ConfigError, ZooError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_timm.backbone import TimmBackbone
from zoo_timm.building import create, create_from_file, create_pretrained
from zoo_timm.families import FAMILIES
from zoo_timm.options import check_obeyed, plan_construction
from zoo_timm.sizes import nearest_sizes
from zoo_timm.specs import measure
from zoo_timm.stages import Tap, stage_map
from zoo_timm.trimming import Reading

__all__ = ["TimmProvider"]


class TimmProvider(Provider):
    """Every architecture of timm, by its own name and tag."""

    library = "timm"
    measured_once = True

    def catalog(self) -> Catalog:
        """List timm's architectures, tags and renames."""
        tags: dict[str, list[str]] = {}
        for full in timm.list_pretrained():
            architecture, _, tag = full.partition(".")
            tags.setdefault(architecture, []).append(tag)
        entries = []
        for name in timm.list_models():
            config = timm.get_pretrained_cfg(name, allow_unregistered=False)
            default = config.tag if config is not None else None
            mine = sorted(sorted(tags.get(name, [])), key=default.__ne__)
            entries.append(
                CatalogEntry(
                    name=name,
                    tags=tuple(mine),
                    licenses=_licenses(name, mine),
                    size=None if config is None else (config.input_size[1], config.input_size[2]),
                )
            )
        from timm.models import _registry

        renames = {old: new for old, new in _registry._deprecated_models.items() if isinstance(new, str)}
        return Catalog(
            library="timm",
            version=timm.__version__,
            entries=tuple(sorted(entries, key=lambda entry: entry.name)),
            aliases=FAMILIES,
            renames=dict(sorted(renames.items())),
        )

    def spec(self, reference: Reference) -> BackboneSpec:
        """Build the architecture on the meta device, run it once, and write down what it gives."""
        construction = plan_construction(reference)
        if "img_size" not in reference.options:
            return _measure(reference, construction)
        try:
            return _measure(reference, construction)
        except (CapabilityError, ConfigError) as error:
            raise _size_refused(reference, error) from error

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> TimmBackbone:
        """Create the model with ``num_classes=0`` and load its weights."""
        reference = Reference.parse(spec.reference)
        construction = spec.construction
        if weights is None:
            native = create(reference, construction)
        elif weights == "pretrained":
            native = create_pretrained(reference, construction)
        else:
            native = create_from_file(reference, construction, weights)
        taps = [Tap(**tap) for tap in construction["taps"]]
        found = {output: Reading.from_json(data) for output, data in construction.get("readings", {}).items()}
        return TimmBackbone(spec, native, stage_map(native, taps), taps, found)


def _measure(reference: Reference, construction: Mapping[str, Any]) -> BackboneSpec:
    with torch.device("meta"):
        native = create(reference, construction)
    check_obeyed(reference, native, construction["arguments"])
    return measure(reference, native, construction)


def _size_refused(reference: Reference, error: ZooError) -> ZooError:
    """Turn the refusal of a picture size into one that names the nearest sizes; other refusals stay as they are."""

    def measured(**options: Any) -> BackboneSpec | None:
        other = replace(reference, options={**others, **options})
        try:
            return _measure(other, plan_construction(other))
        except (CapabilityError, ConfigError):
            return None

    asked: Any = reference.options["img_size"]
    others = {option: value for option, value in reference.options.items() if option != "img_size"}
    usual = measured()
    if usual is None or usual.inputs[0].size is None or not isinstance(asked, int) or asked < 1:
        return error
    step = math.lcm(usual.inputs[0].divisor, max(int(stage.reduction or 1) for stage in usual.stages))
    near = nearest_sizes(asked, step, lambda size: measured(img_size=size) is not None) or [usual.inputs[0].size[0]]
    return ConfigError(
        f"{reference}: it takes no pictures of {asked}×{asked} pixels; the nearest that it takes are "
        f"{' and '.join(f'{size}×{size}' for size in near)}."
    )


def _licenses(architecture: str, tags: list[str]) -> dict[str, str]:
    licenses = {tag: timm.get_pretrained_cfg(f"{architecture}.{tag}").license for tag in tags}
    return {tag: text for tag, text in licenses.items() if text}

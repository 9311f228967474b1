"""From a reference to a torchvision backbone: its spec, its module, its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.contracts.backbone import StageMap
from zoo.contracts.catalog import Catalog
from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.provider import Provider
from zoo.contracts.weights import read_weights
from zoo.errors import ConfigError, UnknownName, WeightsError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import check_options
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.backbone import TorchvisionBackbone
from zoo_torchvision.families import FAMILIES
from zoo_torchvision.measure import measure
from zoo_torchvision.names import (
    catalog_entry,
    find_anatomy,
    find_weights,
    license_of,
    refused,
    served,
    tags_of,
)
from zoo_torchvision.native import create
from zoo_torchvision.options import read_options
from zoo_torchvision.weights import fetch, pour

__all__ = ["TorchvisionProvider"]

CONSTRUCTION = dict.fromkeys(("architecture", "tag", "in_channels", "arguments", "drop_path")).keys()
"""What the construction in a spec holds; those of an early release have no ``drop_path``."""


class TorchvisionProvider(Provider):
    """torchvision's models for classification and video, and the bodies of those for segmentation and detection."""

    library = "torchvision"
    measured_once = True

    def catalog(self) -> Catalog:
        """List torchvision's backbones and their weights, the default first, and what is not served."""
        return Catalog(
            library="torchvision",
            version=version("torchvision"),
            entries=tuple(catalog_entry(name) for name in served()),
            aliases=FAMILIES,
            renames={f"{name}.DEFAULT": f"{name}.{tags_of(name)[0]}" for name in served()},
            refused=refused(),
        )

    def spec(self, reference: Reference) -> BackboneSpec:
        """Build the architecture on the meta device, run it once, and write down what it gives."""
        for piece, mark in ((reference.part, "#"), (reference.revision, "@")):
            if piece is not None:
                raise UnknownName(f"{reference}: torchvision models have none such; leave '{mark}{piece}' out.")
        architecture, _, asked = reference.name.partition(".")
        find_anatomy(reference, architecture)
        entry = find_weights(reference, architecture, asked)
        tag = entry.name if asked else None
        reference = replace(reference, name=f"{architecture}.{tag}" if tag else architecture)
        anatomy = find_anatomy(reference, architecture, tag)
        check_options(str(reference), reference.options, set(anatomy.options))
        preprocessing, construction = read_options(reference, architecture, anatomy, entry, tag)
        native = create(str(reference), anatomy, construction, meta=True)
        return measure(
            reference,
            native,
            anatomy,
            preprocessing,
            construction,
            weights=entry.url if tag else None,
            license=license_of(entry) if tag else None,
        )

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> TorchvisionBackbone:
        """Create the model without its classifier and load its weights."""
        reference = Reference.parse(spec.reference)
        anatomy = _checked(reference, spec.construction)
        architecture, tag = spec.construction["architecture"], spec.construction["tag"]
        arguments = dict(spec.construction["arguments"])
        if weights == "pretrained" and tag is None:
            known = ", ".join(tags_of(architecture))
            raise WeightsError(f"{reference} names no pretrained weights; add a tag of {known}, or use weights=None.")
        if weights is not None and "init_weights" in arguments:
            arguments["init_weights"] = False  # takes seconds, and all of it would be overwritten
        with nullcontext() if weights is None else skip_initialisers():
            native = create(spec.reference, anatomy, {**spec.construction, "arguments": arguments})
        if weights == "pretrained":
            entry = find_weights(reference, architecture, tag)
            pour(native, anatomy, fetch(reference, entry), where=entry.url)
        elif weights is not None:
            pour(native, anatomy, read_weights(weights), where=str(weights))
        ends = {stage.name: stage.module for stage in spec.stages if stage.module}
        return TorchvisionBackbone(spec, native, StageMap(native, ends, begins=anatomy.begins))


def _checked(reference: Reference, construction: Mapping[str, Any]) -> Anatomy:
    """Refuse what this provider never writes, since a spec may come from a stranger's bundle; give the family's row.

    Above all a builder must get no keyword by which it would fetch weights.
    """
    if not CONSTRUCTION - {"drop_path"} <= construction.keys() <= CONSTRUCTION:
        told = ", ".join(map(str, construction))
        raise ConfigError(f"{reference}: the spec's construction holds {told}; it must hold {', '.join(CONSTRUCTION)}.")
    name = ".".join(str(one) for one in (construction["architecture"], construction["tag"]) if one is not None)
    if name != reference.name:
        raise ConfigError(f"{reference}: the spec would build {name!r}; do not trust its source.")
    anatomy = find_anatomy(reference, construction["architecture"], construction["tag"])
    depth, channels = construction.get("drop_path"), construction["in_channels"]
    if not (depth is None or (isinstance(depth, float) and 0 <= depth < 1 and anatomy.drop_path == "modules")):
        raise ConfigError(f"{reference}: the spec holds drop_path={depth!r}, which zoo never writes.")
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ConfigError(f"{reference}: the spec holds in_channels={channels!r}; it must be 1 or more.")
    for keyword, value in construction["arguments"].items():
        plain = all(isinstance(one, (str, int, float, bool, type(None))) for one in _listed(value))
        if keyword not in anatomy.keywords or not plain:
            raise ConfigError(
                f"{reference}: the spec holds {keyword!r}, which zoo never writes; do not trust its source."
            )
    return anatomy


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)

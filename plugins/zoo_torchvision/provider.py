"""From a reference to a torchvision model: names, specs on the meta device, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision

from zoo.contracts.backbone import StageMap
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.contracts.weights import fit_weights, read_weights
from zoo.errors import ConfigError, UnknownName, WeightsError, nearest
from zoo.reference import Reference
from zoo.spec import BackboneSpec, check_options
from zoo_torchvision.anatomies import anatomy_of
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.backbone import TorchvisionBackbone
from zoo_torchvision.families import FAMILIES
from zoo_torchvision.measure import measure
from zoo_torchvision.native import create
from zoo_torchvision.options import read_options
from zoo_torchvision.weights import classifier_paths, pour_pretrained

__all__ = ["TorchvisionProvider"]

# torchvision states a licence by its address; it does so for the SWAG weights only.
LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC-BY-NC-4.0"}

# Why a model of another module of torchvision.models is no backbone here.
REFUSED = {
    "segmentation": "a segmentation model; a later release serves those",
    "detection": "a detection model; a later release serves those",
    "video": "a video model; a later release serves those",
    "optical_flow": "an optical-flow model, which is no backbone for pictures",
    "quantization": "a quantized model, which cannot be trained; use the float one of the same name",
}


class TorchvisionProvider(Provider):
    """Every classification model of torchvision, by its own name and the tag of its weights enum."""

    library = "torchvision"

    def catalog(self) -> Catalog:
        """List torchvision's classification models and their weights, the default first."""
        names = torchvision.models.list_models(module=torchvision.models)
        return Catalog(
            library="torchvision",
            version=version("torchvision"),
            entries=tuple(_entry(name) for name in names if anatomy_of(name) is not None),
            aliases=FAMILIES,
        )

    def spec(self, reference: Reference) -> BackboneSpec:
        """Build the architecture on the meta device, run it once, and write down what it gives."""
        for piece, mark in ((reference.part, "#"), (reference.revision, "@")):
            if piece is not None:
                raise UnknownName(f"{reference}: torchvision models have none such; leave '{mark}{piece}' out.")
        architecture, _, tag = reference.name.partition(".")
        anatomy = _anatomy(reference, architecture)
        check_options(str(reference), reference.options, set(anatomy.options))
        entry = _weights(reference, architecture, tag)
        preprocessing, construction = read_options(reference, architecture, anatomy, entry, tag or None)
        native = create(
            str(reference),
            architecture,
            anatomy,
            construction["arguments"],
            in_channels=construction["in_channels"],
            meta=True,
        )
        return measure(
            reference,
            native,
            anatomy,
            preprocessing,
            construction,
            weights=entry.url if tag else None,
            license=_license(entry) if tag else None,
        )

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> TorchvisionBackbone:
        """Create the model without its classifier and load its weights."""
        reference = Reference.parse(spec.reference)
        construction = spec.construction
        architecture, tag = construction["architecture"], construction["tag"]
        anatomy = _anatomy(reference, architecture)
        channels, arguments = construction["in_channels"], dict(construction["arguments"])
        _refuse_smuggled(reference, arguments)
        if weights is not None and "init_weights" in arguments:
            arguments["init_weights"] = False  # takes seconds, and all of it would be overwritten
        native = create(spec.reference, architecture, anatomy, arguments, in_channels=channels)
        if weights == "pretrained" and tag is None:
            known = ", ".join(_tags(architecture))
            raise WeightsError(f"{reference} names no pretrained weights; add a tag of {known}, or use weights=None.")
        if weights == "pretrained":
            size = arguments.get(anatomy.size_keyword) if anatomy.layout == "tokens" else None
            entry = _weights(reference, architecture, tag)
            pour_pretrained(reference, native, anatomy, entry, in_channels=channels, img_size=size)
        elif weights is not None:
            fit_weights(native, read_weights(weights), where=str(weights), classifier=classifier_paths(anatomy))
        ends = {stage.name: stage.module for stage in spec.maps}
        return TorchvisionBackbone(spec, native, StageMap(native, ends, begins=anatomy.begins))


def _refuse_smuggled(reference: Reference, arguments: Mapping[str, object]) -> None:
    """Refuse keywords by which a builder would fetch weights: a spec may come from a stranger's bundle."""
    for keyword, value in arguments.items():
        fetches = keyword.startswith(("weights", "pretrained")) or keyword == "progress"
        plain = all(isinstance(one, (str, int, float, bool, type(None))) for one in _listed(value))
        if fetches or not plain:
            raise ConfigError(
                f"{reference}: the spec holds {keyword!r}, which zoo never writes; do not trust its source."
            )


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _anatomy(reference: Reference, architecture: str) -> Anatomy:
    """Find the family's row, and refuse what is no classification model with the reason."""
    models = torchvision.models
    names = models.list_models(module=models)
    if architecture in names and (anatomy := anatomy_of(architecture)) is not None:
        return anatomy
    if architecture in models.list_models():
        room = models.get_model_builder(architecture).__module__.split(".")[2]
        why = REFUSED.get(room, "of a family that this release does not know")
        raise UnknownName(f"{reference}: {architecture} is {why}.")
    near = nearest(architecture, names)
    hint = f" The nearest are {', '.join(near)}." if near else ""
    raise UnknownName(f"torchvision {torchvision.__version__} has no backbone {architecture!r}.{hint}")


def _tags(architecture: str) -> list[str]:
    """Give the tags of an architecture, the default first."""
    enum = torchvision.models.get_model_weights(architecture)
    return sorted(enum.__members__.keys() - {"DEFAULT"}, key=lambda tag: (enum[tag] is not enum.DEFAULT, tag))


def _weights(reference: Reference, architecture: str, tag: str) -> Any:
    """Find the member of the weights enum; the default one without a tag."""
    enum = torchvision.models.get_model_weights(architecture)
    if not tag:
        return enum.DEFAULT
    if tag not in _tags(architecture):
        known = _tags(architecture)
        raise UnknownName(
            f"{reference}: {architecture} has no weights tagged {tag!r}; its tags are {', '.join(known)}."
        )
    return enum[tag]


def _license(entry: Any) -> str | None:
    return LICENSES.get(entry.meta.get("license"))


def _entry(name: str) -> CatalogEntry:
    enum = torchvision.models.get_model_weights(name)
    licenses = {tag: text for tag in _tags(name) if (text := _license(enum[tag])) is not None}
    side = enum.DEFAULT.transforms().crop_size[0]
    return CatalogEntry(name=name, tags=tuple(_tags(name)), licenses=licenses, size=(side, side))

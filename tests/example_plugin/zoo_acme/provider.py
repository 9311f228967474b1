"""From a reference such as ``acme:tinynet?width=32`` to a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo import (
    Backbone,
    BackboneSpec,
    Catalog,
    CatalogEntry,
    ConfigError,
    Features,
    InputSpec,
    Preprocessing,
    Provider,
    Reference,
    StageMap,
    StageSpec,
    UnknownName,
    Want,
    WeightsError,
    fit_weights,
)
from zoo.strict import check_options
from zoo_acme.network import TinyNet

__all__ = ["AcmeProvider", "TinyNetBackbone"]

WIDTH = 16
"""Channels of the first stage, unless the reference has ``?width=…``."""
REDUCTIONS = {"s1": 4.0, "s2": 8.0, "s3": 16.0}
"""Stage to input size divided by map size."""


class TinyNetBackbone(Backbone):
    """A TinyNet behind zoo's interface."""

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the network once and give what is wanted; zoo has checked the inputs."""
        native = self.native
        assert isinstance(native, TinyNet)
        maps = native.maps(inputs["image"])
        return Features(
            pooled=native.pool(maps["s3"]) if want.pooled else None,
            maps={stage: maps[stage] for stage in want.maps},
        )

    def cut(self, want: Want) -> bool:
        """Put the identity in the place of the stages behind the last wanted map."""
        last = 3 if want.pooled else max(int(stage.removeprefix("s")) for stage in want.maps)
        later = [f"stage{number}" for number in range(last + 1, 4)]
        for name in later:
            self.native.set_submodule(name, nn.Identity())
        return bool(later)


class AcmeProvider(Provider):
    """One family of backbones: ``tinynet``, with the option ``width``."""

    library = "zoo-acme"

    def catalog(self) -> Catalog:
        """List the one architecture; it has no pretrained weights, hence no tags."""
        return Catalog(library=self.library, version=version(self.library), entries=(CatalogEntry(name="tinynet"),))

    def spec(self, reference: Reference) -> BackboneSpec:
        """Say what the network takes and gives: all of it follows from its width."""
        check_options(str(reference), reference.options, {"width"})
        if reference.name != "tinynet" or reference.revision is not None or reference.part is not None:
            raise UnknownName(f"{reference}: acme has tinynet only, without tag, revision and part.")
        width = reference.options.get("width", WIDTH)
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise ConfigError(f"{reference}: width must be 1 or more channels, got {width!r}.")
        channels = {"s1": width, "s2": 2 * width, "s3": 4 * width}
        stages = [
            StageSpec(name=name, module=name.replace("s", "stage"), channels=channels[name], reduction=reduction)
            for name, reduction in REDUCTIONS.items()
        ]
        with torch.device("meta"):  # parameters are counted without being allocated
            parameters = sum(parameter.numel() for parameter in TinyNet(width).parameters())
        return BackboneSpec(
            reference=str(reference),
            provider=reference.provider,
            architecture="tinynet",
            library=self.library,
            library_version=version(self.library),
            modality="image",
            inputs=(InputSpec(name="image", kind="image", rank=4, channels=3, size=(64, 64)),),
            pooled_dim=channels["s3"],
            stages=(StageSpec(name="stem", module="stem"), *stages, StageSpec(name="post")),
            capabilities=("dynamic_size", "maps", "pooled"),
            norms=("batch",),
            parameters=parameters,
            pooling="mean",
            preprocessing=Preprocessing(size=(64, 64), resize=(64,), mean=(0.5,) * 3, std=(0.5,) * 3),
            construction={"width": width},
        )

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> TinyNetBackbone:
        """Build the network from its spec alone, and pour weights in if a file is given."""
        if weights == "pretrained":
            raise WeightsError(
                f"{spec.reference} has no pretrained weights; use weights=None or weights='path/to/model.safetensors'."
            )
        if set(spec.construction) != {"width"}:  # a bundle may come from a stranger
            raise ConfigError(f"{spec.reference}: construction must have the width alone, got {spec.construction}.")
        native = TinyNet(spec.construction["width"])
        if weights is not None:
            fit_weights(native, _read(weights), where=str(weights))
        stages = StageMap(native, {stage.name: stage.module for stage in spec.maps})
        return TinyNetBackbone(spec, native, stages)


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"The weights in {str(path)!r} cannot be read: {error}.") from error

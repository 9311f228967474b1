"""From a reference to a timm model: names, specs on the meta device, weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from zoo.contracts.backbone import StageMap
from zoo.contracts.catalog import Catalog, CatalogEntry
from zoo.contracts.provider import Provider
from zoo.contracts.weights import fit_weights, read_weights
from zoo.errors import ConfigError, UnknownName, WeightsError
from zoo.reference import Reference
from zoo.spec import BackboneSpec, check_options
from zoo_timm.backbone import MOVED, Tap, TimmBackbone
from zoo_timm.families import FAMILIES
from zoo_timm.specs import measure
from zoo_timm.weights import fetch, strict_loading, unreachable

__all__ = ["TimmProvider"]


# zoo's options, and the keyword of timm's factory or model that each becomes.
OPTIONS = {
    "in_channels": "in_chans",
    "img_size": "img_size",
    "drop_rate": "drop_rate",
    "drop_path_rate": "drop_path_rate",
    "global_pool": "global_pool",
    "dynamic_img_size": "dynamic_img_size",
    "output_stride": "output_stride",
}


class TimmProvider(Provider):
    """Every architecture of timm, by its own name and tag."""

    library = "timm"

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
        check_options(str(reference), reference.options, OPTIONS)
        architecture, _, tag = reference.name.partition(".")
        if reference.part is not None:
            raise UnknownName(f"{reference}: timm models have one part; leave '#{reference.part}' out.")
        arguments = {OPTIONS[option]: value for option, value in reference.options.items()}
        construction = {"architecture": architecture, "tag": tag or None, "arguments": arguments}
        with torch.device("meta"):
            native = _create(reference, construction)
        return measure(reference, native, construction)

    def build(self, spec: BackboneSpec, *, weights: str | Path | None) -> TimmBackbone:
        """Create the model with ``num_classes=0`` and load its weights."""
        reference = Reference.parse(spec.reference)
        native = _create(reference, spec.construction, pretrained=weights == "pretrained")
        if weights is not None and weights != "pretrained":
            fit_weights(native, read_weights(weights), where=str(weights), classifier=_classifier(native))
        taps = [Tap(**tap) for tap in spec.construction["taps"]]
        return TimmBackbone(spec, native, _stage_map(native, taps), taps)


def _create(reference: Reference, construction: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    architecture, tag = construction["architecture"], construction["tag"]
    arguments = dict(construction["arguments"])
    _refuse_smuggled(reference, architecture, arguments)
    _check_arguments(reference, architecture, arguments)
    full = f"{architecture}.{tag}" if tag else architecture
    if not pretrained:
        return _call(reference, full, arguments)
    if not tag:
        raise WeightsError(f"{reference} has no pretrained weights; build it with weights=None.")
    tensors = fetch(reference, full)
    try:
        overlay = None if tensors is None else {"state_dict": tensors}
        with strict_loading(reference):
            native = _call(reference, full, arguments, pretrained=True, pretrained_cfg_overlay=overlay)
    except WeightsError:
        raise
    except OSError as error:
        raise unreachable(reference, full, error) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"The pretrained weights of {reference} do not fit: {reason}") from error
    native.pretrained_cfg.pop("state_dict", None)  # or the weights would live twice
    return native


def _call(reference: Reference, full: str, arguments: Mapping[str, Any], **more: Any) -> Any:
    """Call timm's factory.

    Raises:
        ConfigError: If timm refuses the arguments.
    """
    try:
        return timm.create_model(full, num_classes=0, **arguments, **more)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{reference}: timm cannot build it with {dict(arguments)}: {error}.") from error
    except RuntimeError as error:
        if more:
            raise
        raise ConfigError(f"{reference}: timm cannot build it with {dict(arguments)}: {error}.") from error


def _refuse_smuggled(reference: Reference, architecture: object, arguments: Mapping[str, Any]) -> None:
    """Refuse what zoo never writes: a spec may come from a stranger's bundle.

    timm would follow ``hf-hub:…`` and ``local-dir:…`` names, and read files and networks for some keywords.
    """
    if not isinstance(architecture, str) or not timm.is_model(architecture) or ":" in architecture:
        raise ConfigError(f"{reference}: {architecture!r} is no architecture of timm {timm.__version__}.")
    for keyword, value in arguments.items():
        if keyword not in OPTIONS.values() or not isinstance(value, (str, int, float, bool, type(None))):
            raise ConfigError(
                f"{reference}: the spec holds {keyword!r}, which zoo never writes; do not trust its source."
            )


def _check_arguments(reference: Reference, architecture: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what timm would take and not obey: impossible numbers, and ``img_size`` where the family drops it."""
    channels = arguments.get("in_chans", 1)
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ConfigError(f"{reference}: in_channels must be a whole number, 1 or more, got {channels!r}.")
    for rate in ("drop_rate", "drop_path_rate"):
        value = arguments.get(rate, 0)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise ConfigError(f"{reference}: {rate} must be in [0, 1), got {value!r}.")
    if "img_size" in arguments and not timm.get_pretrained_cfg(architecture).to_dict().get("fixed_input_size"):
        raise ConfigError(f"{reference}: {architecture} takes any picture size; leave img_size out.")


def _licenses(architecture: str, tags: list[str]) -> dict[str, str]:
    licenses = {tag: timm.get_pretrained_cfg(f"{architecture}.{tag}").license for tag in tags}
    return {tag: text for tag, text in licenses.items() if text}


def _classifier(native: nn.Module) -> tuple[str, ...]:
    model: Any = native
    name = model.default_cfg.get("classifier") or ()
    return tuple(_emptied(native, path) for path in ((name,) if isinstance(name, str) else name))


def _emptied(native: nn.Module, path: str) -> str:
    """Give what timm emptied with the classifier: LeViT's last layer takes its BatchNorm along."""
    parent = path.rpartition(".")[0]
    return parent if parent and not native.get_submodule(parent).state_dict() else path


def _stage_map(native: nn.Module, taps: list[Tap]) -> StageMap:
    numbered = [tap for tap in taps if tap.stage != "stem"]
    begins = numbered[0].begins if numbered else None
    moved = MOVED.get(type(native).__name__)
    return StageMap(native, {tap.stage: tap.module for tap in taps}, begins=begins, moved=moved)

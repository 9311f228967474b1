"""Every pretrained tag is a backbone: its own size, statistics and source, over one architecture."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import timm

from zoo.catalog import resolve
from zoo_timm.provider import TimmProvider

LIMIT = 9e6
PER_MODULE = 2
QUICK = 8


def sample() -> list[str]:
    """Choose tags of small architectures, those first whose configuration is unlike the default one's, per module."""
    catalog = json.loads(resources.files("zoo_timm").joinpath("catalog.json").read_text())
    small = {e["name"]: e["parameters"] for e in catalog["entries"] if e.get("parameters", LIMIT) < LIMIT}
    chosen: dict[str, list[str]] = {}
    for full in sorted(timm.list_pretrained(), key=lambda full: (same_as_default(full), full)):
        name = full.partition(".")[0]
        mine = chosen.setdefault(timm.models._registry._model_to_module[name], [])
        if name in small and len(mine) < PER_MODULE:
            mine.append(full)
    found = [full for mine in chosen.values() for full in mine]
    return sorted(found, key=lambda full: (same_as_default(full), small[full.partition(".")[0]]))


def same_as_default(full: str) -> bool:
    mine, usual = timm.get_pretrained_cfg(full), timm.get_pretrained_cfg(full.partition(".")[0])
    return all(getattr(mine, key) == getattr(usual, key) for key in ("input_size", "mean", "std", "crop_pct"))


TAGS = sample()


def test_the_sample_has_many_families_and_other_configurations_than_the_default():
    families = {timm.models._registry._model_to_module[full.partition(".")[0]] for full in TAGS}

    assert len(TAGS) >= 55
    assert len(families) >= 40
    assert sum(not same_as_default(full) for full in TAGS) >= 5


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    "full", [full if i < QUICK else pytest.param(full, marks=pytest.mark.slow) for i, full in enumerate(TAGS)]
)
def test_a_tag_has_its_own_size_statistics_and_source(full):
    reference = resolve(f"timm:{full}").reference
    config = timm.get_pretrained_cfg(full)
    transform = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())

    spec = TimmProvider().spec(reference)

    assert (spec.architecture, spec.construction["tag"]) == tuple(full.split(".", 1))
    assert (spec.inputs[0].channels, *spec.inputs[0].size) == config.input_size
    assert spec.preprocessing.size == transform["input_size"][1:]
    assert (spec.preprocessing.mean, spec.preprocessing.std) == (transform["mean"], transform["std"])
    assert spec.preprocessing.interpolation == transform["interpolation"]
    assert spec.weights == (config.hf_hub_id or config.url)
    assert spec.license == config.license

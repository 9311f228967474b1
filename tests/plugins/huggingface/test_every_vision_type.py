"""Every type of transformers that looks at pictures is served, or refused with a reason.

``vision_types.json`` lists them by what they take: one picture, patches with their grid, a clip, or more than one
picture.
"""

from __future__ import annotations

import inspect
import json
import re
import runpy
from pathlib import Path

import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES, MODEL_MAPPING_NAMES

from zoo.errors import ConfigError
from zoo.reference import Reference
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import COMPOSITES, PARTS, RULES, UNSERVED
from zoo_huggingface.rules.inner import INNER

HERE = Path(__file__).parent
TYPES: dict[str, list[str]] = json.loads((HERE / "vision_types.json").read_text())
TIMM = {"timm_backbone", "timm_wrapper"}
"""Types that hold a timm model, which the timm provider serves under its own name."""
COMPARED = {*runpy.run_path(str(HERE / "vision_cases.py"))["CASES"]}
"""Types that are built and compared with the library in their small form elsewhere."""
MEASURED = sorted(
    {*TYPES["one picture"], *TYPES["clip"], *INNER} - TIMM - COMPARED - set(UNSERVED)
    - {name for name, rule in RULES.items() if rule.packing is not None}
)  # fmt: skip
PROVIDER = HuggingFaceProvider()


@pytest.mark.slow
def test_the_list_is_what_the_library_has():
    found = []
    for name in CONFIG_MAPPING:
        listed = MODEL_MAPPING_NAMES.get(name) or MODEL_FOR_BACKBONE_MAPPING_NAMES.get(name)
        try:
            cls = getattr(transformers, listed[0] if isinstance(listed, tuple) else str(listed))
            taken = inspect.signature(cls.forward).parameters
        except (AttributeError, ImportError):  # no class, or one that another library must be installed for
            continue
        if "input_ids" not in taken and any(key.startswith("pixel_values") or "grid_thw" in key for key in taken):
            found.append(name)

    listed_here = [name for kind, names in TYPES.items() if kind != "multi-modal" for name in names]

    assert sorted(found) == sorted(listed_here)


def test_each_has_a_rule_or_a_reason():
    for kind, names in TYPES.items():
        for name in names:
            if kind in ("packed patches", "clip"):
                assert name in RULES, name
            elif kind == "more than a picture":  # the whole is refused; its vision tower may be a part
                assert name in UNSERVED or "vision" in COMPOSITES[name], name
            else:
                assert kind == "multi-modal" or (name in RULES) != (name in UNSERVED), name


def test_98_of_100_that_take_one_picture_are_served():
    asked = set(TYPES["one picture"]) - TIMM

    refused = asked & set(UNSERVED)

    assert refused == {"dinat"}
    assert 1 - len(refused) / len(asked) >= 0.98


@pytest.mark.parametrize("name", sorted(set(UNSERVED) & set(CONFIG_MAPPING)))
def test_what_is_refused_says_why(name):
    with pytest.raises(ConfigError, match=re.escape(f"cannot be served: {UNSERVED[name]}")):
        PROVIDER.spec(Reference("hf", name))
    assert len(UNSERVED[name].split()) > 3


@pytest.mark.parametrize("name", ["clip", "siglip", "metaclip_2", "tipsv2"])
def test_a_dual_tower_is_served_by_its_parts(name):
    assert "vision" in PARTS[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.soak] * bool(i % 8)) for i, n in enumerate(MEASURED)]
)
def test_a_type_that_is_compared_nowhere_else_gives_a_spec_in_its_default_form(name):
    spec = PROVIDER.spec(Reference("hf", name))

    assert "pooled" in spec.capabilities
    assert spec.pooled_dim > 1
    assert spec.stages[0].name == "stem"
    assert spec.stages[-1].name == "post"

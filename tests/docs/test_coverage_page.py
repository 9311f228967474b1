"""The page of coverage has the numbers of the shipped catalogs, and names all that is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/coverage.md").read_text("utf-8")


def shipped(plugin: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "plugins" / plugin / "catalog.json").read_text("utf-8"))
    return content


@pytest.mark.parametrize("plugin", ["timm", "torchvision", "huggingface"])
def test_the_page_is_about_the_version_that_the_catalog_is_of(plugin):
    catalog = shipped(f"zoo_{plugin}")

    assert re.search(rf"{catalog['library']} {re.escape(catalog['version'].partition('+')[0])}\b", PAGE)


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_each_architecture_of_a_library_is_counted(name):
    catalog = shipped(f"zoo_{name}")
    served, refused = len(catalog["entries"]), len(catalog.get("refused", {}))

    assert f"## {name}: {served + refused:,} architectures" in PAGE
    assert f"| zoo: spec, module, pooled vector | {served:,} of {served + refused:,} " in PAGE


@pytest.mark.parametrize("plugin", ["zoo_torchvision", "zoo_huggingface"])
def test_what_is_refused_is_named_with_its_reason(plugin):
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    # no class for features stands for these, so that no sweep asks for them
    without_a_class = {"encoder-decoder", "speech-encoder-decoder", "superglue", "vision-encoder-decoder"}
    for name, reason in shipped(plugin)["refused"].items():
        if name not in without_a_class:
            (row,) = (line for line in rows if f"`{name}`" in line)
            assert row.split(" | ")[0].removeprefix("| ")[:40] == reason[:40], name

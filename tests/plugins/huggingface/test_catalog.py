"""The plugin as the registry and the catalog see it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo import catalog
from zoo.registry import registry
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import PARTS, RULES


def test_the_plugins_package_imports_neither_torch_nor_transformers():
    code = "import sys, zoo_huggingface; assert not {'torch', 'transformers'} & set(sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_entry_point_gives_the_provider():
    assert isinstance(registry().provider("hf"), HuggingFaceProvider)


def test_the_shipped_catalog_lists_what_the_table_serves():
    shipped, fresh = catalog.catalog_of("hf"), HuggingFaceProvider().catalog()

    assert [entry.name for entry in shipped.entries] == [entry.name for entry in fresh.entries]
    assert {entry.name.partition("#")[0] for entry in shipped.entries} >= {*RULES, *PARTS}
    assert shipped.refused == fresh.refused
    assert all("a hub id or local folder for pretrained weights" in entry.requires for entry in shipped.entries)
    assert all(bool(entry.pooled_dim) == bool(entry.parameters) for entry in shipped.entries)


@pytest.mark.parametrize(
    ("text", "how", "full"),
    [
        ("hf:ViT", "folded", "hf:vit"),
        ("hf:mobilenetv2", "folded", "hf:mobilenet_v2"),
        ("hf:clip_vision", "alias", "hf:clip_vision_model"),
        ("hf:clip#vision", "exact", "hf:clip#vision"),
        ("hf:org/name@main#text?pooling=mean", "as given", "hf:org/name@main#text?pooling=mean"),
        ("hf:./folder", "as given", "hf:./folder"),
        ("hf:/a/b", "as given", "hf:/a/b"),
        ("hf:~/b", "as given", "hf:~/b"),
    ],
)
def test_loose_names_and_open_names_resolve(text, how, full):
    found = catalog.resolve(text)

    assert (found.how, str(found.reference)) == (how, full)

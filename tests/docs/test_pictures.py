"""The page of pictures has a row for every field, with its default."""

import dataclasses
import re
from pathlib import Path

import zoo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pictures.md"


def test_every_field_of_a_recipe_and_of_an_augmentation_stands_in_its_table():
    first, second = PAGE.read_text("utf-8").split("## Training views")

    for text, kind in ((first, zoo.Preprocessing), (second, zoo.Augmentation)):
        told = dict(re.findall(r"^\| `([^`]+)` \| ([^|]*?) \|", text, re.MULTILINE))
        expected = {
            field.name: "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`".replace("'", '"')
            for field in dataclasses.fields(kind)
        }
        assert told == expected

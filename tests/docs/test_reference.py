"""The reference pages say neither more nor less than there is."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
import typer

import zoo
from zoo.cli.app import app
from zoo.reference import _GRAMMAR
from zoo.registry import registry

PAGES = Path(__file__).parents[2] / "docs" / "reference"
COMMANDS = {
    name if one is group else f"{name} {inner}": one
    for name, group in typer.main.get_command(app).commands.items()
    for inner, one in getattr(group, "commands", {name: group}).items()
}


def sections(page: str) -> dict[str, str]:
    """Give the text below each second-level heading of a page, by the name in backticks."""
    text = (PAGES / page).read_text("utf-8")
    parts = re.split(r"^## `([^`]+)`.*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> dict[str, str]:
    """Give the second cell of each table row by the first, which is in backticks."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*?) \|", text, re.MULTILINE))


def written(value: object) -> str:
    return f"`{value!r}`".replace("'", '"')


def own(kind: str) -> list[str]:
    return [name for name, plugin in registry().names(kind).items() if plugin.distribution == "headzoo"]


def test_every_command_has_a_section_and_no_other_has():
    assert list(sections("cli.md")) == [f"zoo {name}" for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_stands_in_its_table(name):
    told = {text.partition(" ")[0] for text in rows(sections("cli.md")[f"zoo {name}"]) if text.startswith("--")}
    options = {parameter.opts[0] for parameter in COMMANDS[name].params if parameter.opts[0].startswith("--")}

    assert told == options - {"--help"}


def test_every_head_has_a_section_with_its_settings_and_defaults():
    told = sections("heads.md")

    assert sorted(told) == sorted(own("heads"))
    for name, text in told.items():
        config = registry().head_class(name).Config
        fields = {field.name: field for field in dataclasses.fields(config)}
        assert set(rows(text)) == set(fields), name
        for field, cell in rows(text).items():
            default = fields[field].default
            assert cell == ("required" if default is dataclasses.MISSING else written(default)), (name, field)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("classifier", {"classes": ["a", "b"]}),
        ("classifier", {"classes": ["a", "b"], "multi_label": True}),
        ("embedding", {"classes": ["a", "b"]}),
        ("embedding", {"loss": "triplet"}),
        ("ordinal", {"classes": ["a", "b"]}),
        ("regression", {}),
    ],
)
def test_the_section_of_a_head_names_its_metrics_and_what_it_predicts(head, settings):
    model = zoo.build("timm:test_resnet", {"type": head, **settings}, weights=None)
    task = model.task(head)
    told = " ".join(sections("heads.md")[head].split())
    predicted = model.predict(torch.zeros(3, 160, 160))[head]

    assert all(f"`{name}`" in told for name in (*task.metrics(), *predicted.as_json()))
    assert f"`{task.best_metric[0]}` (decides" in told


def test_every_method_has_a_section_with_its_settings_and_defaults():
    told = sections("methods.md")

    assert sorted(told) == sorted(own("methods"))
    for name, text in told.items():
        fields = dataclasses.fields(registry().method_class(name))
        assert rows(text) == {field.name: written(field.default) for field in fields}, name


def test_the_settings_of_fit_stand_on_the_page_of_methods_with_their_defaults():
    text = (PAGES / "methods.md").read_text("utf-8").partition("## ")[0]
    parameters = list(inspect.signature(zoo.fit).parameters.values())[2:-1]

    assert rows(text) == {parameter.name: written(parameter.default) for parameter in parameters}


def test_the_grammar_of_references_stands_on_its_page_as_errors_give_it():
    assert _GRAMMAR in (PAGES / "references.md").read_text("utf-8")

"""Plain commands are read without typer, and say the same."""

import pytest
import typer

from zoo.cli import express
from zoo.cli.app import app


def by_typer(zoo, monkeypatch, argv):
    with monkeypatch.context() as patch:
        patch.setattr(express, "answer", lambda argv: None)
        return zoo(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["list"],
        ["list", "timm:resnet1*", "--limit", "3"],
        ["list", "--provider=torchvision", "mobilenetv3", "--json"],
        ["list", "--needs", "maps", "--needs", "tokens", "--pretrained", "--sort", "parameters", "--limit", "2"],
        ["list", "--tag", "in22k", "--size", "224", "--max-size=256", "--min-params", "5M", "--max-params", "30M"],
        ["list", "no_such_thing", "--license", "gpl*"],
        ["list", "--heads"],
        ["list", "--heads", "--pretrained"],
        ["list", "--methods", "--json"],
        ["list", "--modality", "smell"],
        ["list", "--size", "x"],
        ["list", "--tag="],
        ["list", "--license", ""],
        ["list", ""],
        ["list", "timm:vit", "--provider", "hf"],
        ["info", "timm:mobilenetv3"],
        ["info", "--json", "timm:mobilenetv3"],
        ["info", "torchvision:raft_large"],
        ["info", "hf:a/b"],
        ["resolve", "timm:mobilenetv3", "--json"],
        ["resolve", "mobilenet_v3_large"],
        ["resolve", "timm:resnet5O"],
        ["resolve", ""],
    ],
    ids=" ".join,
)
def test_a_plain_command_says_the_same_with_and_without_typer(zoo, monkeypatch, argv):
    quick = zoo(*argv)

    assert by_typer(zoo, monkeypatch, argv) == quick
    assert quick.code != 0 or express.answer(argv) == 0


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["--version"],
        ["list", "--help"],
        ["list", "-h"],
        ["list", "a", "b"],
        ["list", "--no-such"],
        ["list", "--need", "maps"],
        ["list", "--needs"],
        ["list", "--needs", "--json"],
        ["list", "--json=1"],
        ["list", "--limit", "0"],
        ["list", "--limit", "-1"],
        ["list", "--limit", "many"],
        ["list", "--limit", "1", "--limit", "2"],
        ["list", "--sort", "age"],
        ["list", "--", "a"],
        ["list", "-"],
        ["info"],
        ["info", "a", "b"],
        ["resolve", "a", "--spec"],
        ["plugins"],
    ],
    ids=" ".join,
)
def test_what_is_not_plain_is_left_to_typer(argv):
    assert express.answer(argv) is None


def test_the_options_that_are_read_without_typer_are_those_that_typer_has():
    commands = typer.main.get_command(app).commands

    assert set(express.COMMANDS) == {"list", "info", "resolve"}
    for name, options in express.COMMANDS.items():
        declared = {}
        for parameter in commands[name].params:
            option = parameter.opts[0]
            if option.startswith("--") and option != "--help":
                kind = "flag" if parameter.is_flag else "texts" if parameter.multiple else "text"
                declared[option] = (parameter.name, kind)
        told = {option: (keyword, kind) for option, (keyword, kind) in options.items()}
        plain = {
            option: (keyword, "text" if kind == "number" or isinstance(kind, tuple) else kind)
            for option, (keyword, kind) in told.items()
        }
        assert plain == declared, name

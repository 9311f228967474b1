"""Texts of a bundle reach no terminal and no spreadsheet as anything but text."""

import contextlib
import csv
import io
import json
import traceback
import unicodedata

import pytest
from PIL import Image

import zoo
from zoo.cli import main
from zoo.errors import ZooError

PAYLOADS = {
    "colour": "\x1b[31mred\x1b[0m",
    "cleared screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "one-byte introducer": "\x9b31mred",
    "rich markup": "[link=https://evil.example][bold red]click[/bold red][/link]",
    "fake line": "cat\nINFO everything is well\r\nerror: none",
    "carriage return": "problem\rok      ",
    "bidirectional": "\u202egnp.exe\u202c \u2066x\u2069",
    "invisible": "c\u200ba\u00adt\ufeff",
    "line separator": "a\u2028INFO b\u2029c\x85d",
    "backspaces": "evil\x08\x08\x08\x08good",
    "bell and null": "\x07\x00",
    "formula": "=cmd|' /C calc'!A0",
    "formula with a plus": "+1+cmd|' /C calc'!A0",
    "formula with an at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula after a tab": "\t=1+1",
    "percent": "%s%n%x{0}{self}",
    "very long": "A" * 20_000,
}
FAKES = ("INFO ", "error: none")


def harmful(text):
    """List what in printed text could steer a terminal."""
    found = [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    return found + [line for line in text.split("\n") if line.startswith(FAKES)]


class Terminal(io.StringIO):
    """A stream that says of itself that it is a terminal."""

    def isatty(self):
        return True


def run(*argv, terminal):
    """Run a command; give its code and all that it printed."""
    out, err = Terminal() if terminal else io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in argv])
    return code, out.getvalue(), err.getvalue()


def check(*argv, codes=(0, 1, 2)):
    """Run a command with and without a terminal; nothing that it prints may be harmful."""
    for terminal in (False, True):
        code, out, err = run(*argv, terminal=terminal)
        assert code in codes, (argv, code, err)
        shown = out + err
        if terminal:  # what rich itself writes: colours of its own
            shown = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "").replace("\x1b[3m", "")
        assert harmful(shown) == [], (argv, shown[:300])
    return out


COMMANDS = [("verify",), ("verify", "--json"), ("verify", "--run"), ("inspect",), ("inspect", "--json"), ("info",)]
COMMANDS += [("inspect", "--tensors"), ("info", "--json")]


def look(bundle, *commands):
    for command, *options in commands or COMMANDS:
        check(command, bundle, *options)


TEXTS = list(PAYLOADS.values())


@pytest.mark.slow
def test_classes_provenance_and_versions_are_escaped(make, tmp_path):
    head = zoo.head("classifier", name="pet", classes=[*TEXTS, "dog"])
    notes = {f"{text} {i}": {text: [text]} for i, text in enumerate(TEXTS)}
    metrics = {text: {text: 0.5} for text in TEXTS}
    bundle = make.tiny(head, method=TEXTS[0], metrics=metrics, **notes).save(tmp_path / "bundle")
    for text in (*TEXTS[:4], "".join(TEXTS)):

        def change(data, text=text):
            data["created"].update(by=f"zoo {text}", torch=text, python=text, at=text)
            data["licenses"] = {"main": text, text: text}
            data["model"]["streams"]["main"]["backbone"].update(license=text, library_version=text, weights=text)
            for entry in data["requires"]:
                entry.update(version=text, distribution=text)

        make.rewrite(bundle, change)
        look(bundle)
    assert zoo.load(bundle).heads["pet"].spec.config["classes"] == [*TEXTS, "dog"]


def head(data, text):
    data["model"]["heads"][0].update(name=text)


def kind_of_head(data, text):
    data["model"]["heads"][0].update(type=text)
    data["components"][1].update(type=text)


def provider(data, text):
    data["model"]["streams"]["main"]["backbone"].update(provider=text, reference=text)
    data["components"][0].update(type=text)


def stream(data, text):
    data["model"]["streams"][text] = data["model"]["streams"]["main"]


def plugin(data, text):
    data["requires"].append({"name": text, "distribution": text, "version": text})


def newer(data, text):
    data.update(min_reader="9.9")
    data["created"].update(by=text)


REFUSED = [head, kind_of_head, provider, stream, plugin, newer]
REFUSED += [
    lambda data, text: data.update(kind=text),
    lambda data, text: data["files"].update({text: data["files"]["README.md"]}),
    lambda data, text: data["components"][0].update(path=text),
    lambda data, text: data.update({text: 1}),
    lambda data, text: data.update(tied=[[text, text]]),
    lambda data, text: data["model"]["heads"][0]["config"].update({text: text}),
    lambda data, text: data["model"]["streams"]["main"]["backbone"]["construction"].update({text: {text: 1}}),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_names_that_are_refused_are_escaped_in_the_refusal(bundle, make, number):
    refused = 0
    for text in TEXTS:
        make.rewrite(bundle, lambda data, text=text: REFUSED[number](data, text))
        told = refusal(bundle)
        refused += told is not None
        if told is not None:
            assert harmful(told) == []
            assert "\n" not in told
    assert refused == len(TEXTS) or REFUSED[number] in REFUSED[-1:]
    make.rewrite(bundle, lambda data: REFUSED[number](data, "".join(TEXTS)))
    look(bundle, ("verify", "--run"), ("inspect",))


def refusal(bundle):
    """Give what Python prints of the error in which a load ends; None if it ends in a model."""
    try:
        zoo.load(bundle)
    except ZooError as error:
        return "".join(traceback.format_exception_only(error)).removesuffix("\n")
    return None


@pytest.mark.slow
def test_file_and_folder_names_are_escaped(bundle):
    for text in TEXTS:
        name = text.replace("/", "").replace("\0", "")[:60]
        (bundle / name).write_bytes(b"x")
        (bundle / f"heads/{name}").mkdir()
        (bundle / f"heads/{name}/{name}").write_bytes(b"x")
    look(bundle)
    assert len(zoo.verify(bundle).extra) == 2 * len(TEXTS)

    name = "".join(text.replace("/", "").replace("\0", "") for text in TEXTS)[:200]
    outer = bundle.rename(bundle.with_name(name))
    look(outer)
    (outer / "zoo.json").unlink()
    look(outer)
    check("verify", outer.with_name(f"{name} none"), codes=(1, 2))


@pytest.fixture
def picture(tmp_path):
    """A picture with a hostile name."""
    name = "".join(text.replace("/", "").replace("\0", "")[:8] for text in TEXTS)[:120]
    path = tmp_path / f"={name}.png"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(path)
    return path


@pytest.mark.slow
def test_predictions_are_escaped_and_no_formula(tmp_path, picture, monkeypatch):
    heads = [
        zoo.head("classifier", name="pet", classes=TEXTS),
        zoo.head("classifier", name="tags", classes=TEXTS, multi_label=True, threshold=0.01),
    ]
    bundle = zoo.build("timm:test_resnet", heads, weights=None, seed=0).save(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)  # so that a path begins as the name does

    check("predict", bundle, picture.name, codes=(0,))
    told = json.loads(check("predict", bundle, picture.name, "--json", codes=(0,)))
    check("predict", bundle, picture.name, "--csv", tmp_path / "out.csv", codes=(0,))

    assert set(told[0]["predictions"]["pet"]["probabilities"]) == set(TEXTS)
    text = (tmp_path / "out.csv").read_bytes().decode("utf-8")
    assert not [c for c in text if c not in "\n\r\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    csv.field_size_limit(10**6)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == 2
    assert len(rows[0]) == len(rows[1]) > len(TEXTS)
    for cell in [cell for row in rows for cell in row]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert rows[1][0].startswith("'=")


@pytest.mark.slow
def test_measures_and_differences_are_escaped(make, tmp_path, picture):
    names = [text for text in TEXTS if "/" not in text and "\0" not in text and len(text) < 100]
    heads = [zoo.head("classifier", name="pet", classes=names)]
    bundle = zoo.build("timm:test_resnet", heads, weights=None, seed=0).save(tmp_path / "bundle")
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / picture.name).write_bytes(picture.read_bytes())
    one = make.tiny(zoo.head("classifier", name="pet", classes=TEXTS), x=TEXTS).save(tmp_path / "one")
    two = make.tiny(zoo.head("classifier", name="pet", classes=TEXTS[::-1][1:]), **dict.fromkeys(TEXTS, 1))
    two = two.save(tmp_path / "two")

    check("evaluate", bundle, tmp_path / "data")
    check("diff", one, two)
    check("diff", one, two, "--json")

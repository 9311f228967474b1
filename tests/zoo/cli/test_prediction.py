"""``zoo predict`` and ``zoo verify`` on a bundle whose class names are as unkind as can be."""

import csv

import pytest
import torch
from PIL import Image

import zoo as library
from zoo.cli.prediction import _words
from zoo.cli.spreadsheet import guard

CLASSES = ["=1+1", "[bold]\x1b[31mcat\n"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    heads = [
        library.head("classifier", name="species", classes=CLASSES),
        library.head("classifier", name="marks", classes=["a", "b"], multi_label=True, threshold=0.01),
        library.head("regression", name="age"),
    ]
    model = library.build("timm:test_resnet", heads, weights=None)
    return library.save(model, tmp_path_factory.mktemp("bundles") / "model")


@pytest.fixture
def odd(pets):
    """A folder with good pictures, a cut one, an empty one, a text and a hidden file."""
    (pets / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (pets / "dog" / "empty.png").write_bytes(b"")
    (pets / "dog" / "notes.txt").write_text("no picture")
    (pets / ".hidden.png").write_bytes(b"")
    Image.new("L", (9, 9)).save(pets / "@two\nlines\x1b[2J.png")
    return pets


def test_one_line_a_picture_and_task(zoo, bundle, pets):
    result = zoo("predict", bundle, pets / "cat" / "1.png")

    lines = result.out.splitlines()
    assert result.code == 0
    assert [line.split("  ")[1].partition(":")[0] for line in lines] == ["species", "marks", "age"]
    assert all(line.startswith(f"{pets / 'cat' / '1.png'}  ") for line in lines)


@pytest.mark.slow
def test_a_folder_is_walked_and_what_cannot_be_read_is_told(zoo, bundle, odd):
    result = zoo("predict", bundle, odd, "--batch-size", "4")

    assert result.code == 1
    assert len(result.out.splitlines()) == 21 * 3
    assert sorted(line.rpartition("/")[2].partition(":")[0] for line in result.err.splitlines()) == [
        "cut.jpg",
        "empty.png",
    ]
    assert "empty file" in result.err


def test_nothing_from_outside_moves_the_terminal(zoo, bundle, odd):
    result = zoo("predict", bundle, odd)

    assert "\x1b" not in result.out + result.err
    assert "@two\\nlines\\x1b[2J.png  species: " in result.out
    assert "(0." in result.out


def test_json_is_a_list_in_the_order_of_the_pictures(zoo, bundle, odd):
    given = [odd / "dog" / "3.png", odd / "dog" / "empty.png", odd / "cat" / "2.png"]

    result = zoo("predict", bundle, *given, "--json", "--device", "cpu")

    assert result.code == 1
    assert [one["picture"] for one in result.json] == [str(given[0]), str(given[2])]
    assert set(result.json[0]["predictions"]) == {"species", "marks", "age"}
    assert set(result.json[0]["predictions"]["species"]["probabilities"]) == set(CLASSES)


@pytest.mark.slow
def test_the_batch_size_changes_nothing(zoo, bundle, pets):
    one, all_ = (zoo("predict", bundle, pets, "--json", "--batch-size", size).json for size in (1, 20))

    for a, b in zip(one, all_, strict=True):
        assert a["picture"] == b["picture"]
        assert a["predictions"]["age"]["value"] == pytest.approx(b["predictions"]["age"]["value"], abs=1e-4)


def test_a_picture_that_is_named_twice_is_predicted_once(zoo, bundle, pets):
    assert len(zoo("predict", bundle, pets / "cat", pets / "cat" / "1.png", "--json").json) == 10


def test_the_table_cannot_run_anything(zoo, bundle, odd, tmp_path, monkeypatch):
    monkeypatch.chdir(odd)
    target = tmp_path / "table.csv"

    result = zoo("predict", bundle, "@two\nlines\x1b[2J.png", "cat/cut.jpg", "cat/1.png", "--csv", target)

    with target.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    assert result.code == 1
    assert result.out == ""
    assert head[0] == "picture"
    assert head[-1] == "error"
    assert "species.label" in head
    assert rows[0][0] == "'@two\nlines\\x1b[2J.png"
    assert rows[1][-1]
    assert rows[1][1:-1] == [""] * (len(head) - 2)
    assert rows[2][head.index("species.label")] in ("'=1+1", CLASSES[1].replace("\x1b", r"\x1b"))
    float(rows[2][head.index("age.value")])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".table")] == []


def test_a_table_that_fails_leaves_the_old_one(zoo, bundle, pets, tmp_path, monkeypatch):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def full(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.cli.spreadsheet.os.replace", full)
    result = zoo("predict", bundle, pets, "--csv", target)

    assert result.code == 2
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "zoo-cache") == ["pets", "table.csv"]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-3.5e-2", "-3.5e-2"),
        (-3.5, "-3.5"),
        ("+7", "+7"),
        ("cat", "cat"),
        ("a=b", "a=b"),
        (None, ""),
    ],
)
def test_only_what_a_spreadsheet_would_run_is_guarded(cell, written):
    assert guard(cell) == written


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        ({"label": "cat", "probability": 0.926, "probabilities": {}}, "cat (0.93)"),
        ({"labels": ["a", "b"], "probabilities": {"a": 0.9, "b": 0.75}}, "a (0.90), b (0.75)"),
        ({"labels": [], "probabilities": {"a": 0.1}}, "no label"),
        ({"value": 3.14159265}, "3.14159"),
        ({"box": [1, 2], "score": 0.5}, "box [1, 2], score 0.5"),
    ],
)
def test_predictions_are_told_in_a_few_words(prediction, words):
    assert _words(prediction) == words


def test_verify_says_ok_and_gives_the_report(zoo, bundle):
    plain, told = zoo("verify", bundle), zoo("verify", bundle, "--run", "--json")

    assert plain.code == told.code == 0
    assert f"{bundle}: ok, id " in plain.out
    assert told.json["ok"] is True
    assert told.json["probe"] is not None


def test_verify_ends_with_1_if_a_bundle_is_damaged(zoo, bundle, tmp_path):
    damaged = library.load(bundle).save(tmp_path / "damaged")
    path = next((damaged / "heads").rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])

    plain, told = zoo("verify", damaged), zoo("verify", damaged, "--json")

    assert plain.code == told.code == 1
    assert plain.out.startswith("problem: ")
    assert "not well" in plain.out
    assert told.json["problems"]

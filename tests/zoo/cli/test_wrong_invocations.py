"""Every wrong invocation ends with its exit code and one line that says what is wrong."""

import pytest

FIT = ("fit", "{pets}", "--backbone", "timm:test_resnet", "--weights", "none", "--out", "{new}")

# what is typed, the exit code, a word that must be in the message
WRONG = [
    (["lst"], 2, "list"),
    (["--fast"], 2, "--fast"),
    (["list", "--fast"], 2, "--fast"),
    (["list", "a", "b"], 2, "unexpected"),
    (["list", "--limit", "0"], 2, "--limit"),
    (["list", "--limit", "many"], 2, "--limit"),
    (["list", "--limit"], 2, "--limit"),
    (["list", "--max-params", "5X"], 2, "5M"),
    (["list", "--max-params", "-3"], 2, "--max-params"),
    (["list", "--max-params", "1e999"], 2, "--max-params"),
    (["list", "--provider", "tim"], 2, "timm"),
    (["list", "--needs", "map"], 2, "maps"),
    (["list", "--modality", "smell"], 2, "image-text"),
    (["list", "timm:*", "--provider", "hf"], 2, "--provider"),
    (["list", "--heads", "--methods"], 2, "one"),
    (["list", "--heads", "--pretrained"], 2, "--pretrained"),
    (["info"], 2, "NAME"),
    (["info", "timm:resnet5O"], 2, "resnet50"),
    (["info", "timm:"], 2, "name"),
    (["info", "nobody:resnet50"], 2, "nobody"),
    (["info", "timm:resnet50.no_tag"], 2, "no_tag"),
    (["resolve", "no_backbone_is_called_so"], 2, "no_backbone_is_called_so"),
    (["resolve", ""], 2, "error: "),
    (["fit"], 2, "DATA"),
    (["fit", "{pets}"], 2, "--backbone"),
    (["fit", "{pets}", "--backbone", "timm:test_resnet"], 2, "--out"),
    ([*FIT, "--epochs", "0"], 2, "--epochs"),
    ([*FIT, "--epochs", "1.5"], 2, "--epochs"),
    ([*FIT, "--batch-size", "0"], 2, "--batch-size"),
    ([*FIT, "--lr", "fast"], 2, "--lr"),
    ([*FIT, "--lr", "-1"], 2, "lr"),
    ([*FIT, "--validation", "1"], 2, "validation"),
    ([*FIT, "--device", "tpu"], 2, "tpu"),
    ([*FIT, "--precision", "int3"], 2, "precision"),
    ([*FIT, "--method", "fine_tunning"], 2, "fine_tuning"),
    ([*FIT, "--select", "label/acuracy"], 2, "label/accuracy"),
    ([*FIT, "--set", "nonsense"], 2, "KEY=VALUE"),
    ([*FIT, "--set", "no_such_setting=1"], 2, "no_such_setting"),
    ([*FIT, "--set", "epochs=3"], 2, "epochs"),
    ([*FIT, "--set", "data=3"], 2, "data"),
    ([*FIT, "--set", "a=1", "--set", "a=2"], 2, "twice"),
    ([*FIT, "--head", "classifer"], 2, "classifier"),
    ([*FIT, "--head", "{{bad"], 2, "JSON"),
    ([*FIT, "--head", '{{"name": "label"}}'], 2, "type"),
    ([*FIT, "--head", "a/b=classifier"], 2, "a/b"),
    ([*FIT, "--head", "label=classifier", "--target", "label"], 2, "--target"),
    ([*FIT, "--target", "lable"], 2, "label"),
    ([*FIT, "--image", "path"], 2, "image"),
    ([*FIT[:5], "here.safetensors", *FIT[6:]], 2, "--weights"),
    ([*FIT[:3], "timm:test_resnt", *FIT[4:]], 2, "test_resnet"),
    ([*FIT[:-1], "{pets}"], 2, "already"),
    ([*FIT[:-1], "{pets}", "--overwrite"], 2, "not the bundle's"),
    ([*FIT[:-1], "{pets}/cat/0.png/model"], 2, "cannot be made"),
    (["fit", "{new}", *FIT[2:]], 2, "no file or folder"),
    (["evaluate"], 2, "BUNDLE"),
    (["evaluate", "{new}", "{pets}"], 2, "error: "),
    (["predict"], 2, "BUNDLE"),
    (["predict", "{new}"], 2, "PICTURE"),
    (["predict", "{new}", "{new}"], 2, "no file or folder"),
    (["predict", "{new}", "{empty}"], 2, "no pictures"),
    (["predict", "{new}", "{pets}", "--csv", "{pets}"], 2, "--csv"),
    (["predict", "{new}", "{pets}", "--csv", "{new}/table.csv"], 2, "--csv"),
    (["predict", "{new}", "{pets}", "--device", "tpu"], 2, "tpu"),
    (["predict", "{new}", "{pets}"], 2, "error: "),
    (["verify"], 2, "BUNDLE"),
    (["plugins", "more"], 2, "more"),
    (["doctor", "--fix"], 2, "--fix"),
    (["demo", "--epochs", "0"], 2, "--epochs"),
]


@pytest.mark.parametrize(("typed", "code", "word"), WRONG, ids=[" ".join(row[0])[:60] for row in WRONG])
def test_it_ends_with_one_line_that_says_what_is_wrong(zoo, pets, tmp_path, typed, code, word):
    (tmp_path / "empty").mkdir()
    places = {"pets": pets, "new": tmp_path / "new", "empty": tmp_path / "empty"}

    result = zoo("--quiet", *(arg.format(**places) for arg in typed))

    lines = result.err.splitlines()
    assert result.code == code
    assert result.out == ""
    assert len([line for line in lines if line.startswith("error: ")]) == 1, result.err
    assert len(lines) == 1
    assert word in lines[0]
    assert "--debug" not in lines[0]
    assert not (tmp_path / "new").exists()

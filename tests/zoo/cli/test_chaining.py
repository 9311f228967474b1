"""``zoo chain``."""

import json

import pytest
import yaml

FIT = {"method": "feature_extraction", "epochs": 1, "device": "cpu"}


@pytest.fixture
def recipe(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    steps = [{"name": "probe", "fit": FIT}, {"name": "native", "export": {"layout": "timm"}}]
    path = tmp_path / "chain.yaml"
    model = {"backbone": "timm:test_resnet", "weights": "none"}
    path.write_text(yaml.safe_dump({"data": str(pets), "model": model, "steps": steps}))
    return path


@pytest.mark.slow
def test_a_chain_is_told_as_a_table_and_as_json_and_is_not_run_twice(zoo, recipe, tmp_path):
    result = zoo("chain", recipe, "--out", tmp_path / "out")
    told = zoo("chain", recipe, "--out", tmp_path / "out", "--json").json

    assert result.code == 0
    assert result.out.splitlines()[0].split()[:2] == ["step", "act"]
    assert "label/balanced_accuracy" in result.out.splitlines()[0]
    assert result.out.splitlines()[-1] == f"Next: zoo predict {tmp_path / 'out' / '01-probe'} picture.jpg"
    assert told["steps"] == [one["row"] for one in json.loads((tmp_path / "out" / "chain.json").read_text())["steps"]]
    assert zoo("verify", tmp_path / "out" / "01-probe", "--run").code == 0


def test_an_interrupted_chain_says_how_to_go_on(zoo, recipe, tmp_path, monkeypatch):
    import zoo as face

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(face, "fit", stop)
    result = zoo("chain", recipe, "--out", tmp_path / "out")

    assert result.code == 130
    assert f"Go on with: zoo chain {recipe} --out {tmp_path / 'out'}" in result.err


@pytest.mark.parametrize(
    ("text", "words"),
    [("- a", "must hold data, model and steps"), ("data: [", "cannot be read as YAML"), ("dat: a", "data")],
)
def test_a_file_that_is_no_chain_is_wrong_usage(zoo, tmp_path, text, words):
    (tmp_path / "wrong.yaml").write_text(text)
    result = zoo("chain", tmp_path / "wrong.yaml", "--out", tmp_path / "out")

    assert result.code == 2
    assert words in result.err


def test_the_schema_of_chains_takes_one_and_refuses_another(zoo, recipe):
    import jsonschema

    schema = zoo("schema", "chain").json
    good = yaml.safe_load(recipe.read_text())
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, "stages": []}, schema)

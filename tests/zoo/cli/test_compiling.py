"""``zoo fit --compile``, on the command line and in a run file."""

import json

import pytest

from zoo.training import compiling

ARGUMENTS = ("--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "1", "--device", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["option", "file"])
def test_the_backbone_is_compiled_where_it_is_asked_for(how, zoo, pets, tmp_path, monkeypatch):
    graphs = []
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: graphs.append(graph) or graph.forward)
    more = ["--compile"]
    if how == "file":
        (tmp_path / "run.json").write_text(json.dumps({"compile": True}))
        more = ["--file", tmp_path / "run.json"]

    told = zoo("fit", pets, "--out", tmp_path / "pets-model", *ARGUMENTS, *more, "--json")

    assert told.code == 0, told.err
    assert told.json["settings"]["compile"] is True
    assert len(graphs) > 1  # beside the one that tries whether anything can be compiled
    assert zoo("verify", tmp_path / "pets-model").code == 0


def test_what_is_never_run_in_a_step_is_not_compiled(zoo, pets, tmp_path):
    told = zoo("fit", pets, "--out", tmp_path / "m", *ARGUMENTS, "--method", "feature_extraction", "--compile")

    assert told.code == 2
    assert "here they run once a picture" in told.err
    assert not (tmp_path / "m").exists()

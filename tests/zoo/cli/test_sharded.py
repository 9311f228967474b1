"""``zoo fit --sharded``, on the command line and in a run file."""

import json

import pytest

ARGUMENTS = ("--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "1", "--device", "cpu")


@pytest.mark.parametrize("how", ["option", "file"])
def test_one_process_alone_is_told_to_start_more(how, zoo, pets, tmp_path):
    more = ["--sharded"]
    if how == "file":
        (tmp_path / "run.json").write_text(json.dumps({"sharded": True}))
        more = ["--file", tmp_path / "run.json"]

    told = zoo("fit", pets, "--out", tmp_path / "m", *ARGUMENTS, *more)

    assert told.code == 2
    assert "divides a model over several processes, and this is the only one" in told.err
    assert not (tmp_path / "m").exists()

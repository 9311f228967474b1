"""``zoo fit --freeze`` and ``--freeze-norms``, typed and in a run file."""

import pytest
import yaml


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


RUN = {"backbone": "timm:test_resnet", "weights": "none", "epochs": 1, "validation": 0}
TYPED = [part for key, value in RUN.items() for part in (f"--{key}", value)]
BOTH = ["stem", "s1", "s2"]


@pytest.mark.slow
def test_what_is_frozen_is_typed_or_stands_in_a_file_and_the_bundle_shows_it(zoo, pets, tmp_path):
    typed = zoo("fit", pets, "--out", tmp_path / "typed", *TYPED, "--freeze", "s2", "--freeze-norms", "--json").json
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**RUN, "data": str(pets), "freeze": "s2", "freeze_norms": True}))
    filed = zoo("fit", "--file", file, "--out", tmp_path / "filed", "--json").json

    for told, name in ((typed, "typed"), (filed, "filed")):
        assert (told["settings"]["freeze"], told["settings"]["freeze_norms"]) == (["s2"], True)
        shown = zoo("inspect", tmp_path / name, "--json").json
        assert sorted(shown["streams"][0]["frozen"]) == sorted(BOTH)
        assert shown["provenance"]["settings"]["freeze"] == ["s2"]


@pytest.mark.slow
def test_several_things_are_frozen_by_a_list(zoo, pets, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**RUN, "data": str(pets), "freeze": ["s1", "main.s2"]}))
    told = zoo("fit", "--file", file, "--out", tmp_path / "filed", "--json").json

    assert told["settings"]["freeze"] == ["s1", "main.s2"]
    assert sorted(zoo("inspect", tmp_path / "filed", "--json").json["streams"][0]["frozen"]) == sorted(BOTH)


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (["s9"], "has no stage 's9'; its stages are stem, s1"),
        (["heads.kind"], "The model has no head 'kind'; its heads are label"),
        (["post", "heads"], "Nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_one_line_and_nothing_is_written(zoo, pets, tmp_path, freeze, words):
    options = [part for name in freeze for part in ("--freeze", name)]
    result = zoo("fit", pets, "--out", tmp_path / "model", *TYPED, *options)

    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "model").exists()

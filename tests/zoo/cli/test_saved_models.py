"""A saved model in place of a backbone: the commands that look at a run before it is run."""

import shlex

import pytest
import torch

import zoo as library


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    heads = [library.head("classifier", name="label", classes=["cat", "dog"], norm=True)]
    return library.build("timm:test_resnet", heads, weights=None, seed=7).save(tmp_path / "saved", probe=False)


def test_the_plan_is_that_of_its_stages_and_heads(zoo, saved, pets):
    told = zoo("plan", "--model", saved, "--method", "partial", "--json").json
    again = zoo("plan", pets, "--model", saved, "--method", "partial", "--json").json
    heads = library.load(saved).heads.parameters()

    assert told == again
    assert told["rows"][-1]["name"] == "heads"
    assert told["rows"][-1]["parameters"] == sum(one.numel() for one in heads)


@pytest.mark.slow
def test_a_rate_is_looked_for_with_its_weights_and_nothing_is_kept(zoo, saved, pets):
    before = (saved / "zoo.json").read_bytes()
    told = zoo("find-lr", pets, "--model", saved, "--steps", "12", "--batch-size", "8", "--seed", "3", "--json").json
    model = library.load(saved)
    found = library.find_lr(model, library.read(pets), method="fine_tuning", steps=12, batch_size=8, seed=3)
    other = zoo(
        *("find-lr", pets, "--backbone", "timm:test_resnet", "--weights", "none", "--seed", "3"),
        *("--steps", "12", "--batch-size", "8", "--json"),
    ).json

    assert told["losses"] == pytest.approx(list(found.losses))
    assert told["losses"] != pytest.approx(other["losses"])
    assert (saved / "zoo.json").read_bytes() == before


@pytest.mark.slow
def test_the_command_that_advice_ends_with_trains_it_on(zoo, saved, pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = zoo("advise", pets, "--model", saved, "--no-probe", "--json").json
    words = shlex.split(told["command"])

    assert words[words.index("--model") + 1] == str(saved)
    assert zoo(*words[1:], "--epochs", "1").code == 0
    assert library.load(tmp_path / "my-model").task("label").config.norm
    before, after = (library.load(at).backbones["main"].state_dict() for at in (saved, tmp_path / "my-model"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())


@pytest.mark.parametrize("command", ["plan", "find-lr", "advise"])
def test_wrong_invocations_are_one_sentence(zoo, saved, pets, tmp_path, command):
    told = zoo(command, pets, "--model", saved, "--backbone", "timm:test_resnet").err
    assert "leave --backbone out" in told
    assert ("--weights" in told) == (command != "plan")  # which has no such option
    assert "leave --head out" in zoo(command, pets, "--model", saved, "--head", "classifier").err
    assert "or --model BUNDLE" in zoo(command, pets).err
    missing = zoo(command, pets, "--model", tmp_path / "nowhere")
    assert (missing.code, "nowhere" in missing.err, len(missing.err.splitlines())) == (2, True, 1)
    rows = [
        f"{path},{'ab'[n % 2]},{n}" for n, path in enumerate(one for one in sorted(pets.rglob("*")) if one.is_file())
    ]
    (tmp_path / "other.csv").write_text("\n".join(["image,kind,age", *rows]))
    assert "'label'" in zoo(command, tmp_path / "other.csv", "--model", saved).err

"""``zoo fit`` with a method that needs no labels: loose pictures in, a bundle without heads out, and on from there."""

import json

import pytest
from PIL import Image

import zoo as library

BLIND = ("--backbone", "timm:test_resnet", "--epochs", "1", "--batch-size", "4", "--device", "cpu")
LEARN = (
    *("--method", "self_supervised", "--weights", "none", "--set", "hidden=16", "--set", "projection=8"),
    *("--set", 'views={"scale": [0.3, 1.0], "flip": 0.5, "size": [32, 32]}'),
)


@pytest.fixture
def loose(tmp_path):
    """A folder of pictures and no class folders."""
    root = tmp_path / "loose"
    root.mkdir()
    for number in range(8):
        Image.effect_noise((40, 32), 20 + 5 * number).convert("RGB").save(root / f"{number}.png")
    return root


def state(model):
    return model.backbones["main"].state_dict()


@pytest.mark.slow
def test_loose_pictures_make_a_bundle_without_heads_whose_backbone_goes_on_under_some(zoo, loose, pets, tmp_path):
    learnt, out = tmp_path / "learnt", tmp_path / "pets-model"

    first = zoo("fit", loose, "--out", learnt, *BLIND, *LEARN)
    assert first.code == 0, first.err
    assert first.out.splitlines()[-1] == (
        f"{learnt} is saved; it has no heads. Next: zoo fit DATA … --weights {learnt} --out BUNDLE"
    )
    assert "spread" in first.err

    then = zoo("fit", pets, "--out", out, *BLIND, "--weights", learnt, "--method", "feature_extraction", "--json")
    assert then.code == 0, then.err
    one, other = library.load(learnt), library.load(out)
    assert not one.heads
    assert list(other.heads) == ["label"]
    assert all(value.equal(state(other)[name]) for name, value in state(one).items())
    assert not all(
        value.equal(state(one)[name])
        for name, value in state(library.build("timm:test_resnet", weights=None, seed=0)).items()
    )


@pytest.mark.slow
def test_labels_are_not_looked_at_unless_a_head_is_asked_for(zoo, pets, tmp_path):
    assert zoo("fit", pets, "--out", tmp_path / "bare", *BLIND, *LEARN).code == 0
    assert zoo("fit", pets, "--out", tmp_path / "one", *BLIND, *LEARN, "--target", "label").code == 0

    assert not library.load(tmp_path / "bare").heads
    assert list(library.load(tmp_path / "one").heads) == ["label"]


def test_loose_pictures_are_still_refused_by_methods_that_need_labels(zoo, loose, tmp_path):
    result = zoo("fit", loose, "--out", tmp_path / "out", *BLIND, "--weights", "none")

    assert result.code == 2
    assert "has no labels; give a folder of class folders" in result.err


def test_the_plan_of_a_method_without_labels_is_shown_for_loose_pictures(zoo, loose):
    planned = zoo("plan", loose, "--backbone", "timm:test_resnet", "--method", "self_supervised", "--json")

    assert planned.code == 0, planned.err
    assert "main.s4" in json.dumps(planned.json)


def test_weights_that_are_nothing_and_ensembles_are_refused(zoo, pets, tmp_path):
    nothing = zoo("fit", pets, "--out", tmp_path / "out", *BLIND, "--weights", tmp_path / "nowhere")
    assert nothing.code == 2
    assert "a safetensors file or a bundle, got" in nothing.err

    members = [
        library.build(
            "timm:test_resnet", library.head("classifier", name="label", classes=["cat", "dog"]), weights=None
        )
        for _ in range(2)
    ]
    library.ensemble({"a": members[0], "b": members[1]}).save(tmp_path / "both")
    both = zoo("fit", pets, "--out", tmp_path / "out", *BLIND, "--weights", tmp_path / "both")
    assert both.code == 2
    assert "both is an ensemble; give one of its members" in both.err

"""The model card says what the model is, and no text in it can break out."""

import pytest
from huggingface_hub import ModelCard

import zoo
from zoo.assembly import assemble, plan_model
from zoo.bundle.card import escape, make_card


def card_of(path):
    return ModelCard.load(path / "README.md")


def test_the_hub_reads_what_the_card_says(tmp_path):
    heads = [zoo.head("classifier", name="pet", classes=["cat", "dog"]), zoo.head("regression", name="age")]
    spec = plan_model("timm:test_resnet", heads)  # as it is for pretrained weights
    model = assemble(spec, weights=None)
    model.provenance = {"metrics": {"pet": {"accuracy": 0.875, "macro_f1": 0.5}, "note": "text", "done": True}}

    card = card_of(model.save(tmp_path / "bundle"))

    assert card.data.library_name == "zoo"
    assert card.data.base_model == ["timm/test_resnet.r160_in1k"]
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy", "macro_f1"]
    assert card.data.tags == ["test_resnet", "timm", "zoo"]
    for row in (
        "| pet | classifier | cat, dog |",
        "| age | regression |  |",
        "| pet.accuracy | 0.875 |",
        "| main | 160x160 | 168 | bilinear | 0.5, 0.5, 0.5 | 0.5, 0.5, 0.5 |",
        'model = zoo.load("path/to/this/folder")',
    ):
        assert row in card.text


def test_a_model_with_random_weights_claims_no_parent_and_no_licence(tmp_path):
    card = card_of(zoo.build("timm:test_resnet", "regression", weights=None).save(tmp_path / "bundle"))

    assert card.data.base_model is None
    assert card.data.license is None


def test_a_model_without_classes_or_hub_says_neither(make, tmp_path):
    card = card_of(make.tiny(zoo.head("regression", name="age")).save(tmp_path / "bundle"))

    assert card.data.pipeline_tag is None
    assert card.data.base_model is None
    assert card.data.license is None
    assert card.data.metrics is None


def test_the_heads_inside_a_combinator_are_listed(make, tmp_path):
    inner = [{"type": "classifier", "name": "c", "classes": ["a", "b"]}, {"type": "regression", "name": "r"}]
    card = card_of(make.tiny(zoo.head("multi_task", name="all", heads=inner)).save(tmp_path / "bundle"))

    assert "| all | multi\\_task |  |" in card.text
    assert "| c | classifier | a, b |" in card.text
    assert "| r | regression |  |" in card.text
    assert card.data.pipeline_tag == "image-classification"


@pytest.mark.parametrize(
    "payload",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "a|b",
        "![x](http://y)",
        "\x1b[31mred",
        "a\n\n---\nlicense: mit",
        "`code`",
        "\u202egnp",
        "&lt;",
        "\\",
    ],
)
def test_texts_of_users_stay_texts(make, tmp_path, payload):
    model = make.tiny(zoo.head("classifier", name="c", classes=[payload, "b"]))

    card = card_of(model.save(tmp_path / "bundle"))
    line = next(line for line in card.text.splitlines() if line.startswith("| c |"))

    assert card.data.license is None
    assert line == f"| c | classifier | {escape(payload)}, b |"
    bare = line
    for special in "\\`*_{}[]<>()#|~&!":
        bare = bare.replace("\\" + special, "")
    assert bare.count("|") == 4
    assert not set(bare) & set("`<>[]&!")
    assert line.isprintable()
    assert zoo.load(tmp_path / "bundle").spec == model.spec


def test_many_classes_are_cut_short(make):
    model = make.tiny(zoo.head("classifier", name="c", classes=[f"k{i}" for i in range(60)]))

    text = make_card(model.spec, {})

    assert "k49 and 10 more |" in text
    assert "k50" not in text

"""The model card says what the model is, and no text in it can break out."""

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.inference._providers import PROVIDERS

import zoo
from zoo.assembly import assemble, plan_model
from zoo.bundle.card import ensemble_card, escape, make_card
from zoo.bundle.hub_data import _CLASSIFYING, _FEATURES, _TASKS, LICENSES

PAYLOADS = [
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
    "---",
    "!!python/object/apply:os.system ['true']",
]


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


@pytest.mark.parametrize("payload", PAYLOADS)
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


def test_the_metadata_is_what_the_hubs_own_class_writes(tmp_path):
    spec = plan_model("timm:test_resnet", zoo.head("classifier", name="pet", classes=["cat", "dog"]))
    measured = {"validation": {"pet": {"accuracy": 0.5}}, "test": {"pet": {"accuracy": 0.75, "macro_f1": 0.5}}}
    (tmp_path / "README.md").write_text(
        make_card(spec, {"metrics": measured, "data": {"name": "My Pets!", "rows": {"train": 3}}}), encoding="utf-8"
    )

    card = ModelCard.load(tmp_path / "README.md")
    raw = yaml.safe_load(card.content.split("---\n")[1])

    assert set(raw) == {"library_name", "base_model", "license", "tags", "pipeline_tag", "metrics", "model-index"}
    assert ModelCardData(**raw).to_dict() == card.data.to_dict() == raw
    told = {(one.dataset_split, one.metric_type): one for one in card.data.eval_results}
    assert {key: one.metric_value for key, one in told.items()} == {
        ("validation", "accuracy"): 0.5,
        ("test", "accuracy"): 0.75,
        ("test", "macro_f1"): 0.5,
    }
    assert told["test", "accuracy"] == EvalResult(
        task_type="image-classification",
        dataset_type="my-pets",
        dataset_name="My Pets!",
        dataset_split="test",
        metric_type="accuracy",
        metric_name="test.pet.accuracy",
        metric_value=0.75,
    )


def test_metrics_without_named_data_are_no_results(make):
    text = make_card(make.tiny().spec, {"metrics": {"accuracy": 0.5}})

    assert ModelCard(text).data.eval_results is None
    assert ModelCard(text).data.metrics == ["accuracy"]


def test_every_task_is_in_the_hubs_list():
    shipped = {task for tasks in PROVIDERS.values() for task in tasks} | {"image-feature-extraction"}
    shipped |= {"video-classification"}  # the hub has it, and no provider of inference does

    assert {*_TASKS.values(), *_CLASSIFYING.values(), *_FEATURES.values()} <= shipped


@pytest.mark.parametrize(
    ("heads", "tag"),
    [
        ([], "image-feature-extraction"),
        ([zoo.head("regression", name="age")], None),
        ([zoo.head("classifier", classes=["a", "b"])], "image-classification"),
        ([zoo.head("segmentation", classes=["a", "b"])], "image-segmentation"),
    ],
)
def test_the_task_is_that_of_the_heads(heads, tag):
    spec = plan_model("timm:test_resnet", heads)

    assert ModelCard(make_card(spec, {})).data.pipeline_tag == tag


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license"}),
        ("my own\n---\nlicense: mit", {"license": "other", "license_name": "my-own-license-mit"}),
        (None, {}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_other_with_a_name(make, license, told):
    spec = make.tiny().spec
    stream = spec.streams["main"]
    spec = replace(spec, streams={"main": replace(stream, backbone=replace(stream.backbone, license=license))})

    data = ModelCard(make_card(spec, {})).data.to_dict()

    assert {key: value for key, value in data.items() if key.startswith("license")} == told
    assert data.get("license", "other") in LICENSES


def test_an_ensembles_card_names_the_base_and_the_licence_of_its_members():
    spec = plan_model("timm:test_resnet", zoo.head("classifier", name="pet", classes=["cat", "dog"]))
    members = tuple(zoo.ensembling.spec.MemberSpec(name=name, model=spec) for name in "ab")

    data = ModelCard(ensemble_card(zoo.EnsembleSpec(members=members, combine="mean"), {})).data

    assert data.base_model == ["timm/test_resnet.r160_in1k"]
    assert data.license == "apache-2.0"
    assert data.pipeline_tag == "image-classification"
    assert "ensemble" in data.tags


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_breaks_out_of_the_metadata_or_the_page(make, payload):
    spec = make.tiny(zoo.head("classifier", name="c", classes=[payload, "b"])).spec
    stream = spec.streams["main"]
    odd = replace(stream.backbone, architecture=payload, library=payload, reference=payload, license=payload)
    spec = replace(spec, streams={"main": replace(stream, backbone=replace(odd, weights=payload))})
    provenance = {"metrics": {payload: {"accuracy": 0.5}}, "data": {"name": payload}}

    text = make_card(spec, provenance)
    card = ModelCard(text)

    assert re.findall(r"^---$", text, re.MULTILINE) == ["---", "---"]
    assert card.data.license == "other"
    assert card.data.library_name == "zoo"
    assert "base_model" not in card.data.to_dict()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert all(re.fullmatch(r"[A-Za-z0-9_.:/-]+", tag) for tag in card.data.tags)
    page = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL).replace("`pip install headzoo`", "")
    for line in page.splitlines():
        bare = re.sub(r"\\[\\`*_{}\[\]<>()#|~&!]", "", line)
        assert not set(bare) & set("`<>[]&!\\"), line
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    widths = [re.sub(r"\\.", "", row).count("|") for row in rows]
    assert set(widths) <= {3, 4, 6, 7}

"""Advice on real data sources and tiny models: what is looked at, what is said, and what is left as it was."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import zoo
from zoo.advising.drift import STEPS
from zoo.advising.linear_probe import FOLDS
from zoo.advising.vectors import frozen_vectors
from zoo.data import Column, FileSample, Table, TextSample
from zoo.errors import ConfigError, DataError
from zoo.training.rows.batches import rows_of


def state(model: zoo.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_the_advice_has_the_evidence_the_method_and_its_settings(model, table):
    advice = zoo.advise(model(table()), table(), device="cpu")

    (evidence,) = advice.evidence
    assert (evidence.task, evidence.kind, evidence.size.classes, evidence.rows) == (
        "kind",
        "classes",
        {"a": 20, "b": 20},
        40,
    )
    assert [one.features for one in evidence.separability] == ["pretrained", "untrained", "pixels"]
    assert advice.placements["kind"].quadrant == advice.quadrant
    assert advice.fit()["method"] == advice.method
    assert advice.drift is not None
    assert advice.drift.steps == STEPS
    assert 0 < advice.drift.cka < 1
    assert json.loads(json.dumps(advice.as_json(), allow_nan=False))["fit"] == advice.fit()
    assert any("random weights" in warning for warning in advice.warnings)


@pytest.mark.slow
def test_the_model_and_the_global_generator_stay_as_they_were(model, table):
    one = model(table()).freeze("s1").train()
    before, frozen = state(one), one.frozen()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    zoo.advise(one, table(), device="cpu")

    assert torch.equal(torch.rand(3), expected)
    assert one.training
    assert one.frozen() == frozen
    assert all(torch.equal(before[name], tensor) for name, tensor in state(one).items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_advice(model, table):
    rows = table(60)

    first, second = (zoo.advise(model(rows), rows, rows=30, probe=False, device="cpu") for _ in range(2))

    assert first.measured == 30
    assert first.evidence == second.evidence
    assert first.fit() == second.fit()


@pytest.mark.slow
def test_rows_that_are_held_out_are_not_looked_at(model, table):
    parts = ["train"] * 30 + ["test"] * 10
    noise = ["ab"[n % 2] for n in range(30)]
    rows = table(40, split=parts, kind=("text", [*noise, *["b"] * 10]))
    other = table(40, split=parts, kind=("text", [*noise, *["a"] * 10]))

    found = [zoo.advise(model(one), one, probe=False, device="cpu") for one in (rows, other)]

    assert found[0].rows == 30
    assert found[0].evidence == found[1].evidence


@pytest.mark.slow
def test_the_task_that_pretraining_helps_least_decides_and_missing_labels_are_left_out(model, table):
    kinds = [None if n % 5 == 0 else "ab"[n % 2] for n in range(60)]
    random = torch.rand(60, generator=torch.Generator().manual_seed(3)).tolist()
    rows = table(60, kind=("text", kinds), age=("number", random))

    advice = zoo.advise(model(rows), rows, probe=False, device="cpu")

    kind, age = advice.evidence
    assert (kind.size.rows, age.size.rows, age.kind) == (48, 60, "numbers")
    assert kind.pretrained.linear > 0.9
    assert age.pretrained.linear < 0.3
    assert advice.decided_by == "age"
    assert advice.quadrant == "small and different"
    assert any("The tasks lie apart" in warning for warning in advice.warnings)


@pytest.mark.slow
def test_several_labels_a_row_are_judged_label_by_label(model, table):
    tags = [("bright",) * (n % 2) + ("odd one out",) * (n == 3) + ("any",) * (n % 3 == 0) for n in range(40)]
    rows = table(40, tags=("list", tags))

    (evidence,) = zoo.advise(model(rows), rows, probe=True, device="cpu").evidence

    assert evidence.kind == "labels"
    assert evidence.left_out == ("odd one out",)
    assert evidence.size.classes == {"odd one out": 1, "any": 14, "bright": 20}


@pytest.mark.slow
def test_texts_have_no_pixels_and_no_augmentation(tmp_path):
    words = tmp_path / "vocab.txt"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "is", "blue", "a", "red", "fire", "burns"]
    words.write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(words)).save_pretrained(tmp_path / "bert")
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=13, **sizes)).save_pretrained(tmp_path / "bert")
    texts = ["the sea is blue", "a red fire burns", "red fire", "sea is blue the sea"]
    samples = tuple(TextSample(f"row {n}", texts[n % 4]) for n in range(24))
    kinds = tuple(["water", "fire", "fire", "water"][n % 4] for n in range(24))
    rows = Table("texts", {"text": samples}, {"kind": Column("kind", "text", kinds)})
    one = zoo.build(f"hf:{tmp_path / 'bert'}", zoo.infer_heads(rows), seed=0)

    advice = zoo.advise(one, rows, device="cpu")

    assert [held.features for held in advice.evidence[0].separability] == ["pretrained", "untrained"]
    assert advice.evidence[0].pretrained.linear > 0.9
    assert advice.drift is not None
    assert "augmentation" not in advice.settings


@pytest.mark.slow
def test_a_module_of_the_users_own_is_compared_with_the_pixels(table):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
    recipe = zoo.Preprocessing(size=(32, 32), resize=(32,))
    wrapped = zoo.wrap(net, inputs=torch.zeros(2, 3, 32, 32), preprocessing=recipe)
    one = zoo.build(wrapped, zoo.infer_heads(table()))

    (evidence,) = zoo.advise(one, table(), probe=False, device="cpu").evidence

    assert [held.features for held in evidence.separability] == ["pretrained", "pixels"]


@pytest.mark.slow
def test_a_reference_is_built_with_the_heads_that_the_labels_call_for(table):
    advice = zoo.advise("timm:test_resnet", table(), weights=None, probe=False, device="cpu")

    assert advice.evidence[0].task == "kind"
    with pytest.raises(ConfigError, match="this model has its own"):
        zoo.advise(zoo.build("timm:test_resnet", weights=None), table(), heads=["classifier"])


@pytest.mark.slow
def test_classes_of_one_row_are_said_and_left_out(model, table):
    rows = table(41, kind=("text", [*["ab"[n % 2] for n in range(40)], "rare"]))

    advice = zoo.advise(model(rows), rows, probe=False, device="cpu")

    assert advice.evidence[0].left_out == ("rare",)
    assert advice.evidence[0].rows == 40
    assert any("too few rows to measure, so left out of the scores: rare." in warning for warning in advice.warnings)
    assert any("class_weights='balanced'" in warning for warning in advice.warnings)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 39 + ["b"], "two classes or more with 2 rows each to be judged, got a 39, b 1"),
        ([None] * 40, "empty cells only"),
    ],
)
def test_labels_that_cannot_be_judged_are_refused_in_a_sentence(model, table, labels, message):
    rows = table(40, kind=("text", labels))
    heads = [zoo.head("classifier", name="kind", classes=["a", "b"])]

    with pytest.raises(DataError, match=message):
        zoo.advise(model(rows, heads=heads), rows, device="cpu")


def test_masks_are_refused_before_anything_runs(model, table, monkeypatch):
    one = model(table(), heads=[zoo.head("segmentation", name="map", classes=["sky", "sea"])])
    from zoo.advising.questions import ask

    with pytest.raises(DataError, match="learns masks, and advice is for labels of whole samples"):
        ask("map", one.tasks()["map"], [])


@pytest.mark.parametrize(("option", "value"), [("rows", 19), ("rows", 2.5), ("seed", -1), ("device", "tpu")])
def test_options_that_cannot_be_used_are_refused(model, table, option, value):
    with pytest.raises(ConfigError, match=option):
        zoo.advise(model(table()), table(), **{option: value})


@pytest.mark.slow
def test_fewer_rows_of_a_class_than_folds_are_still_spread(model, table):
    rows = table(23, kind=("text", ["ab"[n % 2] for n in range(20)] + ["c"] * 3))

    (evidence,) = zoo.advise(model(rows), rows, probe=False, device="cpu").evidence

    assert evidence.size.least == 3 < FOLDS
    assert evidence.left_out == ()


@pytest.mark.slow
def test_the_probe_leaves_a_copied_model_alone_and_can_be_left_out(model, table):
    one = model(table())
    twin = copy.deepcopy(one)

    assert zoo.advise(one, table(), probe=False, device="cpu").drift is None
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), twin.parameters(), strict=True))


@pytest.mark.slow
def test_photographs_of_solar_cells_are_unlike_what_was_pretrained_on():
    """Real weights and real photographs: pretraining does away with far less than half of the errors."""
    package = importlib.util.find_spec("elpv_dataset")
    labels = Path(package.origin).parent / "data" / "labels.csv"
    rows = [line.split() for line in labels.read_text().splitlines()][::9]
    defect = tuple("yes" if float(chance) >= 0.5 else "no" for _, chance, _ in rows)
    pictures = tuple(FileSample(labels.parent / name) for name, _, _ in rows)
    table = Table("solar cells", {"image": pictures}, {"defect": Column("defect", "text", defect)})

    advice = zoo.advise("pypi:efficientnet_lite0", table, probe=False, device="cpu")

    (evidence,) = advice.evidence
    assert advice.measured == 292
    assert 0.2 < evidence.pretrained.linear < 0.8
    assert evidence.gain + evidence.gain_error < 0.5
    assert advice.quadrant == "small and different"
    assert advice.warnings[0].startswith("Few rows, and features that were made for something else")


@pytest.mark.slow
def test_a_head_on_several_streams_is_judged_by_all_of_them_and_rows_may_lack_one(table):
    rows = table()
    flow = [None if n in (3, 8) else sample for n, sample in enumerate(rows.inputs["image"])]
    two = Table("two", {"rgb": rows.inputs["image"], "flow": tuple(flow)}, rows.columns)
    inside = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    head = {"type": "feature_fusion", "name": "both", "missing": "mask", "head": inside}
    one = zoo.build({"rgb": "timm:test_resnet", "flow": "timm:test_resnet"}, head, weights=None, seed=0)

    advice = zoo.advise(one, two, probe=False, device="cpu")
    vectors = frozen_vectors(one, rows_of(one, two), torch.device("cpu"), ("rgb", "flow"))

    assert advice.evidence[0].pretrained.linear > 0.9
    assert vectors.shape == (40, 2 * 96)
    assert bool((vectors[3, 96:] == 0).all())
    assert bool((vectors[4, 96:] != 0).any())

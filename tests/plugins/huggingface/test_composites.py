"""The models inside larger ones, against those very modules of the whole model that transformers saved."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES, MODEL_MAPPING_NAMES

import zoo
from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.data import as_rows
from zoo.errors import ConfigError, UnknownName, WeightsError
from zoo.reference import Reference
from zoo_huggingface.places import find_place
from zoo_huggingface.plans import Plan
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import COMPOSITES, PARTS, RULES, UNSERVED

pytestmark = pytest.mark.slow

PROVIDER = HuggingFaceProvider()
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "llava": (
        {
            "vision_config": {"model_type": "clip_vision_model", **_VISION},
            "text_config": {"model_type": "llama", **_TEXT},
        },
        {"vision": "vision_tower", "text": "language_model"},
    ),
    "paligemma": (
        {
            "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION},
            "text_config": {"model_type": "gemma", "head_dim": 8, **_TEXT},
        },
        {"vision": "vision_tower", "text": "language_model"},
    ),
    "qwen2_5_vl": (
        {
            "vision_config": {
                **{"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16},
                "fullatt_block_indexes": [1],
            },
            "text_config": {"rope_parameters": _MROPE, **_TEXT},
        },
        {"vision": "visual", "text": "language_model"},
    ),
    "sam": (
        {
            "vision_config": {
                **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
                **{"image_size": 64, "patch_size": 8, "output_channels": 8, "global_attn_indexes": [1]},
                "window_size": 4,
            }
        },
        {"vision": ""},  # its class holds the encoder under the same name,
    ),
    "voxtral": (
        {
            "audio_config": {
                **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
                **{"num_mel_bins": 16, "max_source_positions": 50},
            },
            "text_config": _TEXT,
        },
        {"audio": "audio_tower", "text": "language_model"},
    ),
}
NAMES = [pytest.param(name, part, id=f"{name}#{part}") for name, (_, parts) in CASES.items() for part in parts]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save the whole model of a type once, as transformers does."""

    @cache
    def save(name: str) -> tuple[Path, Any]:
        torch.manual_seed(0)
        config = CONFIG_MAPPING[name](**CASES[name][0])
        model = transformers.MODEL_MAPPING[type(config)](config).eval()
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        return folder, model

    return save


def load(folder: Path, part: str) -> Backbone:
    return PROVIDER.build(PROVIDER.spec(Reference("hf", str(folder), part=part)), weights="pretrained").eval()


@pytest.mark.parametrize(("name", "part"), NAMES)
def test_a_part_has_the_tensors_of_that_module_of_the_whole(name, part, saved):
    folder, model = saved(name)

    ours = load(folder, part).native.state_dict()

    theirs = model.get_submodule(CASES[name][1][part]).state_dict()
    assert len(ours) > 10
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@torch.no_grad()
def test_the_features_are_those_of_the_whole_models_tower(saved):
    folder, model = saved("llava")
    image, ids = torch.randn(2, 3, 32, 32), torch.tensor([[3, 9, 4, 7], [1, 5, 8, 2]])

    vision = load(folder, "vision")
    text = load(folder, "text")

    theirs = model.vision_tower(image)
    assert torch.equal(vision(image).pooled, theirs.pooler_output)
    assert vision.spec.architecture == "clip_vision_model"
    last = model.language_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
    assert torch.equal(text({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).pooled, last)


@torch.no_grad()
def test_a_tower_that_was_published_without_its_pooler_is_pooled_otherwise(saved):
    folder, model = saved("paligemma")
    image = torch.randn(2, 3, 32, 32)

    features = load(folder, "vision")(image, Want(tokens=True))

    tokens = model.vision_tower(image).last_hidden_state
    assert torch.equal(features.tokens, tokens)
    assert torch.allclose(features.pooled, tokens.mean(1), atol=1e-6)
    with pytest.raises(ConfigError, match="pooling must be one of mean, got 'pooler'"):
        PROVIDER.spec(Reference("hf", str(folder), part="vision", options={"pooling": "pooler"}))


@torch.no_grad()
def test_a_picture_is_scaled_and_packed_as_the_checkpoints_own_processor_does_it(saved, tmp_path):
    folder, model = saved("qwen2_5_vl")
    processor = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 20})
    own = shutil.copytree(folder, tmp_path / "own")
    processor.save_pretrained(own)
    backbone = load(own, "vision")
    for width, height in ((300, 170), (40, 200), (29, 30)):
        picture = Image.effect_noise((width, height), 80).convert("RGB")

        features = backbone(backbone.preprocess(picture)[None], Want(tokens=True))

        packed = processor(images=picture, return_tensors="pt")
        theirs = model.visual(packed["pixel_values"], grid_thw=packed["image_grid_thw"]).last_hidden_state
        assert torch.allclose(features.pooled[0], theirs.mean(0), atol=1e-6)
        assert features.tokens.shape[1] == theirs.shape[0]


def test_a_size_in_the_reference_gives_pictures_of_any_shape_one_size(saved, tmp_path):
    own = shutil.copytree(saved("qwen2_5_vl")[0], tmp_path / "own")
    transformers.Qwen2VLImageProcessor().save_pretrained(own)
    free, sized = (zoo.build(f"hf:{own}#vision{option}") for option in ("", "?img_size=56"))
    pictures = [Image.new("RGB", size) for size in ((90, 60), (60, 90))]

    with pytest.raises(zoo.ShapeError, match=r"must have one size, got .*; name a size in the reference"):
        free.predict(pictures)
    assert sized.preprocess(as_rows(pictures, sized.modalities)[0])["image"].shape == (2, 3, 56, 56)
    for size, message in (
        (57, "must be a multiple of 28 .* 56×56 or 84×84"),
        (0, "whole number"),
        ("x", "whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            zoo.build(f"hf:{own}#vision?img_size={size}")


@torch.no_grad()
def test_a_bundle_of_a_part_needs_the_whole_no_more(saved, tmp_path):
    folder, _ = saved("qwen2_5_vl")
    model = zoo.build(f"hf:{folder}#vision", zoo.head("classifier", classes=["a", "b"]), seed=0)
    model.save(tmp_path / "bundle")
    renamed = folder.rename(folder.with_name("elsewhere"))
    try:
        again = zoo.load(tmp_path / "bundle")
    finally:
        renamed.rename(folder)

    image = torch.randn(1, 3, 56, 56)
    assert torch.equal(model.eval()(image)["classifier"], again.eval()(image)["classifier"])


def test_a_checkpoint_without_the_part_is_refused(saved, tmp_path):
    folder, _ = saved("llava")
    tensors = load_file(folder / "model.safetensors")
    for kept, message in (("language_model", "have no tensor of this part"), ("embeddings", "tensors missing")):
        broken = tmp_path / kept
        broken.mkdir()
        (broken / "config.json").write_text((folder / "config.json").read_text())
        left = {key: tensor for key, tensor in tensors.items() if kept in key and "norm" not in key}
        left = {f"x{key}" if kept == "language_model" else key: tensor for key, tensor in left.items()}
        save_file(
            {key.replace("layers", "blocks"): tensor for key, tensor in left.items()},
            broken / "model.safetensors",
            metadata={"format": "pt"},
        )
        spec = PROVIDER.spec(Reference("hf", str(broken), part="vision"))
        with pytest.raises(WeightsError, match=message):
            PROVIDER.build(spec, weights="pretrained")


def test_two_parts_that_fit_as_well_are_not_guessed_between():
    with pytest.raises(WeightsError, match=r"two such parts, under 'a\.' and 'b\.'"):
        find_place("hf:x#vision", ["weight"], ["a.weight", "b.weight"])
    assert find_place("hf:x#vision", ["weight"], ["weight"]) == ""


def test_what_is_made_of_several_is_asked_for_by_a_part(tmp_path):
    with pytest.raises(ConfigError, match="llava is made of 2 models; say which: add '#vision' or '#text'"):
        PROVIDER.spec(Reference("hf", "llava"))
    with pytest.raises(ConfigError, match="sam is served by a part of it: add '#vision'"):
        PROVIDER.spec(Reference("hf", "sam"))
    with pytest.raises(UnknownName, match="llava has no part 'audio'; its parts: vision, text"):
        PROVIDER.spec(Reference("hf", "llava", part="audio"))
    with pytest.raises(ConfigError, match="'timm_wrapper' cannot be served: it holds a timm model"):
        PROVIDER.spec(Reference("hf", "fast_vlm", part="vision"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {"model_type": "nix"}}))
    with pytest.raises(UnknownName, match="transformers has no model type 'nix'"):
        PROVIDER.spec(Reference("hf", str(tmp_path), part="vision"))


@pytest.mark.slow
def test_a_config_may_leave_out_what_the_type_has_by_default(saved, tmp_path):
    config = json.loads((saved("llava")[0] / "config.json").read_text())
    for vision, width in ((config["vision_config"] | {"model_type": None}, 16), (None, 1024)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "vision_config": vision}))
        spec = PROVIDER.spec(Reference("hf", str(tmp_path), part="vision"))
        assert (spec.architecture, spec.pooled_dim) == ("clip_vision_model", width)

    (tmp_path / "config.json").write_text(json.dumps({**config, "vision_config": "clip"}))
    with pytest.raises(ConfigError, match="vision_config in its config must be an object, got 'clip'"):
        PROVIDER.spec(Reference("hf", str(tmp_path), part="vision"))


@pytest.mark.slow
def test_a_bundle_cannot_name_a_part_that_is_never_written():
    spec = PROVIDER.spec(Reference("hf", "llava", part="vision"))
    made_up = {**spec.construction, "model_type": "llava", "part": "vision"}

    with pytest.raises(UnknownName, match="has no part 'vision'"):
        Plan.read("hf:llava#vision", made_up)


def test_every_type_of_the_library_has_a_rule_or_parts_or_a_reason():
    listed = {*MODEL_MAPPING_NAMES, *MODEL_FOR_BACKBONE_MAPPING_NAMES}

    assert listed - {*RULES, *PARTS, *COMPOSITES, *UNSERVED} == set()
    assert not set(RULES) & {*COMPOSITES, *UNSERVED}
    assert not set(COMPOSITES) & set(UNSERVED)


@pytest.mark.parametrize("name", sorted(COMPOSITES))
def test_each_part_is_a_field_of_the_types_config(name):
    fields = CONFIG_MAPPING[name].sub_configs

    assert set(COMPOSITES[name].values()) <= set(fields)
    assert not set(COMPOSITES[name]) & set(PARTS.get(name, {}))


def test_weights_that_are_cut_short_or_listed_wrongly_are_one_sentence(saved, tmp_path):
    own = shutil.copytree(saved("llava")[0], tmp_path / "own")
    weights, index = own / "model.safetensors", own / "model.safetensors.index.json"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match=r"cannot be (read|loaded)"):
            load(own, "vision")
    weights.unlink()
    for content, message in (("{}", "must have a weight_map"), ('{"weight_map": 3}', "got 3"), ("[", "is not JSON")):
        index.write_text(content)
        with pytest.raises(zoo.ZooError, match=message):
            load(own, "vision")

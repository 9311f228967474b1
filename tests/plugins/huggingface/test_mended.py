"""Bare types whose own defaults transformers cannot build or run, and what the mending must never touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

from zoo.contracts.features import Want
from zoo.errors import ZooError
from zoo.reference import Reference
from zoo_huggingface.natives import class_of, create
from zoo_huggingface.plans import make_plan
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import COMPOSITES, MENDED_PARTS
from zoo_huggingface.rules.mended import MENDED

PROVIDER = HuggingFaceProvider()
_SMALL: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0},
}
_HEADS = {"head_dim": 16}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GLM_ROPE = {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}
FIELDS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {**_ROPE, "mrope_section": [3, 3, 2]}},
    },
    "dbrx": {
        **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")),
        **{"num_key_value_heads": None, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {
        **{**_EXPERTS, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
        **{"v_head_dim": 16, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    },
    "diffllama": {},
    "dots1": {**_EXPERTS, "first_k_dense_replace": 1},
    "glm4v_moe_text": {**_EXPERTS, **_HEADS, **_GLM_ROPE, "first_k_dense_replace": 1},
    "glm4v_text": _GLM_ROPE,
    "glm_image_text": _GLM_ROPE,
    "hunyuan_v1_dense": _HEADS,
    "hunyuan_v1_moe": {**_HEADS, "num_experts": 4, "moe_topk": 2},
    "hunyuan_vl_text": {**_HEADS, "rope_parameters": {**_ROPE, "mrope_section": [2, 2, 2, 2]}},
    "lfm2_moe": {
        **{"layer_types": ["conv", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2},
        **{"moe_intermediate_size": 16, "num_dense_layers": 1},
    },
    "longcat_flash": {
        **{"num_layers": 2, "num_hidden_layers": None, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16},
        **{"n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2, "kv_lora_rank": 16, "q_lora_rank": 16},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "head_dim": 8},
        **{"num_key_value_heads": 4, "intermediate_size": None},
    },
    "ministral": _HEADS,
    "nemotron": {},
    "openai_privacy_filter": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "step3p5": {
        **{**_HEADS, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        **{"share_expert_dim": 16, "mlp_layer_types": ["dense", "sparse"], "sliding_window": 8},
    },
}
QUICK = {"ministral", "lfm2_moe", "glm4v_text"}
IDS = torch.tensor([[3, 9, 4, 7, 5], [11, 5, 8, 12, 6]])


def some(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(names)]


def shake(module: nn.Module) -> None:
    for tensor in module.parameters():
        tensor.data.copy_(torch.randn(tensor.shape) * 0.1)


def small(name: str) -> dict[str, Any]:
    return {key: value for key, value in {**_SMALL, **FIELDS[name]}.items() if value is not None}


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", some(FIELDS))
@torch.no_grad()
def test_a_small_one_gives_what_the_librarys_own_class_gives(name):
    fields = small(name)
    options = {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in fields.items()}
    backbone = PROVIDER.build(PROVIDER.spec(Reference("hf", name, options=options)), weights=None).eval()
    torch.manual_seed(0)
    shake(backbone.native)
    model: Any = type(backbone.native)(CONFIG_MAPPING[name](**fields)).eval()
    model.load_state_dict(backbone.native.state_dict())

    features = backbone(IDS, Want(tokens=True))

    last = model(input_ids=IDS, use_cache=False).last_hidden_state
    assert torch.equal(features.tokens, last)
    expected = last.mean(1) if backbone.spec.pooling == "mean" else last[:, -1]
    assert torch.equal(features.pooled, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MENDED))
def test_a_bare_type_is_built_from_the_mended_config_that_the_library_cannot_build_or_run_without(name):
    plan = make_plan(Reference("hf", name), name, {})

    with torch.device("meta"):
        native: Any = create(f"hf:{name}", plan)

    assert type(native) is class_of(name, plan, native.config)
    for key, value in MENDED[name].items():
        found = plan.config[key]
        assert found == value or {**found, **value} == found, key


@pytest.mark.thin(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ministral", "nemotron", "glm4v_moe_text", "qwen4_exp_text", "dots1", "diffllama"])
def test_a_bare_type_gives_a_spec_without_numbers(name):
    spec = PROVIDER.spec(Reference("hf", name))

    assert {"pooled", "tokens", "mask"} <= set(spec.capabilities)
    assert len(spec.stages) == 6  # the stem, four quarters, and what comes after them


@pytest.mark.parametrize(("name", "part"), sorted(MENDED_PARTS))
def test_a_part_is_mended_where_the_wholes_default_is_at_fault(name, part):
    plan = make_plan(Reference("hf", name, part=part), name, {})

    assert {key: plan.config[key] for key in MENDED_PARTS[name, part]} == MENDED_PARTS[name, part]
    assert part in COMPOSITES[name]


def test_what_a_checkpoint_says_is_never_mended(tmp_path):
    fields = {**small("ministral"), "model_type": "ministral", "head_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert PROVIDER.spec(Reference("hf", str(tmp_path))).construction["config"]["head_dim"] == 32

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nemotron", **small("nemotron")}))
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in {**small("nemotron"), "model_type": "nemotron"}.items() if "key_value" not in k})
    )
    with pytest.raises(ZooError, match="transformers cannot build NemotronModel"):
        PROVIDER.spec(Reference("hf", str(tmp_path)))


@pytest.mark.slow
@torch.no_grad()
def test_a_text_config_that_lies_flat_in_the_wholes_is_the_one_that_is_used(tmp_path: Path):
    """Early checkpoints have the fields of the language model beside ``vision_config``."""
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    flat = {**_SMALL, "rope_parameters": rope}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 64, "num_heads": 2, "patch_size": 8}
    whole = CONFIG_MAPPING["qwen2_vl"](text_config=flat, vision_config=vision)
    model = transformers.MODEL_MAPPING[type(whole)](whole).eval()
    model.save_pretrained(tmp_path)
    written = {"model_type": "qwen2_vl", "vision_config": {**vision, "model_type": "qwen2_vl"}, **flat}
    (tmp_path / "config.json").write_text(json.dumps(written))

    text = PROVIDER.build(PROVIDER.spec(Reference("hf", str(tmp_path), part="text")), weights="pretrained").eval()
    vision_spec = PROVIDER.spec(Reference("hf", str(tmp_path), part="vision"))

    last = model.language_model(input_ids=IDS, use_cache=False).last_hidden_state
    assert torch.equal(text(IDS).pooled, last[:, -1])
    assert vision_spec.construction["config"]["embed_dim"] == 16

"""Packed-patch towers against transformers itself: its own image processor packs the pictures, its own tower runs them.

Where a packed row stands in the picture is asked of the processor, too: it packs a picture whose patches are numbered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.vision_utils import get_vision_window_index

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.errors import ShapeError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import RULES

PROVIDER = HuggingFaceProvider()


@dataclass(frozen=True)
class Case:
    """One tower: its config, its processor with settings, the processor's names and the tower's, and what comes out.

    ``merged`` is the side of the blocks that the last state is merged by; ``window`` and ``unit`` are those of the
    windows in which the last state and the blocks stand.
    """

    fields: dict[str, Any]
    processor: str = "Qwen2VLImageProcessor"
    settings: dict[str, Any] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = (("pixel_values", "hidden_states"), ("image_grid_thw", "grid_thw"))
    merged: int = 1
    window: str = ""
    prefix: int = 0
    size: tuple[int, int] = (32, 48)


_QWEN = {
    "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8, "out_hidden_size": 24,
}  # fmt: skip
_LEARNED = {**_QWEN, "num_position_embeddings": 16}
_DEEP = {**_LEARNED, "deepstack_visual_indexes": [0, 2]}
_PATCH = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
_GLM = {**_QWEN, "image_size": 64}
_GLM_OF = {"settings": _PATCH, "processor": "Glm4vImageProcessor", "merged": 2}
_VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8}
_VALUES = (("pixel_values", "pixel_values"), ("image_grid_thw", "grid_thw"))
_WINDOWS = {**_QWEN, "window_size": 32, "fullatt_block_indexes": [1, 3]}
_MUSE = {**_VIT, "pos_emb_height": 2, "pos_emb_width": 2, "layer_types": ["window_attention", "full_attention"] * 2}

CASES = {
    "cohere_compass_vision": Case(_DEEP, "CohereCompassImageProcessor", _PATCH),
    "cosmos3_edge_vision": Case(
        {**_VIT, "num_patches": 16}, "Cosmos3EdgeImageProcessor", {**_PATCH, "temporal_patch_size": 1}, _VALUES
    ),
    "ernie4_5_vl_moe_vision": Case(
        {key: value for key, value in _QWEN.items() if key != "out_hidden_size"}, "Ernie4_5_VLMoeImageProcessor",
        {"patch_size": 8, "merge_size": 2},
    ),
    "exaone4_5_vision": Case({**_WINDOWS, "num_key_value_heads": 1}, settings=_PATCH, window="all"),
    "glm4v_moe_vision": Case(_GLM, **_GLM_OF),
    "glm4v_vision": Case(_GLM, **_GLM_OF),
    "glm5_next_vision": Case(_GLM, **_GLM_OF),
    "glm_image_vision": Case(
        {k: v for k, v in _GLM.items() if k != "out_hidden_size"}, "GlmImageImageProcessor",
        {**_PATCH, "merge_size": 1, "temporal_patch_size": 1}, _VALUES,
    ),
    "glm_ocr_vision": Case(_GLM, **_GLM_OF),
    "hunyuan_vl_vision": Case(
        {**_VIT, "num_key_value_heads": 2, "max_image_size": 64, "text_hidden_size": 24}, "HunYuanVLImageProcessor",
        {**_PATCH, "temporal_patch_size": 1}, _VALUES,
    ),
    "kimi_k25_vision": Case(
        {**_VIT, "pos_emb_height": 4, "pos_emb_width": 4}, "Kimi_K25ImageProcessor",
        {"patch_size": 8, "merge_size": 2}, _VALUES,
    ),
    "lfm3_vl_vision": Case({**_VIT, "num_key_value_heads": 1}, settings=_PATCH, names=_VALUES),
    "minimax_m3_vl_vision": Case(_VIT, "MiniMaxM3VLImageProcessor", _PATCH, _VALUES),
    "muse_glimmer_vision": Case(_MUSE, "MuseGlimmerImageProcessor", _PATCH, _VALUES, merged=2, window="blocks"),
    "muse_spark_vision": Case(_MUSE, "MuseGlimmerImageProcessor", _PATCH, _VALUES, merged=2, window="blocks"),
    "qwen2_5_omni_vision_encoder": Case(_WINDOWS, settings=_PATCH, window="all"),
    "qwen2_5_vl_vision": Case(_WINDOWS, settings=_PATCH, window="all"),
    "qwen2_vl_vision": Case(
        {**{k: v for k, v in _QWEN.items() if k not in ("intermediate_size", "out_hidden_size")}, "embed_dim": 32},
        settings=_PATCH,
    ),
    "qwen3_5_moe_vision": Case(_LEARNED, settings=_PATCH),
    "qwen3_5_vision": Case(_LEARNED, settings=_PATCH),
    "qwen3_omni_moe_vision_encoder": Case(_DEEP, settings=_PATCH),
    "qwen3_vl_moe_vision": Case(_DEEP, settings=_PATCH),
    "qwen3_vl_vision": Case(_DEEP, settings=_PATCH),
    "qwen4_exp_vision": Case(_LEARNED, settings=_PATCH),
    "video_llama_3_vision": Case(
        _VIT, "VideoLlama3ImageProcessor", {**_PATCH, "temporal_patch_size": 1},
        (*_VALUES, ("image_merge_sizes", "merge_sizes")), merged=2,
    ),
}  # fmt: skip

STRIPS = ("minicpm_ocr_vision", "minicpmv4_6_vision", "minicpmv4_7_vision")
OTHERS = {"gemma4_vision", "inkling2_vision", *STRIPS, "siglip2_vision_model"}
"""Towers with a test of their own below."""
INSIDE = {"kosmos_2_5_vision_model", "molmo2_vision", "paddleocr_vl_vision", "pix2struct_vision_model"}
"""Towers that ``test_towers`` compares inside the whole model."""


QUICK = {"glm4v_vision", "kimi_k25_vision", "qwen3_vl_vision"}


def marked(names: Iterable[str]) -> list[Any]:
    """Leave some for every run, one of each kind of packing."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def options(fields: dict[str, Any]) -> dict[str, Any]:
    import json

    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in fields.items()}


@cache
def spec_of(name: str, **extra: Any) -> BackboneSpec:
    fields = CASES[name].fields if name in CASES else FIELDS[name]
    return PROVIDER.spec(Reference("hf", name, options={**options(fields), **extra}))


def build(name: str, **extra: Any) -> Backbone:
    torch.manual_seed(0)
    backbone = PROVIDER.build(spec_of(name, **extra), weights=None).eval()
    shake(backbone.native)
    return backbone


def shake(module: nn.Module) -> None:
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape) * 0.1)


def library(name: str, backbone: Backbone) -> Any:
    fields = CASES[name].fields if name in CASES else FIELDS[name]
    model: Any = type(backbone.native)(AutoConfig.for_model(name, **fields)).eval()
    missing, unexpected = model.load_state_dict(backbone.native.state_dict(), strict=False)
    assert not unexpected
    assert all("merger" in key or "head" in key for key in missing)
    return model


def pictures(size: tuple[int, int]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *size)


def process(processor: str, settings: dict[str, Any], batch: Tensor) -> Any:
    """Let the library pack pictures that are ready."""
    made = getattr(transformers, processor)(**settings)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    return made(images=list(batch), return_tensors="pt", input_data_format="channels_first", **plain)


def numbered(size: tuple[int, int], patch: int) -> Tensor:
    """Make two pictures whose pixels hold the number of their patch, row by row."""
    height, width = size[0] // patch, size[1] // patch
    numbers = torch.arange(float(height * width)).reshape(1, 1, height, width).expand(2, 3, height, width)
    return numbers.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", marked(CASES))
@torch.no_grad()
def test_tokens_and_maps_are_those_of_the_librarys_processor_and_tower_in_the_order_of_the_picture(name):
    case, backbone = CASES[name], build(name)
    image, spec = pictures(case.size), backbone.spec
    height, width = case.size[0] // 8, case.size[1] // 8
    given = process(case.processor, case.settings, image)
    place = process(case.processor, case.settings, numbered(case.size, 8))["pixel_values"].flatten(1)[:, 0].long()
    merge = case.settings["merge_size"]
    grid = given["image_grid_thw"]

    features = backbone(image, Want(tokens=True, maps=("s1", "s4")))
    theirs = library(name, backbone)(**{new: given[old] for old, new in case.names}, output_hidden_states=True)

    window = torch.arange(2 * height * width)
    if case.window:
        unit = merge if case.window == "all" else 1
        side = 32 if case.window == "all" else 16
        index, _ = get_vision_window_index(grid, unit, side, 8)
        window = window.reshape(-1, unit * unit)[index].flatten()
    inside = place[window].reshape(2, -1)
    last = theirs.last_hidden_state.reshape(2, -1, spec.token_dim)
    if case.merged == 1:
        order = inside if case.window == "all" else place.reshape(2, -1)
        expected = torch.stack([rows[where.argsort()] for rows, where in zip(last, order, strict=True)])
        assert features.grid == (height, width)
    else:
        expected = last
        assert features.grid == (height // case.merged, width // case.merged)
    assert torch.equal(features.tokens, expected)
    assert torch.equal(features.pooled, expected.mean(1))
    for stage, i in (("s1", 1), ("s4", 4)):
        state = hidden_state(name, backbone, i, given)
        rows = torch.stack([r[where.argsort()] for r, where in zip(state, inside, strict=True)])
        assert torch.equal(features.maps[stage], rows.reshape(2, height, width, -1).permute(0, 3, 1, 2)), stage


def hidden_state(name: str, backbone: Backbone, number: int, given: Any) -> Tensor:
    """Ask the library's own tower what its block gives."""
    model, case, seen = library(name, backbone), CASES[name], []
    lists = (getattr(model, part, None) for part in ("blocks", "layers", "encoder"))
    blocks: Any = next(part for part in lists if part is not None)
    block = (blocks if isinstance(blocks, nn.ModuleList) else blocks.layers)[number - 1]
    block.register_forward_hook(lambda _m, _a, output: seen.append(output[0] if isinstance(output, tuple) else output))
    model(**{new: given[old] for old, new in case.names})
    return seen[0].reshape(2, -1, seen[0].shape[-1])


FIELDS: dict[str, dict[str, Any]] = {
    "gemma4_vision": {**_VIT, "num_key_value_heads": 2, "head_dim": 16, "pooling_kernel_size": 2},
    "inkling2_vision": {**_VIT, "posemb_grid_size": 4, "projection_hidden_dim": 24, "text_hidden_size": 24},
    "kosmos_2_5_vision_model": {**{k: v for k, v in _VIT.items() if k != "patch_size"}, "head_dim": 16},
    "minicpm_ocr_vision": {**_VIT, "image_size": 64, "insert_layer_id": 1},
    "minicpmv4_6_vision": {**_VIT, "image_size": 64, "insert_layer_id": 1},
    "minicpmv4_7_vision": {**_VIT, "image_size": 64, "insert_layer_id": 1},
    "molmo2_vision": {**_VIT, "image_size": [16, 16], "num_key_value_heads": 2, "head_dim": 16},
    "paddleocr_vl_vision": {**_VIT, "image_size": 64},
    "pix2struct_vision_model": {
        "hidden_size": 32,
        "d_ff": 48,
        "d_kv": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    },
    "siglip2_vision_model": {**_VIT, "num_patches": 16},
}


@pytest.mark.slow
@torch.no_grad()
def test_siglip2_is_that_of_the_librarys_processor_and_tower():
    backbone = build("siglip2_vision_model")
    image, model = pictures((32, 48)), library("siglip2_vision_model", backbone)
    given = process("Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 24}, image)
    seen: list[Tensor] = []
    model.encoder.layers[0].register_forward_hook(lambda _m, _a, output: seen.append(output))
    theirs = model(**{name: given[name] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")})

    features = backbone(image, Want(tokens=True, maps=("s1",)))

    assert torch.equal(features.pooled, theirs.pooler_output)
    assert torch.equal(features.tokens, theirs.last_hidden_state)
    assert features.grid == (4, 6)
    assert torch.equal(features.maps["s1"], seen[0].reshape(2, 4, 6, 32).permute(0, 3, 1, 2))


@pytest.mark.slow
@torch.no_grad()
def test_gemma4_is_that_of_a_tower_that_is_given_patches_and_their_columns_and_rows():
    backbone = build("gemma4_vision")
    image, model = pictures((32, 48)), library("gemma4_vision", backbone)
    patches = image.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(2, 24, -1)
    places = torch.tensor([(x, y) for y in range(4) for x in range(6)]).expand(2, 24, 2)

    theirs = model(pixel_values=patches, pixel_position_ids=places).last_hidden_state
    features = backbone(image, Want(tokens=True))

    assert torch.equal(features.tokens, theirs.reshape(2, 6, -1))
    assert features.grid == (2, 3)


@pytest.mark.slow
@torch.no_grad()
def test_inkling2_is_that_of_the_librarys_processor_and_tower():
    backbone = build("inkling2_vision")
    image, model = pictures((32, 48)), library("inkling2_vision", backbone)
    given = process("Inkling2ImageProcessor", {"size": {"height": 16, "width": 16}}, image)

    theirs = model(pixel_values=given["pixel_values"], image_grid_thw=given["image_grid_thw"]).last_hidden_state
    features = backbone(image, Want(tokens=True))

    rows = theirs.reshape(2, 25, -1)
    blocks = rows[:, 1:].reshape(2, 2, 3, 2, 2, -1).transpose(2, 3).reshape(2, 24, -1)
    assert torch.equal(features.prefix, rows[:, :1])
    assert torch.equal(features.tokens, blocks)
    assert features.grid == (4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRIPS)
@torch.no_grad()
def test_minicpm_is_that_of_a_tower_that_is_given_a_strip_of_patches(name):
    backbone = build(name)
    image, model = pictures((32, 64)), library(name, backbone)
    strips = [torch.nn.functional.unfold(one[None], 8, stride=8).reshape(3, 8, 8, -1) for one in image]
    strip = torch.cat([one.permute(0, 1, 3, 2).reshape(3, 8, -1) for one in strips], -1)[None]

    theirs = model(pixel_values=strip, target_sizes=torch.tensor([[4, 8], [4, 8]])).last_hidden_state
    features = backbone(image, Want(tokens=True))

    assert torch.equal(features.tokens, theirs.reshape(2, 8, -1))
    assert features.grid == (2, 4)


def test_every_packing_rule_is_tested_here():
    assert {*CASES, *OTHERS, *INSIDE} == {name for name, rule in RULES.items() if rule.packing is not None}


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", marked(sorted({*CASES, *OTHERS, *INSIDE})))
def test_each_parameter_of_a_tower_gets_a_gradient_and_each_stage_has_some(name):
    backbone = build(name)
    spec, side = backbone.spec, backbone.spec.inputs[0].divisor * 2
    want = Want(tokens=True, maps=tuple(stage.name for stage in spec.maps))

    features = backbone(torch.randn(1, 3, side, side), want)
    given = (features.pooled, features.tokens, features.prefix, *features.maps.values())
    sum(tensor.sum() for tensor in given if tensor is not None).backward()

    named = dict(backbone.native.named_parameters())
    assert [key for key, p in named.items() if p.requires_grad and p.grad is None] == []
    assert {backbone.stage_of(key) for key in named} >= {"stem", "s1", "s2"}


def test_a_picture_that_is_no_whole_number_of_blocks_is_refused_with_the_nearest_size():
    with pytest.raises(ShapeError, match="divisible by 16, got 32×40; pad to 32×48"):
        build("qwen3_vl_vision")(torch.randn(1, 3, 32, 40))


@pytest.mark.slow
@torch.no_grad()
def test_the_tokens_for_the_language_model_may_be_pooled_instead():
    backbone = build("qwen3_vl_vision", pooling="merged")
    image, model = pictures((32, 48)), library("qwen3_vl_vision", backbone)
    given = process("Qwen2VLImageProcessor", _PATCH, image)

    theirs = model(hidden_states=given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output

    assert torch.equal(backbone(image).pooled, theirs.reshape(2, 6, -1).mean(1))

"""Towers that ``AutoModel`` does not name, against that very module of the whole model that transformers saved.

Each is given what the whole model gives it, packed or tiled by the library's own image processor where it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.reference import Reference
from zoo_huggingface.provider import HuggingFaceProvider

PROVIDER = HuggingFaceProvider()
_WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
_VIT = {**_WIDTHS, "image_size": 32, "patch_size": 8}
_TEXT = {**_WIDTHS, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0}
_TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
_SAM = {
    **{key: value for key, value in _WIDTHS.items() if key != "intermediate_size"},
    **{"image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1, 3], "mlp_dim": 48},
    **{"output_channels": 16, "downsample_channels": [24, 32]},
}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}


@dataclass(frozen=True)
class Case:
    """One tower.

    Args:
        fields: Of the whole model's config.
        module: Path of the tower in the whole model.
        size: Height and width of the test pictures.
        given: Makes what the whole model gives its tower of a batch of pictures.
        before: Path in the tower of what gives the last state, where its own output is already merged.
        grid: Height and width of the grid of tokens; None if there is none.
        prefix: Number of tokens in front of the grid.
        after: Number of tokens behind it.
        blocks: Path in the tower of the list of blocks.
        tokens: Makes tokens ``(B, N, D)`` of a state.
        pooled: How the pooled vector is made: ``pooler``, ``mean`` or ``space`` (the mean over a map).
    """

    fields: dict[str, Any]
    module: str
    size: tuple[int, int] = (32, 48)
    given: Callable[[Tensor], dict[str, Any]] = lambda image: {"pixel_values": image}
    before: str = ""
    grid: tuple[int, int] | None = (4, 6)
    prefix: int = 0
    after: int = 0
    blocks: str = "encoder.layers"
    tokens: Callable[[Tensor], Tensor] = lambda state: state
    pooled: str = "mean"


def process(processor: str, settings: dict[str, Any], image: Tensor, *, scale: bool = False) -> Any:
    """Let the library's own processor pack pictures that are ready."""
    made: Any = getattr(transformers, processor)(**settings)
    plain = {"do_resize": scale, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    return made(images=list(image), return_tensors="pt", input_data_format="channels_first", **plain)


def whole_patches(image: Tensor) -> dict[str, Any]:
    """Say that every patch is real, as the whole model does of a picture without padding."""
    mask = torch.ones(len(image), image.shape[-2] // 8, image.shape[-1] // 8, dtype=torch.bool)
    return {"pixel_values": image, "patch_attention_mask": mask}


def tiles(image: Tensor) -> dict[str, Any]:
    settings = {"size": {"height": 32, "width": 32}, "max_image_tiles": 4}
    given = process("MllamaImageProcessor", settings, image, scale=True)
    return {name: given[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}


def with_grid(image: Tensor) -> dict[str, Any]:
    settings = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 1}
    given = process("PaddleOCRVLImageProcessor", settings, image)
    return {"pixel_values": given["pixel_values"].unsqueeze(0), "grid_thw": given["image_grid_thw"]}


def numbered(image: Tensor) -> dict[str, Any]:
    patches = (image.shape[-2] // 16) * (image.shape[-1] // 16)
    made = transformers.Kosmos2_5ImageProcessor(max_patches=patches, do_normalize=False, do_convert_rgb=False)
    given = made(images=list(image), return_tensors="pt", input_data_format="channels_first")
    return {name: given[name] for name in ("flattened_patches", "attention_mask")}


def crops(image: Tensor) -> dict[str, Any]:
    from transformers.models.molmo2.image_processing_molmo2 import batch_pixels_to_patches

    return {"pixel_values": batch_pixels_to_patches(image.permute(0, 2, 3, 1), 8)}


def in_two(state: Tensor) -> Tensor:
    return state.reshape(2, -1, state.shape[-1])


CASES = {
    "deepseek_ocr2": Case(
        {
            "vision_config": {
                "sam_config": _SAM,
                "encoder_config": {**_TEXT, "num_hidden_layers": 2},
            },
            "text_config": {**_TEXT, **_EXPERTS, "mlp_layer_types": ["dense", "sparse"]},
        },
        "vision_tower",
        size=(1024, 1024),
        grid=None,
        blocks="sam_encoder.layers",
    ),
    "florence2": Case(
        {
            "vision_config": {
                **{"embed_dim": [8, 16, 24, 32], "num_heads": [1, 2, 3, 4], "num_groups": [1, 2, 3, 4]},
                **{"depths": [1, 1, 2, 1], "window_size": 4, "projection_dim": 32},
            },
            "text_config": {
                **{"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64},
                **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "is_encoder_decoder": True},
                **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 1},
            },
        },
        "vision_tower",
        size=(64, 96),
        given=lambda image: {"hidden_states": image},
        grid=None,
        blocks="blocks",
        tokens=lambda state: state.flatten(2).transpose(1, 2),
        pooled="space",
    ),
    "idefics": Case(
        {
            **_TEXT,
            "vision_config": {"embed_dim": 32, **{k: v for k, v in _VIT.items() if k != "hidden_size"}},
        },
        "vision_model",
        size=(32, 32),
        grid=(4, 4),
        prefix=1,
        pooled="pooler",
    ),
    "idefics2": Case(
        {
            "vision_config": _VIT,
            "text_config": {"model_type": "mistral", **_TEXT},
            "perceiver_config": {
                "hidden_size": 32,
                "resampler_n_heads": 2,
                "num_key_value_heads": 1,
                "resampler_depth": 1,
            },
        },
        "vision_model",
        given=whole_patches,
    ),
    "kosmos-2.5": Case(
        {
            "vision_config": {**_WIDTHS, "head_dim": 16, "max_num_patches": 64},
            "text_config": {"vocab_size": 64, "embed_dim": 32, "ffn_dim": 48, "layers": 2, "attention_heads": 2},
            "latent_query_num": 4,
        },
        "vision_model",
        size=(64, 96),
        given=numbered,
        blocks="encoder.layer",
    ),
    "llama4": Case(
        {
            "vision_config": {
                **{**_VIT, "intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32},
                **{"vision_output_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
            },
            "text_config": {**_TEXT, "head_dim": 16, "intermediate_size_mlp": 48, "num_local_experts": 2},
        },
        "vision_model",
        size=(32, 32),
        before="layernorm_post",
        grid=(4, 4),
        after=1,
        blocks="model.layers",
    ),
    "mllama": Case(
        {
            "vision_config": {
                **{k: v for k, v in _VIT.items() if k != "num_attention_heads"},
                **{"attention_heads": 2, "num_global_layers": 2, "intermediate_layers_indices": [0, 2]},
                "vision_output_dim": 96,
            },
            "text_config": {
                **{**_TEXT, "cross_attention_layers": [1], "rope_parameters": {"rope_type": "default"}},
            },
        },
        "vision_model",
        size=(32, 32),
        given=tiles,
        grid=(4, 4),
        prefix=1,
        blocks="transformer.layers",
        tokens=lambda state: state.reshape(2, 4, -1, state.shape[-1])[:, 0, :17],
    ),
    "molmo2": Case(
        {
            "vision_config": {
                **{**_VIT, "image_size": [32, 48], "head_dim": 16, "num_key_value_heads": 2},
            },
            "adapter_config": {
                **{"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
                **{"intermediate_size": 48, "text_hidden_size": 32, "vision_feature_layer": [1, 2]},
            },
            "text_config": {**_TEXT, "head_dim": 16},
        },
        "vision_tower",
        given=crops,
        blocks="layers",
    ),
    "paddleocr_vl": Case(
        {"vision_config": _VIT, "text_config": {**_TEXT, "head_dim": 16, "rope_parameters": _ROPE}},
        "visual",
        given=with_grid,
        blocks="vision_model.encoder.layers",
        tokens=in_two,
    ),
    "phi4_multimodal": Case(
        {
            **_TEXT,
            "vision_config": {**_VIT, "crop_size": 32, "image_token_id": 60},
            "audio_config": {
                **{"hidden_size": 32, "intermediate_size": 48, "num_blocks": 4, "num_attention_heads": 2},
                **{"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8},
                **{"input_size": 16, "audio_token_id": 61},
            },
        },
        "embed_tokens_extend.image_embed.img_processor",
        given=whole_patches,
        pooled="pooler",
    ),
    "pix2struct": Case(
        {
            "vision_config": {
                **{"hidden_size": 32, "d_ff": 48, "d_kv": 16, "num_hidden_layers": 4, "num_attention_heads": 2},
            },
            "text_config": {
                **{"vocab_size": 64, "hidden_size": 32, "d_ff": 48, "d_kv": 16, "num_layers": 1, "num_heads": 2},
            },
        },
        "encoder",
        size=(64, 96),
        given=numbered,
        blocks="encoder.layer",
    ),
    "step3p7": Case(
        {
            "vision_config": _VIT,
            "text_config": {
                **{**_TEXT, **_EXPERTS, "head_dim": 16, "share_expert_dim": 16, "mlp_layer_types": ["dense", "sparse"]},
                **{"layer_types": ["full_attention", "full_attention"], "sliding_window": 8},
            },
        },
        "vision_model",
        grid=(1, 2),
        blocks="layers",
    ),
    "unlimited_ocr": Case(
        {
            "vision_config": {"sam_config": _SAM, "encoder_config": {**_VIT, "num_hidden_layers": 2}},
            "text_config": {**_TEXT, **_EXPERTS, "mlp_layer_types": ["dense", "sparse"]},
        },
        "vision_tower",
        size=(64, 128),
        grid=(1, 2),
        blocks="sam_encoder.layers",
    ),
}
QUICK = {"idefics", "llama4", "mllama", "paddleocr_vl"}
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save the whole model of a type once, as transformers does, its numbers all odd."""

    @cache
    def save(name: str) -> tuple[Path, Any]:
        torch.manual_seed(0)
        config = CONFIG_MAPPING[name](**CASES[name].fields)
        model = class_for(config)(config).eval()
        for tensor in (*model.parameters(), *dict(model.named_buffers(remove_duplicate=True)).values()):
            if tensor.is_floating_point() and not tensor.is_complex() and tensor.requires_grad:
                tensor.data.copy_(torch.randn(tensor.shape) * 0.2)
        folder = tmp_path_factory.mktemp("whole")
        model.save_pretrained(folder)
        return folder, model

    return save


def class_for(config: Any) -> Any:
    """Give the library's class of a whole model."""
    named = {"pix2struct": transformers.Pix2StructForConditionalGeneration}
    return named.get(config.model_type) or transformers.MODEL_MAPPING[type(config)]


def load(folder: Path, part: str, **options: Any) -> Backbone:
    reference = Reference("hf", str(folder), part=part, options=options)
    return PROVIDER.build(PROVIDER.spec(reference), weights="pretrained").eval()


def pictures(size: tuple[int, int]) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *size)


def seen(tower: nn.Module, paths: list[str], given: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Run the library's own tower; give its output, and what inner modules gave."""
    found: dict[str, Tensor] = {}
    handles = [
        tower.get_submodule(path).register_forward_hook(
            lambda _module, _args, output, path=path: found.update(
                {path: output[0] if isinstance(output, tuple) else output}
            )
        )
        for path in paths
    ]
    output = tower(**given)
    for handle in handles:
        handle.remove()
    return output, found


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_tower_is_that_module_of_the_whole_model_with_what_the_model_gives_it(name, saved):
    case, (folder, model) = CASES[name], saved(name)
    tower, image = model.get_submodule(case.module), pictures(case.size)
    backbone = load(folder, "vision")
    stages = [stage.name for stage in backbone.spec.maps]
    ends = {stage.name: stage.module.split(f"{case.blocks}.")[1] for stage in backbone.spec.maps}

    want = Want(tokens=case.grid is not None, maps=tuple(stages))
    features = backbone(image, want)

    paths = [f"{case.blocks}.{number}" for number in ends.values()] + ([case.before] if case.before else [])
    output, inner = seen(tower, paths, case.given(image))
    last = case.tokens(inner[case.before] if case.before else output.last_hidden_state)
    real = last[:, case.prefix : last.shape[1] - case.after]
    pooled = output.pooler_output if case.pooled == "pooler" else real.mean(1)
    if case.pooled == "space":
        pooled = output.last_hidden_state.mean((-2, -1))
    assert torch.equal(features.pooled, pooled)
    if case.grid is not None:
        assert torch.equal(features.tokens, real)
        assert features.grid == case.grid
    assert len(stages) == 4
    for stage, number in ends.items():
        state = inner[f"{case.blocks}.{number}"]
        if state.ndim == 4:
            expected = state if case.pooled == "space" else state.permute(0, 3, 1, 2)
        else:
            state = case.tokens(state)
            rows = state[:, case.prefix : state.shape[1] - case.after]
            expected = rows.transpose(1, 2).unflatten(2, (4, rows.shape[1] // 4))
        assert torch.equal(features.maps[stage], expected), stage


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_has_all_tensors_of_that_module(name, saved):
    folder, model = saved(name)

    own = load(folder, "vision").native.state_dict()

    theirs = model.get_submodule(CASES[name].module).state_dict()
    prefix = "vision_model." if name == "idefics" else ""  # its class is the whole model's, with the tower alone
    own = {key.removeprefix(prefix): tensor for key, tensor in own.items()}
    left_out = {key for key in theirs if key not in own}
    assert all("adapter" in key or "768" in key for key in left_out), left_out  # for another pooling or size
    assert len(own) > 20
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in own.items())


@pytest.mark.slow
@torch.no_grad()
def test_what_llama4_gives_its_language_model_may_be_pooled_instead(saved):
    folder, model = saved("llama4")
    image = pictures((32, 32))

    pooled = load(folder, "vision", pooling="merged")(image).pooled

    assert torch.equal(pooled, model.vision_model(image).last_hidden_state.mean(1))


@pytest.mark.slow
@torch.no_grad()
def test_phi4s_audio_tower_is_that_of_the_whole_model_with_a_mask_and_without(saved):
    folder, model = saved("phi4_multimodal")
    tower = model.embed_tokens_extend.audio_embed.encoder
    backbone = load(folder, "audio")
    torch.manual_seed(2)
    sound, mask = torch.randn(2, 16, 100), torch.ones(2, 100, dtype=torch.int64)
    mask[1, 60:] = 0

    masked = backbone({"spectrogram": sound, "attention_mask": mask}, Want(tokens=True))
    plain = backbone(sound, Want(tokens=True))

    theirs = tower(sound.transpose(1, 2), mask.bool())
    assert torch.equal(masked.tokens, theirs)
    assert masked.mask.sum(1).tolist() == [13, 8]
    assert torch.equal(masked.pooled[1], theirs[1:, :8].sum(1)[0] / 8)
    assert torch.equal(plain.tokens, tower(sound.transpose(1, 2), mask.new_ones(2, 100).bool()))
    assert torch.equal(plain.pooled, plain.tokens.mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["granite_speech", "granite_speech_plus"])
@torch.no_grad()
def test_granites_encoder_is_that_of_the_whole_model(name, tmp_path):
    torch.manual_seed(0)
    encoder = {"input_dim": 16, "num_layers": 4, "hidden_dim": 32, "num_heads": 2, "dim_head": 16, "output_dim": 20}
    encoder |= {"context_size": 8, "max_pos_emb": 16, "conv_kernel_size": 3}
    projector = {"model_type": "blip_2_qformer", "hidden_size": 32, "encoder_hidden_size": 32, "num_hidden_layers": 1}
    projector |= {"num_attention_heads": 2, "intermediate_size": 48, "cross_attention_frequency": 1}
    config = CONFIG_MAPPING[name](
        encoder_config=encoder, projector_config=projector, text_config={"model_type": "granite", **_TEXT}
    )
    model = class_for(config)(config).eval()
    model.save_pretrained(tmp_path)
    sound = torch.randn(2, 16, 20)

    features = load(tmp_path, "audio")(sound, Want(tokens=True))

    theirs = model.encoder(sound.transpose(1, 2)).last_hidden_state
    assert torch.equal(features.tokens, theirs)
    assert torch.equal(features.pooled, theirs.mean(1))


@pytest.mark.slow
@torch.no_grad()
def test_moonshines_streaming_encoder_sees_its_windows_and_no_padding(tmp_path):
    torch.manual_seed(0)
    encoder = {**_WIDTHS, "num_key_value_heads": 2, "sliding_windows": [[4, 1]] * 4}
    config = CONFIG_MAPPING["moonshine_streaming"](
        encoder_config=encoder, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    model = transformers.MODEL_MAPPING[type(config)](config).eval()
    model.save_pretrained(tmp_path)
    backbone = load(tmp_path, "audio")
    sound, mask = torch.randn(2, 4000), torch.ones(2, 4000, dtype=torch.int64)
    mask[1, 2400:] = 0

    masked = backbone({"waveform": sound, "attention_mask": mask}, Want(tokens=True))
    odd = backbone(sound[:, :3990], Want(tokens=True)).tokens

    theirs = model.encoder(input_values=sound, attention_mask=mask)
    assert torch.equal(masked.tokens, theirs.last_hidden_state)
    assert torch.equal(masked.mask, theirs.attention_mask.bool())
    filled = torch.nn.functional.pad(sound[:, :3990], (0, 10))
    assert torch.equal(odd, model.encoder(input_values=filled, attention_mask=torch.ones(2, 4000)).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek_ocr2", "kosmos-2.5", "paddleocr_vl", "step3p7", "unlimited_ocr"])
@torch.no_grad()
def test_the_language_model_beside_a_tower_is_that_of_the_whole(name, saved):
    folder, model = saved(name)
    ids = torch.tensor([[3, 9, 4, 7, 5], [11, 5, 8, 12, 6]])
    inside = "text_model" if name == "kosmos-2.5" else "language_model"

    text = load(folder, "text")

    last = model.get_submodule(inside)(input_ids=ids, use_cache=False).last_hidden_state
    features = text(ids, Want(tokens=True))
    assert torch.equal(features.tokens, last)
    assert torch.equal(features.pooled, last[:, -1])

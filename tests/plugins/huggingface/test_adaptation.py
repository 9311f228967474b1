"""Pretrained weights kept for other channels and other sizes of pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from transformers import AutoConfig, AutoModel

from zoo.contracts.features import Want
from zoo.errors import ConfigError, UnknownName
from zoo.reference import Reference
from zoo_huggingface.adapting import adapt_convolution
from zoo_huggingface.provider import HuggingFaceProvider

PROVIDER = HuggingFaceProvider()
VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"}
CONV = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def saved(tmp_path: Any, name: str, fields: dict[str, Any]) -> tuple[str, Any]:
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(AutoConfig.for_model(name, **fields)).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor + torch.rand(tensor.shape) * 0.1)
    model.save_pretrained(tmp_path)
    return f"hf:{tmp_path}", model


def load(reference: str) -> Any:
    return PROVIDER.build(PROVIDER.spec(Reference.parse(reference)), weights="pretrained").eval()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("shape", [(8, 3, 7, 7), (8, 3, 2, 8, 8)])
def test_the_first_convolution_follows_timms_rule(channels, shape):
    weight = torch.randn(shape)
    flat = weight.flatten(2).unflatten(2, (-1, shape[-1]))

    ours = adapt_convolution(weight, channels)

    assert torch.equal(ours.flatten(2), adapt_input_conv(channels, flat).flatten(2))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize(
    ("name", "fields", "conv"),
    [
        ("vit", VIT, "embeddings.patch_embeddings.projection.weight"),
        ("resnet", CONV, "embedder.embedder.convolution.weight"),
    ],
)
@torch.no_grad()
def test_other_channels_keep_all_other_pretrained_weights(tmp_path, name, fields, conv, channels):
    reference, model = saved(tmp_path, name, fields)
    theirs = model.state_dict()

    backbone = load(f"{reference}?in_channels={channels}")

    ours = backbone.native.state_dict()
    assert torch.equal(ours.pop(conv), adapt_input_conv(channels, theirs[conv]))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert backbone(torch.randn(1, channels, 32, 32)).pooled.shape == (1, backbone.spec.pooled_dim)


@pytest.mark.slow
@torch.no_grad()
def test_a_grey_picture_gives_what_three_equal_channels_gave(tmp_path):
    reference, model = saved(tmp_path, "vit", VIT)
    grey = torch.randn(2, 1, 32, 32)

    pooled = load(f"{reference}?in_channels=1")(grey).pooled

    assert torch.allclose(pooled, model(grey.expand(2, 3, 32, 32)).last_hidden_state[:, 0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"), [("vit", VIT), ("deit", VIT), ("clip_vision_model", VIT), ("dinov2", DINO)]
)
@torch.no_grad()
def test_positions_resampled_once_give_what_the_library_resamples_at_each_pass(tmp_path, name, fields):
    reference, model = saved(tmp_path, name, fields)
    image = torch.randn(2, 3, 48, 48)
    flag = {} if name == "dinov2" else {"interpolate_pos_encoding": True}

    backbone = load(f"{reference}?img_size=48")

    features = backbone(image, Want(tokens=True))
    prefix = backbone.spec.prefix_tokens
    assert backbone.spec.inputs[0].size == (48, 48)
    assert torch.allclose(features.tokens, model(image, **flag).last_hidden_state[:, prefix:], atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_table_of_relative_positions_is_resampled_and_keeps_its_class_token(tmp_path):
    fields = {**VIT, "use_relative_position_bias": True, "use_absolute_position_embeddings": False}
    reference, model = saved(tmp_path, "beit", fields)

    backbone = load(f"{reference}?img_size=48")

    key = next(k for k in model.state_dict() if k.endswith("relative_position_bias_table"))
    ours, theirs = backbone.native.state_dict()[key], model.state_dict()[key]
    assert ours.shape == (11 * 11 + 3, 2)
    assert torch.equal(ours[-3:], theirs[-3:])
    assert backbone(torch.randn(1, 3, 48, 48)).pooled.shape == (1, 32)


@pytest.mark.slow
@torch.no_grad()
def test_maps_of_positions_and_those_of_one_axis_are_resampled(tmp_path):
    fields = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64, "image_size": 64,
        "patch_size": 8, "window_size": 2, "output_channels": 16, "global_attn_indexes": [1],
    }  # fmt: skip
    reference, model = saved(tmp_path, "sam_vision_model", fields)

    backbone = load(f"{reference}?img_size=96")

    ours, theirs = backbone.native.state_dict(), model.state_dict()
    table = theirs["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    wider = torch.nn.functional.interpolate(table, size=(12, 12), mode="bicubic").permute(0, 2, 3, 1)
    line = "vision_encoder.layers.1.attn.rel_pos_h"
    assert torch.equal(ours["vision_encoder.pos_embed"], wider)
    assert (theirs[line].shape[0], ours[line].shape[0]) == (15, 23)
    assert backbone(torch.randn(1, 3, 96, 96)).pooled.shape == (1, 16)


@pytest.mark.slow
@torch.no_grad()
def test_a_weights_file_is_adapted_as_a_folder_is(tmp_path):
    reference, model = saved(tmp_path, "vit", VIT)
    spec = PROVIDER.spec(Reference.parse(f"{reference}?in_channels=4&img_size=48"))
    save_file(model.state_dict(), tmp_path / "own.safetensors")

    backbone = PROVIDER.build(spec, weights=tmp_path / "own.safetensors").eval()

    folder = load(f"{reference}?in_channels=4&img_size=48")
    image = torch.randn(1, 4, 48, 48)
    assert torch.equal(backbone(image).pooled, folder(image).pooled)


@pytest.mark.slow
def test_what_cannot_be_made_to_fit_is_refused_by_name(tmp_path):
    fields = {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1]}
    reference, _ = saved(tmp_path, "levit", {**fields, "key_dim": [8, 8, 8]})

    with pytest.raises(ConfigError, match=r"cannot be made to fit these options: .*attention_bias"):
        load(f"{reference}?img_size=128")


def test_a_size_between_patches_is_refused_with_the_nearest_ones(tmp_path):
    reference, _ = saved(tmp_path, "dinov2", DINO)

    with pytest.raises(ConfigError, match=r"multiple of 8 .*, got 50×50; the nearest are 48×48 or 56×56"):
        PROVIDER.spec(Reference.parse(f"{reference}?img_size=50"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field"), [("beit", "drop_path_rate"), ("swin", "drop_path_rate"), ("convnext", "drop_path_rate")]
)
def test_drop_path_is_one_name_for_all(name, field):
    spec = PROVIDER.spec(Reference.parse(f"hf:{name}?drop_path=0.25"))

    assert spec.construction["config"][field] == 0.25


def test_drop_path_is_refused_where_there_is_none():
    with pytest.raises(UnknownName, match="has no option 'drop_path'"):
        PROVIDER.spec(Reference.parse("hf:resnet?drop_path=0.1"))

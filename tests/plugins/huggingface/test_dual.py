"""The towers of dual models against the whole model of transformers, with the same weights."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.contracts.head import Head, HeadConfig, Needs, zero_loss
from zoo.errors import CapabilityError, ConfigError, UnknownName
from zoo.reference import Reference
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import PARTS, UNSERVED

TABLE = runpy.run_path(str(Path(__file__).with_name("sequence_cases.py")))
DUAL, QUICK = TABLE["DUAL"], TABLE["QUICK"]
PROVIDER = HuggingFaceProvider()
NAMES = [
    pytest.param(name, part, marks=() if name in QUICK else pytest.mark.slow, id=f"{name}#{part}")
    for name in DUAL
    for part in PARTS[name]
]
GETTERS = {"vision": "get_image_features", "text": "get_text_features", "audio": "get_audio_features"}
IDS = torch.tensor([[0, 5, 9, 7, 11, 2, 1, 1], [0, 8, 3, 6, 12, 5, 7, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])


def shake(module: nn.Module) -> None:
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if "running_var" in key else torch.randn(tensor.shape) * 0.1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save the whole model of a type once, with weights of its own."""

    @cache
    def save(name: str) -> tuple[Path, Any]:
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[name](**DUAL[name])
        model = transformers.MODEL_MAPPING[type(config)](config).eval()
        shake(model)
        folder = tmp_path_factory.mktemp(name.replace("-", "_"))
        model.save_pretrained(folder)
        return folder, model

    return save


def load(folder: Path, part: str) -> Backbone:
    return PROVIDER.build(PROVIDER.spec(Reference("hf", str(folder), part=part)), weights="pretrained").eval()


def inputs_of(backbone: Backbone, part: str) -> Any:
    torch.manual_seed(1)
    main = backbone.spec.inputs[0]
    if part == "vision":
        return torch.randn(2, 3, *main.size)
    return torch.randn(2, main.channels, 200) if part == "audio" else {"input_ids": IDS, "attention_mask": MASK}


def call(model: Any, part: str, inputs: Any) -> Tensor:
    """Ask the library for the projected vectors, as its users do; FLAVA projects all tokens and uses the first."""
    getter = getattr(model, GETTERS[part])
    if part == "audio":
        projected = getter(inputs.transpose(1, 2)[:, None]).pooler_output
    else:
        projected = (getter(inputs) if part == "vision" else getter(**inputs)).pooler_output
    return projected[:, 0] if projected.ndim == 3 else projected


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), NAMES)
@torch.no_grad()
def test_embed_is_the_librarys_projected_vector_at_length_1(name, part, saved):
    folder, model = saved(name)
    backbone = load(folder, part)
    inputs = inputs_of(backbone, part)

    features = backbone(inputs, Want(embed=True))

    expected = call(model, part, inputs)
    expected = expected if name == "clap" else F.normalize(expected, dim=-1)  # CLAP's are normalised already
    assert torch.equal(features.embed, expected)
    assert torch.allclose(features.embed.norm(dim=-1), torch.ones(2))
    assert features.pooled.shape == (2, backbone.spec.pooled_dim)
    assert "embed" in backbone.spec.capabilities


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), NAMES)
def test_every_parameter_left_of_a_tower_gets_a_gradient_from_embed(name, part, saved):
    backbone = load(saved(name)[0], part)
    spec = backbone.spec
    want = Want(embed=True, tokens="tokens" in spec.capabilities)

    features = backbone(inputs_of(backbone, part), want)
    loss = features.embed.mul(torch.randn(features.embed.shape)).sum()
    (loss if features.tokens is None else loss + features.tokens.square().sum()).backward()

    assert spec.parameters == sum(p.numel() for p in backbone.native.parameters())
    idle = [key for key, p in backbone.native.named_parameters() if p.grad is None and p.requires_grad]
    assert idle == ([] if name != "groupvit" or part == "text" else idle[:0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("clip", "text"), ("clip", "vision"), ("chinese_clip", "text")])
@torch.no_grad()
def test_without_embed_the_projection_is_cut_off(name, part, saved):
    folder, _ = saved(name)
    whole, cut = load(folder, part), load(folder, part)
    inputs = inputs_of(whole, part)

    cut.trim(Want())

    gone = whole.native.state_dict().keys() - cut.native.state_dict().keys()
    assert f"{'visual' if part == 'vision' else 'text'}_projection.weight" in gone
    assert torch.equal(cut(inputs).pooled, whole(inputs).pooled)


@pytest.mark.slow
@torch.no_grad()
def test_with_embed_wanted_the_projection_stays(saved):
    folder, model = saved("clip")
    backbone = load(folder, "text")

    backbone.trim(Want(pooled=False, embed=True))

    inputs = inputs_of(backbone, "text")
    expected = F.normalize(call(model, "text", inputs), dim=-1)
    assert torch.equal(backbone(inputs, Want(pooled=False, embed=True)).embed, expected)


class Likeness(Head):
    """A head that reads the projected vector."""

    Config = HeadConfig

    @classmethod
    def needs(cls, spec: Any, config: Any, context: Any) -> dict[str, Needs]:
        return {"main": Needs(embed=True)}

    def tasks(self) -> Any:
        return {self.spec.name: self}

    def forward(self, features: Any) -> Any:
        return {self.spec.name: features["main"].embed}

    def losses(self, outputs: Any, targets: Any) -> Any:
        return {name: zero_loss(output) for name, output in outputs.items()}


@pytest.mark.slow
@torch.no_grad()
def test_a_head_that_reads_embed_keeps_the_projection(saved, registry_with):
    folder, model = saved("clip")
    registry_with("likeness", zoo_heads=lambda: {"likeness": "zoo_likeness:Likeness"}, Likeness=Likeness)

    built = zoo.build(f"hf:{folder}#text", "likeness")

    words = {"input_ids": IDS, "attention_mask": MASK}
    assert built.spec.streams["main"].keep == Want(pooled=False, embed=True)
    assert torch.equal(built(words)["likeness"], F.normalize(call(model, "text", words), dim=-1))


@pytest.mark.slow
@torch.no_grad()
def test_a_model_without_heads_gives_pooled_and_embed(saved):
    folder, model = saved("clip")
    image = torch.randn(1, 3, 32, 32)
    words = {"input_ids": IDS[:1], "attention_mask": MASK[:1]}

    both = zoo.build({"picture": f"hf:{folder}#vision", "words": f"hf:{folder}#text"})
    features = both.features({"picture": image, "words": words})

    similar = features["picture"].embed @ features["words"].embed.T
    expected = model(pixel_values=image, **words).logits_per_image / model.logit_scale.exp()
    assert torch.allclose(similar, expected, atol=1e-5)


def test_embed_of_what_is_no_part_of_a_dual_model_is_refused():
    backbone = PROVIDER.build(
        PROVIDER.spec(Reference.parse("hf:bert?hidden_size=32&num_attention_heads=2&num_hidden_layers=1")), weights=None
    )

    with pytest.raises(CapabilityError, match="gives no embed, which a part of a dual-tower model does"):
        backbone(IDS, Want(embed=True))


@pytest.mark.slow
@torch.no_grad()
def test_options_of_the_tower_and_of_the_whole_go_to_their_place():
    fields = {**DUAL["chinese_clip"], "projection_dim": 24, "hidden_size": 16}
    options = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in fields.items()}

    spec = PROVIDER.spec(Reference("hf", "chinese_clip", part="text", options=options))

    config = spec.construction["config"]
    assert config["text_config"]["hidden_size"] == 16
    assert config["vision_config"]["hidden_size"] == 32
    assert config["projection_dim"] == 24
    assert spec.pooled_dim == 16
    embed = PROVIDER.build(spec, weights=None).eval()(IDS, Want(embed=True)).embed
    assert embed.shape == (2, 24)


@pytest.mark.parametrize("name", ["altclip", "owlvit", pytest.param("blip", marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_tower_of_a_whole_model_is_built_again_from_its_spec(name, saved):
    folder, _ = saved(name)
    backbone = load(folder, "text")

    again = PROVIDER.build(replace(backbone.spec, reference=f"hf:{name}#text"), weights=None).eval()
    again.native.load_state_dict(backbone.native.state_dict(), strict=True)

    assert torch.equal(again(IDS, Want(embed=True)).embed, backbone(IDS, Want(embed=True)).embed)


def test_a_dual_model_as_a_whole_is_refused_with_its_parts():
    with pytest.raises(ConfigError, match="chinese_clip is made of 2 models; say which: add '#vision' or '#text'"):
        PROVIDER.spec(Reference.parse("hf:chinese_clip"))
    with pytest.raises(ConfigError, match="xclip is served by a part of it: add '#text' to the reference"):
        PROVIDER.spec(Reference.parse("hf:xclip"))


def test_a_part_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UnknownName, match="clip has no part 'audio'; its parts: vision, text"):
        PROVIDER.spec(Reference.parse("hf:clip#audio"))
    with pytest.raises(UnknownName, match="xclip has no part 'vision'; its parts: text"):
        PROVIDER.spec(Reference.parse("hf:xclip#vision"))


@pytest.mark.parametrize("name", ["bark", "emu3", "vision-text-dual-encoder", "qwen3_asr_encoder", "encodec"])
def test_what_cannot_be_served_says_why(name):
    with pytest.raises(ConfigError) as caught:
        PROVIDER.spec(Reference("hf", name))

    assert UNSERVED[name] in str(caught.value)

"""Text types against transformers itself: the same weights in the library's own class, called as its users call it."""

from __future__ import annotations

import inspect
import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.errors import ConfigError, ShapeError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo_huggingface.provider import HuggingFaceProvider
from zoo_huggingface.rules import RULES

TABLE = runpy.run_path(str(Path(__file__).with_name("sequence_cases.py")))
TEXTS, QUICK, fields_of = TABLE["TEXTS"], TABLE["QUICK"], TABLE["fields_of"]
PROVIDER = HuggingFaceProvider()
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TEXTS]

IDS = torch.tensor([[0, 5, 9, 7, 11, 2, 1, 1], [0, 8, 3, 6, 12, 5, 7, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
SEES_PADDING = {"canine", "convbert", "fnet", "nystromformer", "siglip_text_model", "yoso"}
"""Their convolutions, Fourier transforms or landmarks mix padding into real tokens, in the library too; SigLIP reads
the last token, real or not, as it did in training, where texts were filled up."""
FROM_THE_LEFT = {
    *("biogpt", "bloom", "camembert", "codegen", "ctrl", "data2vec-text", "eurobert", "falcon", "gemma", "gpt2"),
    *("gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "gte", "ibert", "llama", "mistral", "mixtral", "modernbert"),
    *("modernbert-decoder", "mpnet", "mt5", "nomic_bert", "openai-gpt", "opt", "phi", "qwen3", "roberta", "t5", "umt5"),
    *("xglm", "xlm-roberta"),
}
"""Their positions are relative, or counted from the first real token."""


def reference(name: str, fields: dict[str, Any], part: str | None = None) -> Reference:
    options = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in fields.items()}
    return Reference("hf", name, part=part, options=options)


@cache
def spec_of(name: str) -> BackboneSpec:
    return PROVIDER.spec(reference(name, fields_of(name)))


def build(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = PROVIDER.build(spec_of(name), weights=None).eval()
    shake(backbone.native)
    return backbone


@cache
def ready(name: str) -> Backbone:
    """Build it once for the tests that only look."""
    return build(name)


def shake(module: nn.Module) -> None:
    """Give every tensor numbers of its own: fresh models hold zeros and ones that would hide a fault."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if "running_var" in key else torch.randn(tensor.shape) * 0.1)


@cache
def library(name: str) -> Any:
    """Give the library's own encoder with the backbone's weights."""
    config = transformers.AutoConfig.for_model(name, **fields_of(name))
    if name == "siglip_text_model":
        cls: Any = transformers.SiglipTextModel
    else:
        cls = transformers.MODEL_MAPPING[type(config)]
    model = (cls[0] if isinstance(cls, tuple) else cls)(config).eval()
    missing, unexpected = model.load_state_dict(ready(name).native.state_dict(), strict=False)
    unused = (*spec_of(name).construction["unused"], "pooler", "decoder", "shared")
    assert not unexpected
    assert [key for key in missing if not any(key == path or key.startswith(path + ".") for path in unused)] == []
    return model.get_encoder() if "decoder_input_ids" in inspect.signature(model.forward).parameters else model


@cache
@torch.no_grad()
def theirs(name: str) -> Any:
    encoder = library(name)
    off = {"use_cache": False} if "use_cache" in inspect.signature(encoder.forward).parameters else {}
    return encoder(input_ids=IDS, attention_mask=MASK, return_dict=True, **off)


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_tokens_mask_and_pooled_vector_of_a_padded_batch_are_the_librarys(name):
    backbone, output = ready(name), theirs(name)
    last = output.last_hidden_state
    expected = {
        "eos": lambda: output.pooler_output,
        "pooler": lambda: output.pooler_output,
        "last": lambda: torch.stack([last[0, 5], last[1, 7]]),
        "mean": lambda: torch.stack([last[0, :6].mean(0), last[1].mean(0)]),
    }[backbone.spec.pooling]()

    features = backbone({"input_ids": IDS, "attention_mask": MASK}, Want(tokens=True))

    close = 1e-6 if name == "reformer" else 0.0  # it hashes, and adds in another order where it need not go backward
    assert torch.allclose(features.tokens, last, rtol=0, atol=close)
    assert torch.equal(features.mask, MASK.bool())
    assert torch.allclose(features.pooled, expected, atol=1e-5, rtol=1e-5)
    assert features.pooled.shape == (2, backbone.spec.pooled_dim)
    assert features.tokens.shape == (2, 8, backbone.spec.token_dim)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_on_the_right_does_not_change_the_pooled_vector(name):
    backbone = ready(name)

    short = backbone(IDS[:1, :6])
    long = backbone({"input_ids": IDS, "attention_mask": MASK})

    assert short.mask is None
    changed = not torch.allclose(short.pooled[0], long.pooled[0], atol=1e-5)
    assert changed == (name in SEES_PADDING)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TEXTS if n in FROM_THE_LEFT]
)
@torch.no_grad()
def test_padding_on_the_left_does_not_either_where_positions_allow_it(name):
    backbone = ready(name)
    ids = torch.tensor([[1, 1, 0, 5, 9, 7, 11, 2]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])

    padded = backbone({"input_ids": ids, "attention_mask": mask}).pooled

    assert torch.allclose(padded, backbone(ids[:, 2:]).pooled, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_stage_and_gets_a_gradient(name):
    if name == "reformer":
        pytest.skip("its reversible layers go backward in training only, with numbers of their own")
    backbone = build(name)
    order = [stage.name for stage in backbone.spec.stages]

    features = backbone(IDS, Want(tokens=True))
    (features.pooled.mul(torch.randn(features.pooled.shape)).sum() + features.tokens.square().sum()).backward()

    assert order[0] == "stem"
    assert order[-1] == "post"
    assert {backbone.stage_of(key) for key, _ in backbone.native.named_parameters()} >= set(order[1:-1])
    idle = [key for key, p in backbone.native.named_parameters() if p.grad is None and p.requires_grad]
    assert [key for key in idle if ".experts." not in key] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_is_what_json_says_and_counts_what_is_there(name):
    spec = spec_of(name)

    assert from_json(BackboneSpec, to_json(spec)) == spec
    assert spec.modality == "text"
    assert spec.parameters == sum(p.numel() for p in ready(name).native.parameters())
    assert {"pooled", "tokens", "mask"} <= set(spec.capabilities)


def test_shared_layers_are_one_stage():
    assert [stage.name for stage in spec_of("albert").stages] == ["stem", "s1", "post"]


def test_lists_of_layers_that_run_in_turns_are_cut_across():
    backbone = ready("flaubert")

    assert backbone.stage_of("attentions.0") == backbone.stage_of("ffns.0") == "s1"
    assert backbone.stage_of("attentions.4") == backbone.stage_of("layer_norm1.4") == "s4"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extra", "limit"),
    [
        ("bert", {"max_position_embeddings": 12}, 12),
        ("roberta", {"max_position_embeddings": 12}, 10),
        ("mpnet", {"max_position_embeddings": 12}, 10),
        ("gpt2", {"n_positions": 12}, 12),
        ("t5", {}, None),
        ("deberta-v2", {"position_biased_input": False}, None),
    ],
)
@torch.no_grad()
def test_the_longest_text_runs_and_a_longer_one_is_refused(name, extra, limit):
    backbone = PROVIDER.build(PROVIDER.spec(reference(name, fields_of(name) | extra)), weights=None).eval()

    assert backbone.spec.inputs[0].length == limit
    longest = torch.full((1, limit or 600), 5)
    assert backbone(longest).pooled.shape == (1, 32)
    if limit is not None:
        with pytest.raises(ShapeError, match=f"takes {limit} tokens at the most, got {limit + 1}; cut them"):
            backbone(torch.full((1, limit + 1), 5))


@torch.no_grad()
def test_segments_are_an_optional_input():
    backbone, segments = ready("bert"), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]] * 2)
    expected = library("bert")(input_ids=IDS, attention_mask=MASK, token_type_ids=segments).last_hidden_state

    inputs = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": segments}

    assert torch.equal(backbone(inputs, Want(tokens=True)).tokens, expected)
    assert not torch.equal(expected, theirs("bert").last_hidden_state)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ShapeError, match=r"attention_mask must be as long as input_ids, \(2, 8\), got \(2, 7\)"):
        ready("bert")({"input_ids": IDS, "attention_mask": MASK[:, :7]})


@torch.no_grad()
def test_a_mask_of_bools_means_the_same():
    backbone = ready("bert")

    numbers = backbone({"input_ids": IDS, "attention_mask": MASK}).pooled
    bools = backbone({"input_ids": IDS, "attention_mask": MASK.bool()}).pooled

    assert torch.equal(bools, numbers)


@pytest.mark.parametrize(
    ("name", "pooling"), [("bert", "cls"), ("bert", "pooler"), ("distilbert", "cls"), ("gpt2", "mean")]
)
@torch.no_grad()
def test_another_pooling_is_the_users_to_choose(name, pooling):
    backbone = PROVIDER.build(
        PROVIDER.spec(reference(name, fields_of(name) | {"pooling": pooling})), weights=None
    ).eval()

    features = backbone({"input_ids": IDS, "attention_mask": MASK}, Want(tokens=True))

    assert backbone.spec.pooling == pooling
    expected = {
        "cls": lambda: features.tokens[:, 0],
        "pooler": lambda: backbone.native.pooler(features.tokens),
        "mean": lambda: torch.stack([features.tokens[0, :6].mean(0), features.tokens[1].mean(0)]),
    }[pooling]()
    assert torch.allclose(features.pooled, expected, atol=1e-6)


def test_a_pooling_that_a_type_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="pooling must be one of mean, cls, pooler, got 'last'"):
        PROVIDER.spec(reference("bert", fields_of("bert") | {"pooling": "last"}))


@torch.no_grad()
def test_the_decoder_of_a_type_of_two_is_not_there():
    backbone = ready("bart")

    assert [key for key, _ in backbone.native.named_parameters() if key.startswith("decoder.")] == []
    assert backbone.spec.parameters < sum(p.numel() for p in library("bart").parameters()) + 32 * 99 + 1


@torch.no_grad()
def test_a_type_without_a_rule_goes_the_generic_way(monkeypatch):
    monkeypatch.delitem(RULES, "splinter")

    backbone = PROVIDER.build(PROVIDER.spec(reference("splinter", fields_of("splinter"))), weights=None).eval()

    features = backbone({"input_ids": IDS, "attention_mask": MASK}, Want(tokens=True))

    last = backbone.native(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert torch.equal(features.tokens, last)
    assert torch.allclose(features.pooled[0], last[0, :6].mean(0), atol=1e-6)
    assert [stage.name for stage in backbone.spec.stages] == ["stem", "post"]


@pytest.mark.parametrize("name", ["bert", "bart", "gpt2", pytest.param("xlm", marks=pytest.mark.slow)])
@torch.no_grad()
def test_what_the_library_saved_loads_to_equal_features(name, tmp_path):
    config = transformers.AutoConfig.for_model(name, **fields_of(name))
    torch.manual_seed(0)
    model = transformers.MODEL_MAPPING[type(config)](config).eval()
    shake(model)
    model.save_pretrained(tmp_path)
    encoder: Any = model.get_encoder() if name == "bart" else model

    spec = PROVIDER.spec(Reference("hf", str(tmp_path)))
    loaded = PROVIDER.build(spec, weights="pretrained").eval()
    poured = PROVIDER.build(spec, weights=tmp_path / "model.safetensors").eval()

    expected: Tensor = encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    for backbone in (loaded, poured):
        assert torch.equal(backbone({"input_ids": IDS, "attention_mask": MASK}, Want(tokens=True)).tokens, expected)

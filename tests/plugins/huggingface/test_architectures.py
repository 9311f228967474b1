"""Every rule of the table against transformers itself, called directly with the same weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo_huggingface.provider import HuggingFaceProvider

PROVIDER = HuggingFaceProvider()


@dataclass(frozen=True)
class Case:
    fields: dict[str, Any]
    pooled: str = "cls"
    maps: dict[str, int] = field(default_factory=dict)
    reductions: tuple[float, ...] = ()
    prefix: int = 0
    picture: tuple[int, int] = (48, 32)


FLAT = {"s1": 1, "s2": 2, "s3": 4, "s4": 5}
PYRAMID = {"s1": 1, "s2": 2, "s3": 3, "s4": 4}
OCTAVES = (4, 8, 16, 32)
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"}
CONV = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
CONVNEXT = {key: value for key, value in CONV.items() if key != "embedding_size"}
SWIN = {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4], "window_size": 2}
PVT = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}

PICTURES = {
    "beit": Case(VIT, "pooler", FLAT, (8,) * 4, prefix=1),
    "clip_vision_model": Case(VIT, "pooler", FLAT, (8,) * 4, prefix=1),
    "convnext": Case(CONVNEXT, "pooler", PYRAMID, OCTAVES, picture=(64, 96)),
    "convnextv2": Case(CONVNEXT, "pooler", PYRAMID, OCTAVES, picture=(64, 96)),
    "deit": Case(VIT, "cls", FLAT, (8,) * 4, prefix=2),
    "dinov2": Case(DINO, "pooler", FLAT, (8,) * 4, prefix=1),
    "dinov2_with_registers": Case(DINO | {"num_register_tokens": 3}, "pooler", FLAT, (8,) * 4, prefix=4),
    "pvt_v2": Case(PVT | {"image_size": 64}, "space", {"s1": 0, "s2": 1, "s3": 2, "s4": 3}, OCTAVES, picture=(64, 96)),
    "regnet": Case(CONV | {"groups_width": 4}, "pooler", {"stem": 0, **PYRAMID}, (2, *OCTAVES), picture=(64, 96)),
    "resnet": Case(CONV | {"layer_type": "basic"}, "pooler", PYRAMID, OCTAVES, picture=(64, 96)),
    "segformer": Case(PVT, "space", {"s1": 0, "s2": 1, "s3": 2, "s4": 3}, OCTAVES, picture=(64, 96)),
    "siglip_vision_model": Case(VIT, "pooler", FLAT, (8,) * 4),
    "swin": Case(SWIN, "pooler", PYRAMID, OCTAVES, picture=(64, 96)),
    "swinv2": Case(SWIN, "pooler", PYRAMID, OCTAVES, picture=(64, 96)),
    "vit": Case(VIT, "cls", FLAT, (8,) * 4, prefix=1),
}
FLEXIBLE = {"vit", "deit", "clip_vision_model", "siglip_vision_model", "swin", "swinv2"}
BERT = {k: VIT[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
WORDS = {"vocab_size": 50, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
TEXTS = {
    "bert": BERT | {"vocab_size": 50},
    "clip_text_model": BERT | WORDS,
    "distilbert": {"dim": 32, "n_layers": 5, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50},
    "electra": BERT | {"vocab_size": 50, "embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 5, "n_head": 2} | {k: v for k, v in WORDS.items() if k != "pad_token_id"},
    "roberta": BERT | WORDS,
    "xlm-roberta": BERT | WORDS,
}


SIGLIP_TEXT = BERT | {"vocab_size": 50}


def reference(name: str, fields: dict[str, Any]) -> Reference:
    model_type, _, part = name.partition("#")
    options = {k: str(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Reference("hf", model_type, part=part or None, options=options)


def fields_of(name: str) -> dict[str, Any]:
    if name in PICTURES:
        return PICTURES[name].fields
    if name in TEXTS:
        return TEXTS[name]
    if name == "siglip_text_model":
        return SIGLIP_TEXT
    if name.endswith("#vision"):
        return VIT | ({"projection_dim": 16} if name.startswith("clip") else {})
    return BERT | WORDS | ({"projection_dim": 16} if name.startswith("clip") else {})


@cache
def spec_of(text: str) -> BackboneSpec:
    return PROVIDER.spec(Reference.parse(text))


def build(name: str, **extra: Any) -> Backbone:
    torch.manual_seed(0)
    spec = spec_of(str(reference(name, fields_of(name) | extra)))
    backbone = PROVIDER.build(spec, weights=None).eval()
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
    native = ready(name).native
    model: Any = AutoModel.from_config(AutoConfig.for_model(name, **fields_of(name))).eval()
    missing, unexpected = model.load_state_dict(native.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("pooler.") or key == "embeddings.mask_token" for key in missing)
    return model


def picture(name: str, *, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, *PICTURES[name].picture)


def everything(spec: BackboneSpec) -> Want:
    maps = tuple(stage.name for stage in spec.maps)
    return Want(tokens="tokens" in spec.capabilities, maps=maps, embed="embed" in spec.capabilities)


def call(name: str, model: Any, image: Tensor) -> Any:
    flag = {"interpolate_pos_encoding": True} if name in FLEXIBLE else {}
    return model(image, output_hidden_states=True, **flag)


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_the_pooled_vector_is_the_librarys(name):
    backbone, case, image = ready(name), PICTURES[name], picture(name)
    theirs = call(name, library(name), image)
    expected = {
        "cls": lambda: theirs.last_hidden_state[:, 0],
        "pooler": lambda: theirs.pooler_output.flatten(1),
        "space": lambda: theirs.last_hidden_state.mean((-2, -1)),
    }[case.pooled]()

    pooled = backbone(image).pooled

    assert torch.equal(pooled, expected)
    assert pooled.shape == (2, backbone.spec.pooled_dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_each_map_is_the_librarys_hidden_state_in_nchw(name):
    backbone, case, image = ready(name), PICTURES[name], picture(name)
    model = library(name)
    if name.startswith("swin"):
        start, grid = model.embeddings(image)
        flags = {"output_hidden_states": True, "output_hidden_states_before_downsampling": True}
        states = model.encoder(start, grid, **flags).reshaped_hidden_states
    else:
        states = call(name, model, image).hidden_states

    maps = backbone(image, everything(backbone.spec)).maps

    assert list(maps) == list(case.maps)
    for stage, index in case.maps.items():
        state = states[index]
        if state.ndim == 3:
            height, width = case.picture[0] // 8, case.picture[1] // 8
            rows = state[:, case.prefix :].reshape(2, height, width, -1)
            state = rows.permute(0, 3, 1, 2)
        assert torch.equal(maps[stage], state), stage


@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_the_spec_says_what_comes_out(name):
    backbone, case, image = ready(name), PICTURES[name], picture(name)
    spec = backbone.spec

    features = backbone(image, everything(spec))

    assert tuple(stage.reduction for stage in spec.maps) == case.reductions
    for stage in spec.maps:
        height, width = (side / stage.reduction for side in case.picture)
        assert features.maps[stage.name].shape == (2, stage.channels, height, width)
    assert spec.parameters == sum(p.numel() for p in backbone.native.parameters())
    assert spec.prefix_tokens == case.prefix
    assert from_json(BackboneSpec, to_json(spec)) == spec


@pytest.mark.parametrize("name", [name for name in PICTURES if PICTURES[name].maps == FLAT or name.startswith("swin")])
@torch.no_grad()
def test_tokens_prefix_and_grid_follow_the_actual_picture(name):
    backbone, case, image = ready(name), PICTURES[name], picture(name)
    last = call(name, library(name), image).last_hidden_state

    features = backbone(image, Want(tokens=True))

    cell = 32 if name.startswith("swin") else 8
    assert features.grid == (case.picture[0] // cell, case.picture[1] // cell)
    assert torch.equal(features.tokens, last[:, case.prefix :])
    assert features.tokens.shape == (2, features.grid[0] * features.grid[1], backbone.spec.token_dim)
    assert (features.prefix is None) == (case.prefix == 0)
    assert case.prefix == 0 or torch.equal(features.prefix, last[:, : case.prefix])


@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_a_pass_with_maps_and_one_without_give_the_same_pooled_vector(name):
    backbone, image = ready(name), picture(name)

    alone, together = backbone(image).pooled, backbone(image, everything(backbone.spec)).pooled

    assert torch.equal(alone, together)


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", [*PICTURES, *TEXTS, "clip#vision", "clip#text", "siglip#vision", "siglip#text"])
def test_every_parameter_has_a_stage_runs_and_gets_a_gradient(name):
    backbone = build(name).train()
    spec = backbone.spec
    seen = picture(name) if name in PICTURES else torch.randn(2, 3, 32, 32)
    batch = seen if spec.modality == "image" else torch.full((2, 6), 3)
    order = [stage.name for stage in spec.stages]

    stages = [backbone.stage_of(key) for key, _ in backbone.native.named_modules() if key]
    features = backbone(batch, everything(spec))
    (features.pooled.sum() + sum(m.sum() for m in features.maps.values()) + _sum(features.embed)).backward()

    assert order == ["stem", "s1", "s2", "s3", "s4", "post"]
    assert set(stages) <= set(order)
    assert {backbone.stage_of(key) for key, _ in backbone.native.named_parameters()} >= {"s1", "s2", "s3", "s4"}
    assert [key for key, p in backbone.native.named_parameters() if p.grad is None] == []


def _sum(tensor: Tensor | None) -> Tensor | float:
    return 0.0 if tensor is None else tensor.sum()


@pytest.mark.parametrize("name", [*PICTURES, *TEXTS])
def test_stages_stand_in_the_order_in_which_they_run(name):
    backbone = build(name)
    ran: list[str] = []
    for key, module in backbone.native.named_modules():
        if key and not [*module.children()]:
            module.register_forward_hook(lambda *_, key=key: ran.append(backbone.stage_of(key)))
    batch = picture(name) if name in PICTURES else torch.full((2, 6), 3)

    with torch.no_grad():
        backbone(batch)

    order = [stage.name for stage in backbone.spec.stages]
    positions = [order.index(stage) for stage in ran]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_padding_does_not_change_the_pooled_vector_of_a_text(name):
    backbone = ready(name)
    ids = torch.tensor([[0, 5, 9, 7, 2], [0, 8, 3, 6, 2]])
    padded = torch.cat([ids, torch.ones(2, 3, dtype=torch.int64)], 1)
    mask = (torch.arange(8) < 5).long().expand(2, 8)

    short = backbone(ids)
    long = backbone({"input_ids": padded, "attention_mask": mask}, Want(tokens=True))

    assert torch.allclose(short.pooled, long.pooled, atol=1e-6)
    assert short.mask is None
    assert long.mask.dtype == torch.bool
    assert torch.equal(long.mask, mask.bool())


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_the_pooled_vector_of_a_text_follows_its_rule(name):
    backbone = ready(name)
    ids = torch.tensor([[0, 5, 9, 2, 1, 1], [0, 8, 3, 6, 7, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    theirs = library(name)(input_ids=ids, attention_mask=mask)
    last = theirs.last_hidden_state
    expected = {
        "eos": lambda: theirs.pooler_output,
        "last": lambda: torch.stack([last[0, 3], last[1, 5]]),
        "mean": lambda: torch.stack([last[0, :4].mean(0), last[1].mean(0)]),
    }[backbone.spec.pooling]()

    features = backbone({"input_ids": ids, "attention_mask": mask}, Want(tokens=True))

    assert torch.allclose(features.pooled, expected, atol=1e-6)
    assert torch.equal(features.tokens, last)


@pytest.mark.slow
@torch.no_grad()
def test_siglip_text_gives_the_librarys_trained_head():
    backbone = ready("siglip_text_model")
    ids = torch.tensor([[5, 9, 7, 1, 1]])

    pooled = backbone(ids).pooled

    assert torch.equal(pooled, backbone.native(input_ids=ids).pooler_output)


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", [*PICTURES, *TEXTS])
@torch.no_grad()
def test_what_the_library_saved_loads_to_equal_features(name, tmp_path):
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(AutoConfig.for_model(name, **fields_of(name))).eval()
    shake(model)
    model.save_pretrained(tmp_path)
    batch = picture(name) if name in PICTURES else torch.tensor([[0, 5, 9, 2]])

    backbone = PROVIDER.build(PROVIDER.spec(Reference("hf", str(tmp_path))), weights="pretrained").eval()

    theirs = call(name, model, batch).last_hidden_state
    ours = backbone(batch, Want(tokens="tokens" in backbone.spec.capabilities))
    if ours.tokens is None:
        assert torch.equal(backbone.native(batch).last_hidden_state, theirs)
    else:
        assert torch.equal(ours.tokens, theirs[:, backbone.spec.prefix_tokens :])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pooling"),
    [("vit", "mean"), ("vit", "pooler"), ("beit", "cls"), ("dinov2", "mean"), ("siglip_vision_model", "mean"),
     ("bert", "cls"), ("bert", "pooler"), ("distilbert", "cls"), ("gpt2", "mean")],
)  # fmt: skip
@torch.no_grad()
def test_another_pooling_is_the_users_to_choose_and_leaves_no_parameter_unused(name, pooling):
    backbone = build(name, pooling=pooling)
    batch = picture(name) if name in PICTURES else torch.tensor([[0, 5, 9, 2]])
    theirs: Any = AutoModel.from_config(AutoConfig.for_model(name, **fields_of(name))).eval()
    theirs.load_state_dict(backbone.native.state_dict(), strict=False)
    output = call(name, theirs, batch)
    prefix = PICTURES[name].prefix if name in PICTURES else 0
    expected = {
        "cls": lambda: output.last_hidden_state[:, 0],
        "mean": lambda: output.last_hidden_state[:, prefix:].mean(1),
        "pooler": lambda: output.pooler_output,
    }[pooling]()

    pooled = backbone(batch).pooled
    with torch.enable_grad():
        backbone(batch).pooled.sum().backward()

    assert backbone.spec.pooling == pooling
    assert torch.equal(pooled, expected)
    assert [key for key, p in backbone.native.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_changes_no_gradient_and_is_refused_where_there_is_none():
    plain, saving = build("vit"), build("vit")
    image = picture("vit")

    assert saving.set_grad_checkpointing(True)
    assert not build("resnet").set_grad_checkpointing(True)
    for backbone in (plain, saving):
        backbone.train()(image).pooled.sum().backward()

    pairs = zip(plain.native.parameters(), saving.native.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dinov2", "clip#vision", "swin", "bert"))]
)
@torch.no_grad()
def test_a_backbone_that_never_ran_compiles_to_one_graph_and_exports(name):
    class Wanted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build(name)

        def forward(self, batch: Tensor) -> Any:
            return self.backbone(batch, everything(self.backbone.spec))

    wanted = Wanted().eval()
    size = wanted.backbone.spec.inputs[0].size
    batch = torch.randn(2, 3, *size) if size else torch.tensor([[0, 5, 9, 2], [0, 3, 4, 2]])

    compiled = torch.compile(wanted, backend="eager", fullgraph=True)(batch)
    exported = torch.export.export(wanted, (batch,)).module()(batch)

    plain = wanted(batch)
    for other in (compiled, exported):
        assert torch.allclose(other.pooled, plain.pooled, atol=1e-5)
        assert all(torch.allclose(other.maps[stage], plain.maps[stage], atol=1e-5) for stage in plain.maps)

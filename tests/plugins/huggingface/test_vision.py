"""Vision types against transformers itself: the same weights in the library's own class, called as users call it."""

from __future__ import annotations

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo_huggingface.provider import HuggingFaceProvider

TABLE = runpy.run_path(str(Path(__file__).with_name("vision_cases.py")))
CASES, QUICK = TABLE["CASES"], TABLE["QUICK"]

PROVIDER = HuggingFaceProvider()
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
FEW = [pytest.param(name, marks=() if name in ("vit", "swin", "resnet") else pytest.mark.slow) for name in CASES]


def reference(name: str, fields: dict[str, Any]) -> Reference:
    options = {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in fields.items()}
    return Reference("hf", name, options=options)


@cache
def spec_of(name: str) -> BackboneSpec:
    return PROVIDER.spec(reference(name, CASES[name].fields))


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


def everything(spec: BackboneSpec) -> Want:
    return Want(tokens="tokens" in spec.capabilities, maps=tuple(stage.name for stage in spec.maps))


def picture(name: str) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *CASES[name].size)


# --- the library itself

CONFIG: dict[str, dict[str, Any]] = {"vit_mae": {"mask_ratio": 0.0}, "segformer": {"reshape_last_stage": True}}


@cache
def library(name: str) -> Any:
    config = AutoConfig.for_model(name, **CASES[name].fields, **CONFIG.get(name, {}))
    mapping = transformers.MODEL_MAPPING
    cls = mapping[type(config)] if type(config) in mapping else transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]
    model = cls(config).eval()
    missing, unexpected = model.load_state_dict(ready(name).native.state_dict(), strict=False)
    unused = (*spec_of(name).construction["unused"], "pooler")
    assert not unexpected
    assert [key for key in missing if not any(key == path or key.startswith(path + ".") for path in unused)] == []
    return model


@cache
@torch.no_grad()
def theirs(name: str) -> Any:
    case, image = CASES[name], picture(name)
    arguments: dict[str, Any] = {}
    if name == "vit_mae":
        arguments["noise"] = torch.arange(16.0).expand(2, 16)
    if case.size != spec_of(name).inputs[0].size and case.other:
        arguments["interpolate_pos_encoding"] = True
    if case.maps in ("states", "nhwc", "rhs"):
        arguments["output_hidden_states"] = True
    encoder: list[Any] = []
    model = library(name)
    if case.pooled == "encoder":
        model.encoder.register_forward_hook(lambda _m, _a, output: encoder.append(output))
    output = model(image, **arguments)
    return output, encoder


def pooled_of(name: str) -> Tensor:
    case, (output, encoder) = CASES[name], theirs(name)
    last = output.get("last_hidden_state")
    if case.pooled == "":
        last = output.feature_maps[-1]
        return last.mean(1) if last.ndim == 3 else last.mean((-2, -1))
    return {
        "cls": lambda: last[:, 0],
        "encoder": lambda: encoder[0][0].mean(1),
        "hwc": lambda: last.mean((1, 2)),
        "last map": lambda: output.encoder_last_hidden_state[-1].mean((-2, -1)),
        "mean": lambda: last.reshape(2, -1, last.shape[-1])[:, case.prefix :].mean(1),
        "pooler": lambda: output.pooler_output.flatten(1),
        "space": lambda: last.mean((-2, -1)),
    }[case.pooled]()


def maps_of(name: str) -> list[Tensor]:
    """Give the library's own maps of our stages."""
    case, (output, _) = CASES[name], theirs(name)
    stages = spec_of(name).maps
    if case.maps == "states":
        states = [output.hidden_states[i] for i in case.indices if i >= 0]
    elif case.maps == "nhwc":
        states = [output.hidden_states[i].permute(0, 3, 1, 2) for i in case.indices]
    elif case.maps == "rhs":
        states = [state.permute(0, 3, 1, 2) for state in output.reshaped_hidden_states[1:]]
    elif case.maps == "swin":
        model: Any = library(name)
        start, grid = model.embeddings(picture(name))
        flags = {"output_hidden_states": True, "output_hidden_states_before_downsampling": True}
        states = list(model.encoder(start, grid, **flags).reshaped_hidden_states[1:])
    elif case.maps == "backbone":
        states = backbone_maps(name)
    else:
        states = hooked(name)
    return [
        as_map(state, stage.reduction or 1, case) for state, stage in zip(states, stages[-len(states) :], strict=True)
    ]


def backbone_maps(name: str) -> list[Tensor]:
    """Ask AutoBackbone for the maps of all stages, its norms on them taken out."""
    config = AutoConfig.for_model(name, **CASES[name].fields)
    every = [i for i, stage in enumerate(config.stage_names) if stage != "stem"]
    config._out_indices = every
    config._out_features = [config.stage_names[i] for i in every]
    model = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)](config).eval()
    own = model.state_dict()
    given = ready(name).native.state_dict()
    prefix = next((p for p in ("", "model.", f"{name.split('_')[0]}.") if any(p + key in own for key in given)), "")
    missing, _ = model.load_state_dict({prefix + key: value for key, value in given.items()}, strict=False)
    never = tuple(f"{prefix}{path}." for path in ready(name).spec.construction["unused"])
    assert all("norm" in key or "mask_token" in key or key.startswith(never or ("\0",)) for key in missing), missing
    for path, module in [*model.named_modules()]:
        last = path.rpartition(".")[2] in ("layernorm", "layer_norm") or "hidden_states_norms" in path
        if last and type(module).__name__.endswith("LayerNorm"):
            module.forward = lambda state: state
    with torch.no_grad():
        maps = model(picture(name)).feature_maps
    sizes = [tuple(m.shape[-2:]) for m in maps]
    stages = spec_of(name).maps
    if len(set(sizes)) > 1:
        keep = [max(i for i, s in enumerate(sizes) if s == size) for size in dict.fromkeys(sizes)]
        return [maps[i] for i in keep][-len(stages) :]
    return list(maps)[-len(stages) :]


@torch.no_grad()
def hooked(name: str) -> list[Tensor]:
    model, seen = library(name), {}
    modules = {stage.module: stage.name for stage in spec_of(name).maps if stage.module}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _m, _a, output, path=path: seen.update({path: output[0] if isinstance(output, tuple) else output})
        )
        for path in modules
    ]
    model(picture(name))
    for handle in handles:
        handle.remove()
    return [state.permute(0, 3, 1, 2) if CASES[name].pooled == "hwc" else state for state in seen.values()]


def as_map(state: Tensor, reduction: float, case: Any) -> Tensor:
    if state.ndim == 4:
        return state
    height, width = (-(-side // int(reduction)) for side in case.size)
    count = height * width
    rows = state.reshape(2, -1, state.shape[-1])
    first = case.prefix if rows.shape[1] >= case.prefix + count else 0
    return rows[:, first : first + count].reshape(2, height, width, -1).permute(0, 3, 1, 2)


# --- parity


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_pooled_vector_tokens_and_maps_are_the_librarys(name):
    backbone, image = ready(name), picture(name)
    spec = backbone.spec

    features = backbone(image, everything(spec))

    assert torch.equal(features.pooled, pooled_of(name))
    assert features.pooled.shape == (2, spec.pooled_dim)
    if CASES[name].maps:
        expected = maps_of(name)
        stages = spec.maps[-len(expected) :]
        assert len(stages) >= len([stage for stage in spec.maps if stage.name != "stem"])
        for stage, found in zip(stages, expected, strict=True):
            assert torch.equal(features.maps[stage.name], found), stage.name
    for stage in spec.maps:
        got = features.maps[stage.name]
        assert got.shape[1] == stage.channels
        assert all(abs(a / stage.reduction - b) < 1 for a, b in zip(CASES[name].size, got.shape[-2:], strict=True))
    if "tokens" in spec.capabilities:
        assert features.tokens.shape == (2, features.grid[0] * features.grid[1], spec.token_dim)
        assert spec.prefix_tokens == (0 if features.prefix is None else features.prefix.shape[1])
    assert torch.equal(backbone(image).pooled, features.pooled)


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", FEW)
def test_stages_are_total_in_the_order_in_which_they_run_and_each_parameter_gets_a_gradient(name):
    backbone = build(name).train()
    order = [stage.name for stage in backbone.spec.stages]
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, key=key: ran.append(backbone.stage_of(key)))
        for key, module in backbone.native.named_modules()
        if key and not [*module.children()]
    ]

    features = backbone.eval()(picture(name), everything(backbone.spec))
    for handle in handles:
        handle.remove()
    given = [features.pooled, features.tokens, features.prefix, *features.maps.values()]
    sum(tensor.sum() for tensor in given if tensor is not None).backward()

    stages = {backbone.stage_of(key) for key, _ in backbone.native.named_parameters()}
    assert stages <= set(order)
    assert len(stages) >= min(2, len(order))
    positions = [order.index(stage) for stage in ran]
    assert positions == sorted(positions)
    assert [key for key, p in backbone.native.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", FEW)
def test_the_spec_survives_json_and_builds_the_same_module_again(name):
    first = ready(name)
    spec = from_json(BackboneSpec, json.loads(json.dumps(to_json(first.spec))))

    again = PROVIDER.build(spec, weights=None).eval()
    again.native.load_state_dict(first.native.state_dict(), strict=True)

    assert spec == first.spec
    with torch.no_grad():
        assert torch.equal(again(picture(name)).pooled, first(picture(name)).pooled)


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", FEW)
def test_every_buffer_outside_the_state_dict_is_that_of_a_natively_built_model(name):
    ours = PROVIDER.build(spec_of(name), weights=None).native
    config = AutoConfig.for_model(name, **CASES[name].fields, **CONFIG.get(name, {}))
    native = type(ours)(config)

    kept = set(native.state_dict())
    buffers = dict(native.named_buffers())

    for key, buffer in ours.named_buffers():
        if key not in kept:
            assert torch.equal(buffer, buffers[key]), key

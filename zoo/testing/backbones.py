"""What must hold of every backbone."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from zoo.assembly import plan_model
from zoo.catalog import resolve
from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.errors import ShapeError
from zoo.freezing import freeze_stages
from zoo.reference import Reference
from zoo.registry import registry
from zoo.spec import BackboneSpec, InputSpec, from_json, to_json
from zoo.testing.rules import raises, rule, same

__all__ = ["check_backbone", "example_inputs"]


def check_backbone(reference: str) -> None:
    """Check a backbone with random weights against the whole contract.

    Args:
        reference: What a user would type; options are welcome, a small architecture is quicker.

    Raises:
        AssertionError: If a rule is broken; the message names it.
    """
    asked = resolve(reference).reference
    spec = plan_model(asked).streams["main"].backbone
    _check_spec(spec, asked)
    backbone = registry().provider(asked.provider).build(spec, weights=None).eval()
    _check_features(backbone)
    _check_refusals(backbone)
    _check_stages(backbone)
    _check_rebuild(backbone)
    _check_freezing(backbone)


def example_inputs(spec: BackboneSpec, batch: int = 2) -> dict[str, Tensor]:
    """Make random inputs that a backbone takes, all its required ones."""
    generator = torch.Generator().manual_seed(0)
    return {entry.name: _example(entry, batch, generator) for entry in spec.inputs if entry.required}


def _example(entry: InputSpec, batch: int, generator: torch.Generator) -> Tensor:
    if entry.kind == "tokens":
        return torch.randint(1, 20, (batch, 12), generator=generator)
    height, width = entry.size or (64, 64)
    if not entry.fixed_size and entry.kind == "image":
        step = math.lcm(entry.divisor, 32)
        height = width = min(height, -(-96 // step) * step)
    middle = (entry.channels,) if entry.channels is not None else ()
    return torch.randn(batch, *middle, *((8,) if entry.kind == "video" else ()), height, width, generator=generator)


def _check_spec(spec: BackboneSpec, asked: Reference) -> None:
    rule(from_json(BackboneSpec, to_json(spec)) == spec, "A spec must be the same after a round trip through JSON.")
    rule(spec.reference == str(asked), f"The spec must carry the resolved reference {asked}, got {spec.reference}.")
    rule(spec.provider == asked.provider, f"The spec's provider must be {asked.provider!r}, got {spec.provider!r}.")
    names = [stage.name for stage in spec.stages]
    numbered = [f"s{i + 1}" for i in range(len(names) - 2)]
    rule(names == ["stem", *numbered, "post"], f"Stages must be stem, s1 … sN, post, got {', '.join(names)}.")
    known = {"pooled", "maps", "tokens", "mask", "embed", "in_channels", "dynamic_size", "grad_checkpointing"}
    rule(set(spec.capabilities) <= known, f"Capabilities must be of {sorted(known)}, got {spec.capabilities}.")
    rule(list(spec.capabilities) == sorted(spec.capabilities), "Capabilities must be sorted.")
    rule(bool(spec.maps) == ("maps" in spec.capabilities), "Stages must have channels where maps are a capability.")


def everything(spec: BackboneSpec) -> Want:
    """Want all that a backbone can give."""
    return Want(
        pooled="pooled" in spec.capabilities,
        tokens="tokens" in spec.capabilities,
        maps=tuple(stage.name for stage in spec.maps),
    )


def _check_features(backbone: Backbone) -> None:
    spec = backbone.spec
    inputs = example_inputs(spec)
    with torch.no_grad():
        features = backbone(inputs, everything(spec))
        again = backbone(inputs)
    rule(isinstance(features, Features), f"extract must give Features, got {type(features).__name__}.")
    rule(features.pooled is not None and features.pooled.shape == (2, spec.pooled_dim), _got("pooled", features.pooled))
    rule(bool(torch.isfinite(features.pooled).all()), "The pooled vector must be finite.")
    same(features.pooled, again.pooled, "The pooled vector must be the same whether or not maps are wanted.")
    rule(not again.maps and again.tokens is None, "What is not wanted must not be given.")
    image = inputs[spec.inputs[0].name]
    for stage in spec.maps:
        found = features.maps[stage.name]
        rule(
            found.ndim == 4 and found.shape[1] == stage.channels,
            f"Map {stage.name} must be (B, C, H, W): {found.shape}",
        )
        sides = [side / (stage.reduction or 1) for side in image.shape[-2:]]
        near = all(abs(s - got) < 1.01 for s, got in zip(sides, found.shape[-2:], strict=True))
        rule(near, f"Map {stage.name} must be 1/{stage.reduction} of {tuple(image.shape)}, got {tuple(found.shape)}.")
    if "tokens" in spec.capabilities:
        rule(
            features.tokens is not None and features.tokens.shape[2] == spec.token_dim, _got("tokens", features.tokens)
        )
    if features.tokens is not None and features.grid is not None:
        cells = features.grid[0] * features.grid[1]
        rule(features.tokens.shape[1] == cells, f"Tokens must fill the grid {features.grid}: {features.tokens.shape}")
    if spec.prefix_tokens:
        rule(features.prefix is not None and features.prefix.shape[1] == spec.prefix_tokens, "prefix must be given.")


def _got(what: str, tensor: Tensor | None) -> str:
    return f"{what} must have the shape that the spec declares, got {None if tensor is None else tuple(tensor.shape)}."


def _check_refusals(backbone: Backbone) -> None:
    inputs = example_inputs(backbone.spec)
    name, main = next(iter(inputs.items()))
    with raises(ShapeError, "An input of the wrong rank must raise ShapeError"):
        backbone({**inputs, name: main[0]})
    with raises(ShapeError, "An unknown input must raise ShapeError"):
        backbone({**inputs, "nonsense": main})
    if backbone.spec.inputs[0].channels is not None:
        with raises(ShapeError, "An input with a channel too many must raise ShapeError"):
            backbone({**inputs, name: torch.cat([main, main[:, :1]], dim=1)})


def _check_stages(backbone: Backbone) -> None:
    names = [stage.name for stage in backbone.spec.stages]
    count = 0
    for name, parameter in backbone.native.named_parameters():
        rule(backbone.stage_of(name) in names, f"The stage of {name} must be one of the spec's.")
        count += parameter.numel()
    for name, _ in backbone.native.named_buffers():
        rule(backbone.stage_of(name) in names, f"The stage of {name} must be one of the spec's.")
    inside = sum(p.numel() for p in backbone.parameters())
    rule(
        backbone.spec.parameters in (count, inside),
        f"The spec must count {count} parameters: {backbone.spec.parameters}",
    )


def _check_rebuild(backbone: Backbone) -> None:
    """A spec that went through JSON builds the same module, and the weights of one fit the other."""
    spec = from_json(BackboneSpec, to_json(backbone.spec))
    other = registry().provider(spec.provider).build(spec, weights=None).eval()
    other.load_state_dict(backbone.state_dict(), strict=True)
    inputs = example_inputs(spec)
    with torch.no_grad():
        same(
            other(inputs).pooled, backbone(inputs).pooled, "A backbone rebuilt from its spec must give equal features."
        )
        same(copy.deepcopy(backbone)(inputs).pooled, other(inputs).pooled, "A copy must give equal features.")


def _check_freezing(backbone: Backbone) -> None:
    """Three training steps leave frozen tensors bit-equal, also after ``.train()`` on the model or a part of it."""
    names = [stage.name for stage in backbone.spec.stages]
    frozen = frozenset(names[: max(1, len(names) // 2)])
    freeze_stages(backbone, frozen)
    before = {name: tensor.clone() for name, tensor in backbone.native.state_dict().items()}
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    rule(bool(parameters), "Some stage in the later half must have parameters.")
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    backbone.train()
    backbone.native.train()
    inputs = example_inputs(backbone.spec, batch=4)
    for _ in range(3):
        optimizer.zero_grad()
        backbone(inputs).pooled.square().mean().backward()
        optimizer.step()
    for name, tensor in backbone.native.state_dict().items():
        if backbone.stage_of(name) in frozen:
            same(before[name], tensor, f"{name} is in a frozen stage and must not change in training.")
    freeze_stages(backbone, frozenset())
    backbone.eval()

"""The drawn composition: every part once, with the shapes and counts that torch gives."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data import Table, TensorSample
from zoo.report.composition import Part, compose, draw


def every(part: Part) -> list[Part]:
    return [part, *(one for inner in part.inside for one in every(inner))]


def test_shapes_and_counts_are_those_of_the_modules():
    heads = [
        {"type": "multi_task", "name": "both", "heads": [
            {"type": "classifier", "name": "kind", "classes": ["a", "b", "c"], "stream": "left"},
            {"type": "regression", "name": "age", "stream": "right"},
        ]},
    ]  # fmt: skip
    model = zoo.build({"left": "timm:test_resnet"}, heads, share={"right": "left"}, weights=None, seed=0).train()

    whole = compose(model)

    parts = {part.name: part for part in every(whole)}
    assert list(parts) == ["model", "left", "right", "both", "kind", "age"]
    assert whole.parameters == sum(p.numel() for p in model.parameters())
    assert parts["left"].parameters + parts["both"].parameters == whole.parameters
    assert parts["right"].parameters is None
    assert parts["left"].gives == {"pooled": (model.spec.streams["left"].backbone.pooled_dim,)}
    with torch.no_grad():
        outputs = model({name: torch.zeros(2, 3, 96, 96) for name in ("left", "right")})
    assert parts["kind"].gives == {"kind": tuple(outputs["kind"].shape[1:])} == {"kind": (3,)}
    assert model.training
    lines = draw(whole)
    assert len(lines) == len(parts)
    assert lines[-2:] == [
        f"   ├─ kind: classifier on left; gives kind 3; {parts['kind'].parameters} parameters",
        f"   └─ age: regression on right; gives age one number; {parts['age'].parameters} parameters",
    ]


@pytest.mark.slow
def test_what_was_pruned_and_what_rounds_says_so():
    samples = {"image": tuple(TensorSample(str(n), torch.full((3, 32, 32), n / 4)) for n in range(4))}
    model = zoo.build("timm:test_resnet", {"type": "regression", "name": "age"}, weights=None, seed=0)
    before = draw(compose(model))
    zoo.prune(model, macs=0.5, multiple_of=1, importance="l1")
    zoo.quantize(model, Table("pictures", samples, {}), observer="histogram")

    assert ", pruned, rounding to 8 bits (histogram); gives pooled" in draw(compose(model))[1]
    assert not any("pruned" in line or "8 bits" in line for line in before)

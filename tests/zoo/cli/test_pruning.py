"""``zoo prune``: a smaller bundle beside the old one, in words and in JSON."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as library


@pytest.fixture
def bundle(tmp_path):
    head = library.head("classifier", name="pet", classes=["cat", "dog"])
    return library.build("timm:test_vit", head, weights=None, seed=0).save(tmp_path / "bundle")


@pytest.mark.slow
def test_a_bundle_becomes_a_smaller_one(zoo, bundle, tmp_path):
    told = zoo("prune", bundle, "--macs", "0.7", "--multiple-of", "4", "--out", tmp_path / "small")
    spec = library.load(tmp_path / "small").spec.streams["main"].backbone

    assert told.code == 0
    assert "parameters: 306,240 → " in told.out
    assert "% of the whole)" in told.out
    assert spec.parameters < 306_240
    assert any(size["out_features"] % 4 == 0 for path, size in spec.widths.items() if path.endswith("fc1"))


def test_zero_weights_are_told_in_json(zoo, bundle, tmp_path):
    wanted = ("--sparsity", "0.5", "--importance", "random", "--seed", "3", "--json")
    told = json.loads(zoo("prune", bundle, *wanted, "--out", tmp_path / "sparse").out)
    library.prune(model := library.load(bundle), sparsity=0.5, importance="random", seed=3)
    weight = library.load(tmp_path / "sparse").backbones["main"].native.blocks[0].mlp.fc1.weight

    assert told["path"] == str(tmp_path / "sparse")
    assert told["sparsity"] == pytest.approx(0.5, abs=1e-4)
    assert told["share"] is None
    assert torch.equal(weight, model.backbones["main"].native.blocks[0].mlp.fc1.weight)


@pytest.mark.slow
def test_ranking_and_data_reach_the_library(zoo, tmp_path):
    head = library.head("classifier", name="pet", classes=["cat", "dog"])
    library.build("timm:test_resnet", head, weights=None, seed=0).save(tmp_path / "bundle")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        (tmp_path / "pets" / ("cat", "dog")[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png")
    wanted = ("--macs", "0.6", "--multiple-of", "1", "--ranking", "global", "--data", tmp_path / "pets")
    told = zoo("prune", tmp_path / "bundle", *wanted, "--out", tmp_path / "small")
    library.prune(model := library.load(tmp_path / "bundle"), macs=0.6, multiple_of=1, ranking="global")
    found = library.load(tmp_path / "small")
    mean = next(tensor for name, tensor in found.backbones["main"].native.named_buffers() if "running_mean" in name)

    assert told.code == 0, told.err
    assert "norms measured anew: " in told.out
    assert found.spec.streams["main"].backbone.widths == model.spec.streams["main"].backbone.widths
    assert bool(mean.any())


@pytest.mark.slow
def test_what_cannot_be_done_is_said_in_a_sentence_and_nothing_is_replaced(zoo, bundle, tmp_path):
    assert "latency=1e-06 cannot be reached" in zoo("prune", bundle, "--latency", "1e-6", "--out", tmp_path / "no").err
    assert "Give one target" in zoo("prune", bundle, "--out", tmp_path / "no").err
    assert "pass data=" in zoo("prune", bundle, "--macs", "0.5", "--importance", "taylor", "--out", tmp_path / "no").err
    found = zoo("prune", bundle, "--macs", "0.5", "--importance", "l1", "--data", "x", "--out", tmp_path / "no")
    assert "no norms with running statistics to measure" in found.err
    assert not (tmp_path / "no").exists()
    before = (bundle / "zoo.json").read_bytes()
    assert zoo("prune", bundle, "--sparsity", "0.5", "--out", bundle).code == 2
    assert (bundle / "zoo.json").read_bytes() == before
    assert zoo("prune", bundle, "--sparsity", "0.5", "--out", bundle, "--overwrite").code == 0
    assert (bundle / "zoo.json").read_bytes() != before

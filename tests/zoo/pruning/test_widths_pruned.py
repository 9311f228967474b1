"""Narrower layers: what they cost, that the right ones go, and that bundles need nothing of where they came from."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import zoo
from zoo.assembly import assemble
from zoo.data import Column, Table, TensorSample
from zoo.errors import BundleError, ConfigError
from zoo.pruning.channels import channel_steps
from zoo.pruning.measuring import QuickCount, macs_of
from zoo.strict import from_json, to_json

SIDE, FIRST, SECOND = 8, 16, 32

HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}


def build(reference, *heads, **more):
    return zoo.build(reference, list(heads) or HEAD, weights=None, seed=0, **more)


def pictures(model, side=None):
    first = next(iter(model.spec.streams.values())).backbone.inputs[0]
    size = first.size if side is None else (side, side)
    return torch.randn(2, first.channels, *size, generator=torch.Generator().manual_seed(1))


def by_hand(first, second):
    return SIDE**2 * 3 * first * 9 + (SIDE // 2) ** 2 * first * second * 9


def test_the_multiply_accumulates_are_those_counted_by_hand(small):
    model = small()
    assert macs_of(model) == by_hand(FIRST, SECOND)
    report = zoo.prune(model, macs=0.5, multiple_of=1)
    spec = model.spec.streams["main"].backbone
    first, second = spec.widths["0"]["out_channels"], spec.widths["2"]["out_channels"]

    assert report.macs_whole == report.macs_before == by_hand(FIRST, SECOND)
    assert report.macs_after == by_hand(first, second) == macs_of(model)
    assert 0.4 < report.share <= 0.5
    assert spec.widths == {"0": {"out_channels": first}, "2": {"in_channels": first, "out_channels": second}}
    assert spec.parameters == 3 * first * 9 + first + first * second * 9 + second == report.parameters_after
    assert report.parameters_before == 3 * FIRST * 9 + FIRST + FIRST * SECOND * 9 + SECOND
    assert report.latency_before > 0 < report.latency_after
    assert (spec.pooled_dim, spec.stage("s1").channels) == (second, second)
    assert next(p for p in model.heads["kind"].parameters() if p.ndim == 2).shape == (2, second)


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_channels_that_do_nothing_go_first_and_heads_keep_the_columns_of_those_that_stay(small, importance):
    model = small()
    native, head = model.backbones["main"].native, model.heads["kind"]
    matrix = next(p for p in head.parameters() if p.ndim == 2)
    with torch.no_grad():
        native[0].weight[::2] = native[0].bias[::2] = 0  # half of the channels give nothing
        native[2].weight[:, ::2] = 0
        native[2].weight[1::2] = native[2].bias[1::2] = 0
        matrix[:, 1::2] = 0
    before = model(pictures(model))["kind"]
    report = zoo.prune(model, macs=by_hand(9, 17) / by_hand(FIRST, SECOND), importance=importance, multiple_of=1)

    assert report.macs_after >= by_hand(FIRST // 2, SECOND // 2)
    assert torch.allclose(model(pictures(model))["kind"], before, atol=1e-6)


def test_random_importance_is_of_its_seed(small):
    kept = []
    for seed in (0, 0, 1):
        model = small()
        zoo.prune(model, macs=0.5, importance="random", seed=seed, multiple_of=1)
        kept.append(model(pictures(model))["kind"])
    assert torch.equal(kept[0], kept[1])
    assert kept[0].shape == kept[2].shape
    assert not torch.equal(kept[0], kept[2])


def test_widths_stay_multiples_of_what_was_asked(small):
    model = small()
    zoo.prune(model, macs=0.5)
    assert all(
        size % 8 == 0 for sizes in model.spec.streams["main"].backbone.widths.values() for size in sizes.values()
    )


@pytest.mark.parametrize(
    ("ranking", "kept"),
    [("local", {"0": 12, "2": 24}), ("global", {"0": FIRST, "2": 16})],
)
def test_layers_are_ranked_by_themselves_or_together(small, ranking, kept):
    model = small()
    native = model.backbones["main"].native
    with torch.no_grad():  # half of the second layer is worth a tenth of what all others are
        for layer in (native[0], native[2]):
            layer.weight.fill_(1)
            layer.bias.fill_(1)
        native[2].weight[::2] = native[2].bias[::2] = 0.1
    target = by_hand(12, 24) if ranking == "local" else by_hand(FIRST, 16)
    zoo.prune(model, macs=target / by_hand(FIRST, SECOND), ranking=ranking, importance="l1", multiple_of=4)
    widths = model.spec.streams["main"].backbone.widths

    assert {path: sizes.get("out_channels", FIRST) for path, sizes in {"0": {}, **widths}.items()} == kept


def test_widths_go_to_the_nearest_multiple_and_no_further_than_the_target_needs(small):
    model = small()
    zoo.prune(model, macs=0.9, multiple_of=8)  # a share of 0.05 of 16 channels is less than half of 8
    widths = model.spec.streams["main"].backbone.widths
    assert widths == {"2": {"out_channels": 24}}


@pytest.mark.parametrize("which", ["small", "timm:test_resnet"])
def test_the_quick_count_is_the_exact_one_in_every_step(which, small):
    model = small() if which == "small" else build(which)
    whole, quick = macs_of(model), QuickCount(model)
    counted = []
    for ended in channel_steps(model, "l2", ranking="local", multiple_of=1, protected=False, seed=0):
        if ended:
            counted.append(quick.macs())
            assert counted[-1] == macs_of(model)
    assert len(set(counted)) > 9
    assert counted[-1] < 0.1 * whole


def with_norms(rows=96):
    """Give a model with norms, and data that lie sorted by class, far from what its norms were made for."""
    model = build("timm:test_resnet")
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"{n}", one + 3 * (2 * n // rows)) for n, one in enumerate(noise))
    data = Table(
        "made up", {"image": samples}, {"kind": Column("kind", "text", tuple("a" * (rows // 2) + "b" * (rows // 2)))}
    )
    return model, data


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_norms_are_measured_anew_on_what_is_left(importance):
    model, data = with_norms()
    first = next(layer for layer in model.backbones["main"].native.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    assert not first.running_mean.any()
    report = zoo.prune(model, macs=0.6, multiple_of=1, importance=importance, data=data)
    seen = []
    native = model.backbones["main"].native
    norm = next(one for one in native.modules() if isinstance(one, torch.nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(model.preprocess([{"image": sample} for sample in data.samples("image")]))
    values = seen[0].transpose(0, 1).flatten(1)

    assert report.norms == sum(isinstance(one, torch.nn.BatchNorm2d) for one in native.modules())
    assert len(norm.running_mean) < len(first.running_mean)
    torch.testing.assert_close(norm.running_mean, values.mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, values.var(dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_frozen_part_is_measured_too_and_stays_frozen():
    model, data = with_norms()
    model.freeze(until="s1")
    rested = model.frozen()
    zoo.prune(model, macs=0.6, multiple_of=1, data=data)
    norms = [one for one in model.backbones["main"].native.modules() if isinstance(one, torch.nn.BatchNorm2d)]

    assert model.frozen() == rested
    assert all(bool(norm.running_mean.any()) for norm in norms)


def test_a_model_that_meets_the_target_stays_and_a_smaller_target_goes_on_from_there(small):
    model = small()
    first = zoo.prune(model, macs=0.6, multiple_of=1)
    held = model.backbones["main"]
    again = zoo.prune(model, macs=0.6, multiple_of=1)
    assert model.backbones["main"] is held
    assert again.macs_before == again.macs_after == first.macs_after
    further = zoo.prune(model, macs=0.3, multiple_of=1)
    assert further.macs_whole == first.macs_whole
    assert further.macs_before == first.macs_after
    assert further.share <= 0.3


def test_a_latency_is_a_target_too(small):
    model = small()
    model.backbones["main"].eval()
    assert zoo.prune(model, latency=1e6).narrowed == 0  # met already
    with pytest.raises(ConfigError, match="latency=1e-09 cannot be reached"):
        zoo.prune(model, latency=1e-9)


@pytest.mark.parametrize(("importance", "spared"), [("taylor", True), ("l2", False)])
def test_taylor_spares_what_the_loss_depends_on_and_norms_do_not(small, importance, spared):
    model = small()
    native = model.backbones["main"].native
    with torch.no_grad():
        native[2].weight[:, :8] *= 1e-3  # the loss hardly depends on the first half, whose own weights are large
        native[0].weight[:8] *= 10
        native[0].bias[:8] *= 10
    half = {tuple(row.flatten().tolist()) for row in native[0].weight[8:].detach()}
    drawn = torch.randn(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"{n}", one) for n, one in enumerate(drawn))
    data = Table("made up", {"image": samples}, {"kind": Column("kind", "text", tuple("ab" * 10))})
    given = {"data": data} if importance == "taylor" else {}
    zoo.prune(model, macs=by_hand(9, SECOND) / by_hand(FIRST, SECOND), importance=importance, multiple_of=1, **given)
    left = {tuple(row.flatten().tolist()) for row in model.backbones["main"].native[0].weight.detach()}

    assert half.issubset(left) == spared


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_vit", "timm:test_convnext"]
)
def test_a_pruned_model_is_saved_and_loaded_with_equal_outputs(reference, tmp_path):
    model = build(reference)
    report = zoo.prune(model, macs=0.6, multiple_of=1)
    model.save(tmp_path / "small")
    loaded = zoo.load(tmp_path / "small")

    assert 0.5 < report.share <= 0.6
    assert report.narrowed > 4
    assert torch.equal(loaded(pictures(model))["kind"], model(pictures(model))["kind"])
    assert zoo.verify(tmp_path / "small", run=True).ok
    assert loaded.spec == model.spec
    assert not (tmp_path / "small/backbones/main/config.json").exists()  # timm could not build it
    manifest = json.loads((tmp_path / "small/zoo.json").read_text())
    assert (manifest["format_version"], manifest["min_reader"]) == ("1.1", "1.1")


@pytest.mark.slow
def test_a_fresh_process_without_torch_pruning_loads_it_bit_equal(tmp_path):
    for name, reference in (("cnn", "timm:test_efficientnet"), ("vit", "timm:test_vit")):
        model = build(reference)
        zoo.prune(model, macs=0.6, multiple_of=1)
        model.save(tmp_path / name)
        torch.save((pictures(model), model(pictures(model))["kind"]), tmp_path / f"{name}.pt")
    code = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "import torch, zoo\n"
        "torch.set_num_threads(1)\n"
        "for name in ('cnn', 'vit'):\n"
        "    inputs, outputs = torch.load(f'{sys.argv[1]}/{name}.pt')\n"
        "    assert torch.equal(zoo.load(f'{sys.argv[1]}/{name}')(inputs)['kind'], outputs), name\n"
        "print('equal')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.slow
def test_whole_heads_of_attention_go_and_the_residual_stream_keeps_its_width():
    model = build("timm:test_vit")
    blocks = model.backbones["main"].native.blocks
    heads, width = blocks[0].attn.num_heads, blocks[0].attn.head_dim
    with torch.no_grad():
        for block in blocks:
            block.attn.proj.weight[:, :width] = 0  # the first head gives nothing
            block.attn.qkv.weight.unflatten(0, (3, heads, width))[:, 0] = 0
            block.mlp.fc2.weight[:, ::4] = 0
            block.mlp.fc1.weight[::4] = 0
    before = model(pictures(model))["kind"]
    report = zoo.prune(model, macs=0.85, multiple_of=1)
    spec = model.spec.streams["main"].backbone

    assert report.share <= 0.85
    assert torch.allclose(model(pictures(model))["kind"], before, atol=1e-5)
    assert spec.pooled_dim == spec.token_dim == 64
    for path, sizes in spec.widths.items():
        if path.endswith(".attn"):
            assert sizes == {"num_heads": sizes["num_heads"], "attn_dim": sizes["num_heads"] * width}
            assert spec.widths[f"{path}.qkv"] == {"out_features": 3 * sizes["attn_dim"]}
            assert spec.widths[f"{path}.proj"] == {"in_features": sizes["attn_dim"]}
    assert any(path.endswith(".attn") for path in spec.widths)


@pytest.mark.slow
@pytest.mark.slow
def test_each_block_of_a_transformer_loses_the_same_where_it_is_ranked_by_itself():
    left = {}
    for ranking in ("local", "global"):
        model = build("timm:test_vit")
        with torch.no_grad():
            for number, block in enumerate(model.backbones["main"].native.blocks):
                block.mlp.fc1.weight[:: 2 + number] *= 1e-3  # the first blocks have more that does nothing
                block.mlp.fc2.weight[:, :: 2 + number] *= 1e-3
        zoo.prune(model, macs=0.8, multiple_of=1, ranking=ranking)
        left[ranking] = [block.mlp.fc1.out_features for block in model.backbones["main"].native.blocks]

    assert len(set(left["local"])) == 1
    assert left["global"] == sorted(left["global"])
    assert left["global"][0] < left["global"][-1]


@pytest.mark.slow
def test_several_heads_read_what_is_left_and_one_that_cannot_follow_keeps_the_width():
    follows = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "hidden": 8}
    number = {"type": "regression", "name": "age"}
    model = build("timm:test_resnet", follows, number)
    assert not zoo.prune(model, macs=0.6, multiple_of=1).protected
    assert model.spec.streams["main"].backbone.pooled_dim < 96
    assert set(model(pictures(model, 32))) == {"kind", "age"}

    # A matrix outside of layers (cosine) is seen by the graph; prototypes are not, and the copy cannot be rebuilt.
    for reference, head in (("timm:test_resnet", {"cosine": True}), ("timm:test_efficientnet", {"type": "prototype"})):
        kept = build(reference, {**HEAD, **head})
        width = kept.spec.streams["main"].backbone.pooled_dim
        assert zoo.prune(kept, macs=0.6, multiple_of=1).protected
        assert kept.spec.streams["main"].backbone.pooled_dim == width


@pytest.mark.slow
def test_the_pruned_backbone_goes_on_under_other_heads():
    model = build("timm:test_resnet")
    zoo.prune(model, macs=0.6, multiple_of=1)
    other = build("timm:test_resnet", {"type": "regression", "name": "age"})
    begun = zoo.build("timm:test_resnet", {"type": "regression", "name": "age"}, weights=model, seed=0)
    first, spec = model.backbones["main"], begun.spec.streams["main"].backbone

    assert spec.widths == first.spec.widths != other.spec.streams["main"].backbone.widths
    assert torch.equal(begun.backbones["main"](pictures(model)).pooled, first(pictures(model)).pooled)
    assert begun(pictures(model))["age"].shape[0] == 2


@pytest.mark.slow
def test_shared_and_several_streams_are_pruned_together():
    heads = [{**HEAD, "name": name, "stream": name} for name in ("left", "right")]
    twins = build({"left": "timm:test_resnet"}, *heads, share={"right": "left"})
    assert zoo.prune(twins, macs=0.6, multiple_of=1).share <= 0.6
    streams = twins.spec.streams
    assert streams["left"].backbone == streams["right"].backbone
    both = build({"left": "timm:test_resnet", "right": "timm:test_efficientnet"}, *heads, inputs="image")
    assert zoo.prune(both, macs=0.6, multiple_of=1).share <= 0.6
    assert all(entry.backbone.widths for entry in both.spec.streams.values())


@pytest.mark.slow
def test_a_frozen_part_stays_frozen_and_the_mode_stays():
    model = build("timm:test_resnet").freeze("s2").train()
    zoo.prune(model, macs=0.6, multiple_of=1)
    assert model.training
    assert "s2" in model.frozen()["main"]
    assert all(
        p.requires_grad == (model.backbones["main"].stage_of(name) not in model.frozen()["main"])
        for name, p in model.backbones["main"].native.named_parameters()
    )


@pytest.mark.slow
def test_a_delta_rests_on_a_bundle_of_the_same_widths_and_not_on_the_library_s_weights(tmp_path):
    model = build("timm:test_resnet")
    zoo.prune(model, macs=0.6, multiple_of=1)
    model.save(tmp_path / "base")
    other = zoo.load(tmp_path / "base")
    with torch.no_grad():
        next(other.heads["kind"].parameters()).add_(1)
    other.save(tmp_path / "delta", kind="delta", base=tmp_path / "base")
    assert torch.equal(zoo.load(tmp_path / "delta")(pictures(model))["kind"], other(pictures(model))["kind"])
    streams = {"main": replace(s := model.spec.streams["main"], backbone=replace(s.backbone, weights="somewhere"))}
    model.spec = replace(model.spec, streams=streams)
    with pytest.raises(ConfigError, match="is pruned, so it has nothing in common"):
        model.save(tmp_path / "no", kind="delta")


@pytest.mark.slow
def test_what_only_whole_backbones_can_is_refused(tmp_path):
    model = build("timm:test_resnet")
    zoo.prune(model, macs=0.6, multiple_of=1)
    with pytest.raises(ConfigError, match="a pruned backbone"):
        zoo.export(model, tmp_path / "out", layout="timm")
    with pytest.raises(ConfigError, match="its weights are in its bundle alone"):
        assemble(model.spec, weights="pretrained")
    twin = assemble(model.spec, weights=None, seed=3)
    assert twin(pictures(model, 32))["kind"].isfinite().all()


HOSTILE = {
    "huge": {"conv1": {"out_channels": 2**40}},
    "unknown": {"no.such": {"out_channels": 2}},
    "negative": {"fc": {"in_features": -3}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_in_a_bundle_is_refused(kind, tmp_path):
    from zoo.bundle.manifest import _checksum
    from zoo.bundle.plain_json import canonical

    model = build("timm:test_resnet")
    zoo.prune(model, macs=0.6, multiple_of=1)
    model.save(tmp_path / "bundle")
    path = tmp_path / "bundle/zoo.json"
    data = json.loads(path.read_text())
    data["model"]["streams"]["main"]["backbone"]["widths"] = HOSTILE[kind]
    del data["checksum"]
    path.write_bytes(canonical({**data, "checksum": _checksum(data)}))
    with pytest.raises(BundleError, match="cannot be rebuilt: timm:test_resnet"):
        zoo.load(tmp_path / "bundle")


def test_widths_are_read_strictly_and_not_written_where_there_are_none():
    whole = build("timm:test_resnet").spec
    written = to_json(whole)
    backbone = written["streams"]["main"]["backbone"]
    assert "widths" not in backbone
    assert from_json(type(whole), written) == whole
    for wrong in ({"conv1": {"out_channels": 1.5}}, {"conv1": 3}, [1], {"conv1": {"out_channels": "3"}}):
        backbone["widths"] = wrong
        with pytest.raises(ConfigError, match="widths"):
            from_json(type(whole), written)


WRONG = {
    "no target": ({}, "Give one target of macs, latency and sparsity, got none"),
    "two targets": ({"macs": 0.5, "sparsity": 0.5}, "got macs and sparsity"),
    "too much": ({"macs": 1.0}, "macs must be a share above 0 and below 1, got 1.0"),
    "no time": ({"latency": 0}, "latency must be milliseconds above 0"),
    "an importance of widths": ({"sparsity": 0.5, "importance": "l2"}, "one of l1, random for sparsity"),
    "no data": ({"macs": 0.5, "importance": "taylor"}, "pass data="),
    "data for nothing": ({"macs": 0.5, "data": "photos"}, "no norms with running statistics to measure"),
    "data for weights": ({"sparsity": 0.5, "data": "photos"}, "sparsity=… looks at no data"),
    "a ranking of its own": ({"macs": 0.5, "ranking": "layer"}, "ranking must be one of local, global, got 'layer'"),
    "half a channel": ({"macs": 0.5, "multiple_of": 0}, "multiple_of must be a whole number, 1 or more"),
    "widths of weights": ({"sparsity": 0.5, "multiple_of": 8}, "multiple_of is of widths, and sparsity=… changes none"),
    "a negative seed": ({"macs": 0.5, "seed": -1}, "seed must be a whole number, 0 or more"),
    "out of reach": ({"macs": 0.001, "multiple_of": 1}, "macs=0.001 cannot be reached"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_done_is_refused_and_the_model_stays(kind, small):
    settings, told = WRONG[kind]
    model = small()
    before = model(pictures(model))["kind"]
    with pytest.raises(ConfigError, match=told):
        zoo.prune(model, **settings)
    assert torch.equal(model(pictures(model))["kind"], before)


def test_models_that_cannot_be_narrowed_say_why(small, monkeypatch):
    model = build("timm:test_vit")
    model.add_adapters()
    with pytest.raises(ConfigError, match="has adapters"):
        zoo.prune(model, macs=0.5)
    with pytest.raises(ConfigError, match="in float32"):
        zoo.prune(small().half(), macs=0.5)
    wrapped = zoo.wrap(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), inputs=torch.randn(1, 3, 16, 16))
    with pytest.raises(ConfigError, match=r"prune it before zoo\.wrap"):
        zoo.prune(zoo.build(wrapped), macs=0.5)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(zoo.PluginError, match=r"pip install 'headzoo\[pruning\]'"):
        zoo.prune(small(), macs=0.5)

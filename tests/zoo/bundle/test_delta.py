"""Delta bundles: heads, and of the backbones what differs from their base."""

import os
import shutil

import pytest
import safetensors.torch
import torch
import transformers

import zoo
from zoo.bundle.store import Store
from zoo.errors import BundleError, ConfigError
from zoo.registry import registry

CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """Give each test a store of its own."""
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture
def first(tmp_path):
    """Save a model with all its tensors."""
    model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=CLASSES), weights=None, seed=0)
    return model, model.save(tmp_path / "first")


def run(model):
    torch.manual_seed(0)
    inputs = {}
    for entry in model.spec.streams.values():
        given = entry.backbone.inputs[0]
        inputs.setdefault(entry.input, torch.randn(2, given.channels, *given.size))
    with torch.inference_mode():
        return model(inputs)


def equal(one, other):
    ours, theirs = run(one), run(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def tensors_in(bundle, file="backbones/main/delta.safetensors"):
    return safetensors.torch.load_file(bundle / file) if (bundle / file).exists() else {}


PET = {"type": "classifier", "name": "pet", "classes": CLASSES}
INNER = {"type": "classifier", "classes": CLASSES}
BOTH = {"a": "timm:test_resnet", "b": "timm:test_vit"}
HEADS = {
    "classifier": ("timm:test_resnet", PET),
    "cosine": ("timm:test_resnet", {**PET, "cosine": True, "hidden": 8}),
    "several labels": ("timm:test_resnet", {**PET, "multi_label": True}),
    "regression": ("timm:test_resnet", {"type": "regression", "name": "age"}),
    "ordinal": ("timm:test_resnet", {"type": "ordinal", "name": "size", "classes": ["s", "m", "l"]}),
    "embedding": ("timm:test_resnet", {"type": "embedding", "name": "who", "classes": CLASSES, "dim": 8}),
    "prototype": ("timm:test_resnet", {"type": "prototype", "name": "who", "classes": CLASSES}),
    "tip_adapter": ("timm:test_resnet", {"type": "tip_adapter", "name": "who", "classes": CLASSES, "shots": 2}),
    "segmentation": ("timm:test_resnet", {"type": "segmentation", "name": "map", "classes": CLASSES}),
    "attention_pool": ("timm:test_vit", {"type": "attention_pool", "name": "pet", "classes": CLASSES, "heads": 2}),
    "multi_task": (
        "timm:test_resnet",
        {"type": "multi_task", "name": "all", "balance": "uncertainty", "heads": [PET, {**PET, "name": "coat"}]},
    ),
    "two_stream": (BOTH, {"type": "two_stream", "name": "pet", "head": INNER}),
    "feature_fusion": (BOTH, {"type": "feature_fusion", "name": "pet", "method": "gated", "head": INNER}),
    "zero_shot": ("hf:clip#vision", {"type": "zero_shot", "name": "kind", "classes": CLASSES, "dim": 16}),
}


def test_every_head_that_ships_is_tried():
    ours = {name for name, plugin in registry().names("heads").items() if plugin.distribution == "headzoo"}
    assert ours == {head["type"] for _, head in HEADS.values()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_each_head_comes_back_with_equal_outputs_and_none_of_the_backbone(tmp_path, kind):
    backbone, head = HEADS[kind]
    if kind == "zero_shot":
        part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
        vision = {**part, "image_size": 32, "patch_size": 8}
        transformers.CLIPConfig(text_config=part, vision_config=vision, projection_dim=16).save_pretrained(tmp_path)
        backbone = f"hf:{tmp_path}#vision"
    base = zoo.build(backbone, [], weights=None, seed=0)
    model = zoo.build(backbone, head, weights=None, seed=0)
    bundle = model.save(tmp_path / "task", kind="delta", base=base)

    assert not list((bundle / "backbones").rglob("*.safetensors"))  # one seed gives the same weights, whatever the head
    loaded = zoo.load(bundle)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())
    assert equal(loaded, model)
    assert zoo.verify(bundle, run=True).ok


def test_drifted_statistics_and_trained_stages_are_kept_and_nothing_else(first, tmp_path):
    model = zoo.load(first[1])
    native = model.backbones["main"].native
    norm = next(m for m in native.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_mean.add_(1)
    with torch.no_grad():
        native.layer4[0].conv1.weight.mul_(1.5)
    bundle = model.save(tmp_path / "task", kind="delta", base=first[1])

    before = zoo.load(first[1]).backbones["main"].native.state_dict()
    changed = {name for name, tensor in native.state_dict().items() if not torch.equal(tensor, before[name])}
    assert len(changed) == 2
    assert tensors_in(bundle).keys() == changed
    loaded = zoo.load(bundle)
    assert equal(loaded, model)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_what_one_delta_changes_no_other_sees(first, tmp_path):
    bundles = [first[0].save(tmp_path / f"task{n}", kind="delta", base=first[1]) for n in range(2)]
    one, other = (zoo.load(bundle) for bundle in bundles)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)  # the tensors are mapped from one file

    assert equal(other, first[0])
    assert equal(zoo.load(bundles[0]), first[0])


@pytest.mark.slow
def test_a_delta_is_as_small_as_its_heads_and_the_store_has_the_base_once(first, tmp_path, store):
    whole = sum(f.stat().st_size for f in first[1].rglob("*.safetensors"))
    for number in range(20):
        model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=CLASSES), weights=None, seed=0)
        torch.nn.init.normal_(model.heads["classifier"].layers[0].weight, generator=torch.manual_seed(number))
        model.save(tmp_path / f"task{number}", kind="delta", base=first[1])

    tasks = sum(f.stat().st_size for n in range(20) for f in (tmp_path / f"task{n}").rglob("*.safetensors"))
    [stored] = store.entries()
    assert tasks < 0.1 * whole
    assert len(stored.bundles) == 20
    assert len([f for f in (store.root / "blobs").rglob("*") if f.is_file()]) == 1


@pytest.mark.slow
def test_the_base_is_found_in_the_store_or_where_it_was_or_where_it_is_said_to_be(first, tmp_path, store):
    model, base = first
    bundle = model.save(tmp_path / "task", kind="delta", base=base)
    assert equal(zoo.load(bundle), model)
    shutil.rmtree(store.root)
    assert equal(zoo.load(bundle), model)
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(BundleError, match=r"is based on, timm:test_resnet.* zoo store add"):
        zoo.load(bundle)
    assert equal(zoo.load(bundle, base=moved), model)
    assert equal(zoo.load(bundle, base=model), model)
    assert not zoo.verify(bundle).ok


def test_another_base_is_refused_wherever_it_stands(first, tmp_path, store):
    model, base = first
    bundle = model.save(tmp_path / "task", kind="delta", base=base)
    other = zoo.build("timm:test_resnet", zoo.head("classifier", classes=CLASSES), weights=None, seed=1)
    with pytest.raises(BundleError, match="is not what the stream 'main' is based on"):
        zoo.load(bundle, base=other)
    shutil.rmtree(store.root)
    other.save(base, overwrite=True)
    with pytest.raises(BundleError, match="needs what its stream 'main' is based on"):
        zoo.load(bundle)


def test_a_flipped_bit_in_the_store_is_found(first, tmp_path, store):
    bundle = first[0].save(tmp_path / "task", kind="delta", base=first[0])
    [blob] = [f for f in (store.root / "blobs").rglob("*") if f.is_file()]
    assert blob.stat().st_mode & 0o777 == 0o444
    data = bytearray(blob.read_bytes())
    data[-3] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)

    with pytest.raises(BundleError, match="damaged"):
        zoo.load(bundle)
    assert [problem for problem in store.verify() if "damaged" in problem]


@pytest.mark.slow
def test_layouts_ties_and_cut_backbones_survive(first, tmp_path):
    model = zoo.build("timm:test_resnet", zoo.head("segmentation", classes=CLASSES), weights=None, seed=0)
    model.backbones["main"].to(memory_format=torch.channels_last)
    loaded = zoo.load(model.save(tmp_path / "task", kind="delta", base=first[0]))

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
        assert tensor.stride() == loaded.state_dict()[name].stride()


@pytest.mark.slow
def test_a_stream_without_a_base_is_kept_whole(first, tmp_path):
    one = zoo.head("classifier", name="a", classes=CLASSES, stream="main")
    model = zoo.build({"main": "timm:test_resnet", "vit": "timm:test_vit"}, one, weights=None, seed=0)
    bundle = model.save(tmp_path / "task", kind="delta", base=first[0])

    assert (bundle / "backbones/vit/model.safetensors").is_file()
    assert not (bundle / "backbones/main/model.safetensors").exists()
    loaded = zoo.load(bundle)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_what_cannot_be_a_base_is_said(first, tmp_path):
    model = first[0]
    with pytest.raises(ConfigError, match=r"random weights.* base='bundles/first'"):
        model.save(tmp_path / "task", kind="delta")
    with pytest.raises(ConfigError, match="base is for bundles"):
        model.save(tmp_path / "task", base=model)
    with pytest.raises(ConfigError, match="'full' or 'delta'"):
        model.save(tmp_path / "task", kind="small")
    others = {"x": "timm:test_resnet", "y": "timm:test_vit"}
    head = zoo.head("classifier", classes=CLASSES, stream="x")
    other = zoo.build(others, head, weights=None)
    with pytest.raises(ConfigError, match="streams x, y"):
        model.save(tmp_path / "task", kind="delta", base=other)
    assert not (tmp_path / "task").exists()


@pytest.mark.slow
def test_a_base_that_leads_to_itself_ends(first, tmp_path, store):
    model, base = first
    bundle = model.save(tmp_path / "task", kind="delta", base=base)
    again = zoo.load(bundle).save(tmp_path / "second", kind="delta", base=bundle)
    assert equal(zoo.load(again), model)
    shutil.rmtree(store.root)
    shutil.rmtree(bundle)
    shutil.copytree(again, bundle)  # its base is said to be in this very folder
    with pytest.raises(BundleError, match="needs what its stream"):
        zoo.load(bundle)


@pytest.mark.slow
def test_another_task_on_a_loaded_backbone_reads_its_heads_alone(first, tmp_path):
    base = first[1]
    model = zoo.load(base)
    heads = zoo.head("classifier", name="other", classes=["x", "y", "z"])
    task = zoo.build("timm:test_resnet", heads, weights=None, seed=0)
    whole, delta = task.save(tmp_path / "whole"), task.save(tmp_path / "delta", kind="delta", base=base)
    for bundle in (whole, delta):
        for file in (bundle / "backbones").rglob("*.safetensors"):
            file.unlink()  # not even opened
        switched = zoo.load(bundle, sharing=model)
        assert switched.backbones["main"] is model.backbones["main"]
        assert equal(switched, task)


def test_a_backbone_that_changed_since_is_not_shared(first, tmp_path):
    base = first[1]
    model = zoo.load(base)
    assert zoo.load(base, sharing=model).backbones["main"] is model.backbones["main"]
    with torch.no_grad():
        next(model.backbones["main"].parameters()).add_(1)

    loaded = zoo.load(base, sharing=model)
    assert loaded.backbones["main"] is not model.backbones["main"]
    assert equal(loaded, first[0])


def test_a_failed_save_leaves_the_old_bundle(first, tmp_path, monkeypatch):
    model, base = first
    bundle = model.save(tmp_path / "task", kind="delta", base=base)
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BundleError):
        model.save(bundle, kind="delta", base=base, overwrite=True)

    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before

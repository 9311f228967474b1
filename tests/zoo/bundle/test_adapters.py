"""Adapters in a bundle: in PEFT's own form, loaded bit for bit, and refused where a stranger spoilt them."""

import json
import shutil
import sys

import peft
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from zoo.bundle.hashing import digest_of
from zoo.errors import BundleError, ConfigError, PluginError

HEAD = zoo.head("classifier", name="pet", classes=["cat", "dog"])
CONFIG, TENSORS = "adapters/lora/adapter_config.json", "adapters/lora/adapter_model.safetensors"
VIT = transformers.ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Give each test a store of its own, one thread, and a transformers that writes no bars."""
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
    torch.set_num_threads(threads)


def learnt(reference="timm:test_vit", tmp_path=None, **settings):
    """Build a model with an adapter that has learnt something."""
    torch.manual_seed(0)
    if reference == "hf:vit":
        transformers.AutoModel.from_config(VIT).save_pretrained(tmp_path / "source")
        model = zoo.build(f"hf:{tmp_path}/source", HEAD).eval()
    else:
        model = zoo.build(reference, HEAD, weights=None, seed=0).eval()
    [adapter] = model.add_adapters(**{"rank": 3, "alpha": 5, **settings})
    for name, parameter in adapter.parts.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def pictures(model):
    entry = model.spec.streams["main"].backbone.inputs[0]
    return torch.rand(2, entry.channels, *entry.size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(model, batch=None):
    return model(pictures(model) if batch is None else batch)["pet"]


@torch.no_grad()
def pooled(model):
    return model.features(pictures(model))["main"].pooled


# --- what is saved comes back


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["timm:test_vit", "timm:test_resnet", "torchvision:resnet18", "hf:vit"])
def test_a_model_with_adapters_comes_back_bit_for_bit(tmp_path, reference):
    model = learnt(reference, tmp_path, dropout=0.25)
    path = model.save(tmp_path / "bundle")

    loaded = zoo.load(path)

    assert torch.equal(run(loaded), run(model))
    assert [adapter.spec for adapter in loaded.adapters] == [adapter.spec for adapter in model.adapters]
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert zoo.verify(path, run=True).ok


@pytest.mark.slow
def test_the_backbones_own_file_is_that_of_a_model_without_adapters(tmp_path):
    model = learnt()
    adapted = model.save(tmp_path / "adapted")
    model.remove_adapters()
    plain = model.save(tmp_path / "plain")

    files = [(path / "backbones/main/model.safetensors").read_bytes() for path in (adapted, plain)]
    assert files[0] == files[1]
    assert not (plain / "adapters").exists()


@pytest.mark.slow
def test_a_delta_bundle_has_adapters_and_heads_alone(tmp_path):
    model = learnt()
    other = zoo.build("timm:test_vit", HEAD, weights=None, seed=0)
    other.save(tmp_path / "base")

    path = model.save(tmp_path / "delta", kind="delta", base=tmp_path / "base")

    held = {str(file.relative_to(path)) for file in path.rglob("*.safetensors")}
    assert held == {TENSORS, "heads/pet/model.safetensors"}
    assert torch.equal(run(zoo.load(path)), run(model))
    assert zoo.verify(path, run=True).ok


@pytest.mark.slow
def test_layouts_dtypes_and_merged_models_come_back_too(tmp_path):
    model = learnt("timm:test_resnet").to(memory_format=torch.channels_last)
    laid = zoo.load(model.save(tmp_path / "laid"))
    strides = [[p.stride() for p in one.adapters[0].parameters()] for one in (model, laid)]
    assert strides[0] == strides[1]
    half = zoo.load(learnt().bfloat16().save(tmp_path / "half", probe=False))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}

    model.merge_adapters()
    merged = zoo.load(model.save(tmp_path / "merged"))

    assert merged.adapters == []
    assert torch.equal(run(merged), run(model))


def test_a_bundle_of_a_users_own_module_keeps_adapters(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))

    torch.manual_seed(0)
    model = zoo.build(zoo.wrap(make(), inputs=torch.zeros(1, 3, 24, 24)), HEAD).eval()
    model.add_adapters(rank=2)
    nn.init.ones_(model.adapters[0].parts.get_submodule("2").lora_B.weight)
    path = model.save(tmp_path / "own")
    batch = torch.rand(2, 3, 24, 24)

    assert torch.equal(run(zoo.load(path, modules={"main": make}), batch), run(model, batch))


@pytest.mark.slow
def test_it_is_told_by_inspect_diff_verify_and_the_card(tmp_path):
    model = learnt()
    path = model.save(tmp_path / "adapted")
    model.remove_adapters()
    plain = model.save(tmp_path / "plain")

    [told] = zoo.inspect(path).adapters
    assert (told["name"], told["stream"], told["rank"], told["alpha"]) == ("lora", "main", 3, 5.0)
    assert "adapters/lora" in zoo.verify(path).components
    assert "| lora | main | LoRA | 3 | 5 | 12 |" in (path / "README.md").read_text()
    found = zoo.diff(plain, path)
    assert [change.path for change in found.spec] == ["adapters.lora"]
    rows = [row for row in found.tensors if not row.same]
    assert {row.part for row in rows} == {"adapters/lora"}
    assert sum(row.added for row in rows) == 24
    assert {"s2", "s3", "s4"} <= {row.stage for row in rows}


@pytest.mark.slow
def test_the_commands_tell_of_it(tmp_path, capsys):
    from zoo.cli import main

    path = str(learnt().save(tmp_path / "adapted"))

    assert main(["inspect", path]) == 0
    assert "lora on main, rank 3" in capsys.readouterr().out
    assert main(["info", path]) == 0
    assert "with the adapter lora of rank 3" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_other_scales_and_other_tensors_are_told_apart_by_diff(tmp_path):
    first, second = learnt(), learnt(alpha=6)
    with torch.no_grad():
        second.adapters[0].parts.get_submodule("blocks.0.attn.qkv").lora_A.weight.add_(1)
    found = zoo.diff(first.save(tmp_path / "a"), second.save(tmp_path / "b"))

    assert [(change.path, change.before, change.after) for change in found.spec] == [("adapters.lora.alpha", 5.0, 6.0)]
    assert [(row.part, row.changed) for row in found.tensors if not row.same] == [("adapters/lora", 1)]


# --- PEFT itself


def native_of(reference, path):
    """Load the folder of a backbone with its own library alone; torchvision has no folders."""
    folder = path / "backbones/main"
    if reference.startswith("timm:"):
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if reference.startswith("hf:"):
        return transformers.AutoModel.from_pretrained(folder).eval()
    native = torchvision.models.get_model(reference.partition(":")[2])
    native.fc = nn.Identity()
    native.load_state_dict(load_file(folder / "model.safetensors"))
    return native.eval()


def alone_pooled(native, batch):
    given = native(batch)
    return given if isinstance(given, torch.Tensor) else given.last_hidden_state[:, 0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("reference", ["timm:test_vit", "timm:test_resnet", "torchvision:resnet18", "hf:vit"])
def test_peft_loads_the_folder_on_the_librarys_own_backbone_to_equal_outputs(tmp_path, reference):
    model = learnt(reference, tmp_path)
    path = model.save(tmp_path / "bundle")
    native = native_of(reference, path)
    with torch.no_grad():
        before = alone_pooled(native, pictures(model))

    adapted = peft.PeftModel.from_pretrained(native, path / "adapters/lora").eval()

    with torch.no_grad():
        given = alone_pooled(adapted.base_model.model, pictures(model))
    assert torch.equal(given, pooled(model))
    assert not torch.equal(given, before)
    layers = {name for name, module in adapted.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert layers == set(model.adapters[0].spec.targets)


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "targets"), [("timm:test_vit", "attention"), ("torchvision:resnet18", "conv1")])
def test_the_files_are_those_that_peft_writes(tmp_path, reference, targets):
    model = learnt(reference, targets=targets)
    path = model.save(tmp_path / "bundle")
    theirs = peft.PeftModel.from_pretrained(native_of(reference, path), path / "adapters/lora")
    theirs.save_pretrained(tmp_path / "theirs")

    ours = load_file(path / TENSORS)
    others = load_file(tmp_path / "theirs/adapter_model.safetensors")
    assert ours.keys() == others.keys()
    assert all(torch.equal(others[name], tensor) for name, tensor in ours.items())
    one, two = (json.loads(file.read_text()) for file in (path / CONFIG, tmp_path / "theirs/adapter_config.json"))
    for told in (one, two):
        del told["auto_mapping"]  # the class of the backbone, by which PEFT finds no more than we have
        told["target_modules"] = sorted(told["target_modules"])
    assert one == two


@pytest.mark.slow
def test_layers_whose_path_is_the_end_of_another_are_found_by_peft_alone(tmp_path):
    """PEFT takes ``conv1`` for the end of ``layer1.0.conv1`` as well."""
    model = learnt("torchvision:resnet18", targets="conv1", stages=["stem"])
    path = model.save(tmp_path / "bundle")

    adapted = peft.PeftModel.from_pretrained(native_of("torchvision:resnet18", path), path / "adapters/lora")

    assert [n for n, m in adapted.base_model.model.named_modules() if hasattr(m, "lora_A")] == ["conv1"]


# --- what is refused


def sealed(bundle, change=lambda data: None):
    """Edit a manifest, and seal it again with sizes and digests of the files as they are now."""
    from zoo.bundle.manifest import _checksum
    from zoo.bundle.plain_json import canonical

    data = json.loads((bundle / "zoo.json").read_bytes())
    data.pop("checksum")
    change(data)
    for name, entry in data["files"].items():
        content = (bundle / name).read_bytes()
        entry.update(size=len(content), blake3=digest_of(content))
    (bundle / "zoo.json").write_bytes(canonical({**data, "checksum": _checksum(data)}))


def said(**changes):
    return lambda bundle: sealed(bundle, lambda data: data["adapters"][0].update(changes))


def configured(**changes):
    def attack(bundle):
        told = json.loads((bundle / CONFIG).read_text())
        (bundle / CONFIG).write_text(json.dumps({**told, **changes}))
        sealed(bundle)

    return attack


def tensors(change):
    def attack(bundle):
        held = load_file(bundle / TENSORS)
        save_file(change(held), bundle / TENSORS)
        sealed(bundle)

    return attack


def without_first(held):
    return {name: held[name] for name in sorted(held)[1:]}


def renamed(held):
    return {name.replace("blocks.0", "blocks.9"): tensor for name, tensor in held.items()}


def listed(name, content=b"{}"):
    def attack(bundle):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(content)
        sealed(bundle, lambda data: data["files"].update({name: {"size": 0, "blake3": "0" * 64}}))

    return attack


def twice(bundle):
    sealed(bundle, lambda data: data.update(adapters=data["adapters"] * 2))


def unsaid(bundle):
    sealed(bundle, lambda data: data.update(adapters=[]))


ATTACKS = {
    "a huge rank": said(rank=2**31),
    "rank 0": said(rank=0),
    "no number for alpha": said(alpha="5"),
    "a negative alpha": said(alpha=-1.0),
    "a dropout of 1": said(dropout=1.0),
    "another rank": said(rank=4),
    "another type": said(type="lora_ga"),
    "a layer that is not there": said(targets=["blocks.0.attn.nothing"]),
    "a layer that is no layer": said(targets=["blocks.0.norm1"]),
    "an expression for a layer": said(targets=["(a+)+$"]),
    "layers out of order": said(targets=["blocks.1.attn.qkv", "blocks.0.attn.qkv"]),
    "another stream": said(stream="other"),
    "a path outside": said(path="../lora"),
    "a name that is a path": said(name="../lora", path="adapters/../lora"),
    "a name of control characters": said(name="\x1b[31m"),
    "a long version": said(peft="1" * 1000),
    "an unknown key": said(auto_map={"x": "y"}),
    "one said twice": twice,
    "one that is not said": unsaid,
    "more files": listed("adapters/lora/more.json"),
    "a second folder": listed("adapters/evil/adapter_config.json"),
    "auto_mapping": configured(auto_mapping={"base_model_class": "X", "parent_library": "os"}),
    "a base on the hub": configured(base_model_name_or_path="evil/repo"),
    "another peft_type": configured(peft_type="XLORA"),
    "modules_to_save": configured(modules_to_save=["norm"]),
    "layer_replication": configured(layer_replication=[[0, 1000000]]),
    "a variant": configured(use_dora=True),
    "an expression that never ends": configured(target_modules="(a+)+$"),
    "loftq": configured(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
    "a module for megatron": configured(megatron_config={"x": 1}, megatron_core="os"),
    "a config with another rank": configured(r=4),
    "a config that is no object": lambda bundle: ((bundle / CONFIG).write_text("[]"), sealed(bundle)),
    "a config that is no JSON": lambda bundle: ((bundle / CONFIG).write_text("{"), sealed(bundle)),
    "a tensor less": tensors(without_first),
    "a tensor more": tensors(lambda held: {**held, "base_model.model.evil": torch.zeros(1)}),
    "tensors for other layers": tensors(renamed),
    "tensors of another shape": tensors(lambda held: {name: tensor[:1].clone() for name, tensor in held.items()}),
    "whole numbers": tensors(lambda held: {name: tensor.long() for name, tensor in held.items()}),
    "no tensors at all": lambda bundle: ((bundle / TENSORS).write_bytes(b"\x80\x04evil"), sealed(bundle)),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return learnt().save(tmp_path_factory.mktemp("honest") / "bundle")


@pytest.mark.parametrize("name", ATTACKS)
def test_a_spoilt_adapter_is_refused_before_peft_hears_of_it(honest, tmp_path, monkeypatch, name):
    from zoo.adapters import layers

    bundle = tmp_path / "spoilt"
    shutil.copytree(honest, bundle)
    ATTACKS[name](bundle)
    injected = []
    monkeypatch.setattr(peft, "inject_adapter_in_model", lambda *args, **more: injected.append(args))
    monkeypatch.setattr(layers, "Adapter", None)

    with pytest.raises(BundleError) as caught:
        zoo.load(bundle)

    assert injected == []
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["auto_mapping", "a variant", "one that is not said", "rank 0", "another rank"])
def test_verify_finds_what_a_load_refuses(honest, tmp_path, name):
    bundle = tmp_path / "spoilt"
    shutil.copytree(honest, bundle)
    ATTACKS[name](bundle)

    assert zoo.verify(bundle).problems


def test_other_tensors_than_the_manifest_says_are_found_by_verify(honest, tmp_path):
    bundle = tmp_path / "spoilt"
    shutil.copytree(honest, bundle)
    tensors(lambda held: {name: tensor + 1 for name, tensor in held.items()})(bundle)

    assert any("adapters/lora are not those that were saved" in problem for problem in zoo.verify(bundle).problems)


def test_without_peft_a_load_says_what_to_install_and_other_bundles_load(honest, tmp_path, monkeypatch):
    from zoo.adapters.peft_form import import_peft

    plain = zoo.build("timm:test_vit", HEAD, weights=None).save(tmp_path / "plain")
    import_peft.cache_clear()
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(PluginError, match=r"pip install 'headzoo\[lora\]'"):
        zoo.load(honest)
    assert zoo.load(plain).adapters == []
    assert zoo.verify(honest).ok
    import_peft.cache_clear()


# --- beside others


@pytest.mark.slow
def test_a_backbone_is_not_taken_over_where_adapters_make_it_another(tmp_path):
    model = learnt()
    path = model.save(tmp_path / "adapted")
    model.remove_adapters()
    plain = model.save(tmp_path / "plain")
    adapted, without = zoo.load(path), zoo.load(plain)

    assert torch.equal(run(zoo.load(path, sharing=without)), run(adapted))
    assert torch.equal(run(zoo.load(plain, sharing=adapted)), run(without))
    assert zoo.load(plain, sharing=without).backbones["main"] is without.backbones["main"]


@pytest.mark.slow
def test_an_ensemble_of_adapted_members_runs_and_comes_back(tmp_path):
    first, second = learnt(), learnt(alpha=9)
    ensemble = zoo.ensemble({"a": first, "b": second})
    expected = (run(first).softmax(1) + run(second).softmax(1)) / 2

    with torch.no_grad():
        assert torch.allclose(ensemble(pictures(first))["pet"].softmax(1), expected, atol=1e-6)
        loaded = zoo.load(ensemble.save(tmp_path / "both"))
        assert torch.equal(loaded(pictures(first))["pet"], ensemble(pictures(first))["pet"])


def test_a_soup_refuses_adapters_with_the_reason():
    with pytest.raises(ConfigError, match=r"The adapters of .* cannot be averaged"):
        zoo.soup([learnt(), learnt()])


@pytest.mark.slow
def test_an_export_has_the_adapters_merged_and_leaves_the_model_as_it_is(tmp_path):
    model = learnt()
    zoo.export(model, tmp_path / "flat", layout="timm")
    alone = timm.create_model(f"local-dir:{tmp_path}/flat", pretrained=True).eval()

    with torch.no_grad():
        torch.testing.assert_close(alone(pictures(model)), run(model), rtol=1e-4, atol=1e-5)
    assert len(model.adapters) == 1

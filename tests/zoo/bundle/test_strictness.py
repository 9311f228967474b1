"""Weights that are not exactly the model's are refused, though every digest of the bundle is right.

A model may be of any floating dtype, and each of its tensors of its own; so a bundle whose one tensor was recast to
another floating dtype, and sealed again to the last digest, is the bundle of that model, and loads as exactly that.
"""

import json
import os

import pytest
import torch

import zoo
from zoo.bundle.digest import state_digest
from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import _checksum
from zoo.bundle.plain_json import canonical
from zoo.bundle.tensors import decode, encode
from zoo.errors import BundleError


def resealed(bundle, file, tensors, *, whole=True):
    """Write other tensors, with sizes, digests of files and checksum made right again; the state digest if whole."""
    data = encode({key: tensor.contiguous() for key, tensor in tensors.items()})
    (bundle / file).write_bytes(data)
    manifest = json.loads((bundle / "zoo.json").read_bytes())
    manifest.pop("checksum")
    manifest["files"][file] = {"size": len(data), "blake3": digest_of(data)}
    part = next(part for part in manifest["components"] if file.startswith(part["path"] + "/"))
    if whole and file.endswith("/model.safetensors"):
        part["state_digest"] = state_digest(tensors)
    (bundle / "zoo.json").write_bytes(canonical({**manifest, "checksum": _checksum(manifest)}))


def recast(tensor):
    """Give the tensor in every dtype that holds as many bytes or its values, but its own."""
    others = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn)
    return [tensor.to(dtype) for dtype in (torch.float32, *others) if dtype != tensor.dtype]


def reshaped(tensor):
    """Give the tensor's numbers in other shapes, and parts of them."""
    shapes = [tensor[None], tensor.reshape(-1, 1), torch.cat([tensor.reshape(-1)] * 2)]
    shapes += [tensor.reshape(-1)[:-1]] if tensor.numel() else []
    shapes += [tensor.reshape(-1)] if tensor.ndim != 1 else [tensor[:0]]
    shapes += [tensor.transpose(0, 1)] if tensor.ndim > 1 and tensor.shape[0] != tensor.shape[1] else []
    return [other for other in shapes if other.shape != tensor.shape]


def changes(tensors, key):
    """Give every change of one key: deleted, renamed in four ways, reshaped, recast, said twice."""
    rest = {name: tensor for name, tensor in tensors.items() if name != key}
    yield "deleted", rest
    for name in (
        key + "_",
        key.upper() if key.upper() != key else key + "x",
        "native." + key,
        key.replace(".", "..", 1),
    ):
        if name not in tensors:
            yield f"renamed to {name}", {**rest, name: tensors[key]}
            yield f"also called {name}", {**tensors, name: tensors[key].clone()}
    for other in reshaped(tensors[key]):
        yield f"of shape {tuple(other.shape)}", {**rest, key: other}
    for other in recast(tensors[key]):
        yield f"of dtype {other.dtype}", {**rest, key: other}


def loads_as(bundle, file, changed):
    """Say whether a bundle loads; if it does, its model must have the very tensors of the file."""
    try:
        model = zoo.load(bundle)
    except BundleError:
        return False
    folder, part, kind = file.split("/")
    module = model.backbones[part] if folder == "backbones" else model.heads[part]
    state = (module.native if kind == "model.safetensors" and folder == "backbones" else module).state_dict()
    for key, tensor in changed.items():
        assert state[key].dtype == tensor.dtype
        assert torch.equal(state[key], tensor)
    return True


def check_every_change(bundle, most=None):
    """Try all changes of all keys of all files; give how many there were, and those that loaded, but for floats."""
    manifest = (bundle / "zoo.json").read_bytes()
    count, accepted = 0, []
    for file in sorted(bundle.rglob("*.safetensors")):
        name, good = str(file.relative_to(bundle)), file.read_bytes()
        tensors = decode(good, name)
        for key in list(tensors)[:: max(1, len(tensors) // most) if most else 1]:
            for what, changed in changes(tensors, key):
                count += 1
                resealed(bundle, name, changed)
                floats = "of dtype" in what and changed[key].is_floating_point() and tensors[key].is_floating_point()
                if loads_as(bundle, name, changed) and not floats:
                    accepted.append((name, key, what))
                if name.endswith("/model.safetensors"):
                    (bundle / "zoo.json").write_bytes(manifest)
                    resealed(bundle, name, changed, whole=False)
                    assert "state digest differs" in zoo.verify(bundle).problems[0]
                (bundle / "zoo.json").write_bytes(manifest)
        file.write_bytes(good)
    zoo.load(bundle)
    return count, accepted


def test_the_sealing_is_right(bundle):
    file = "heads/pet/model.safetensors"
    tensors = decode((bundle / file).read_bytes(), file)
    resealed(bundle, file, {key: tensor + 1 for key, tensor in tensors.items()})

    back = zoo.load(bundle)

    assert zoo.verify(bundle).ok
    assert torch.equal(back.heads["pet"].state_dict()["layers.0.bias"], tensors["layers.0.bias"] + 1)


@pytest.mark.slow
def test_every_change_of_every_key_of_a_tiny_bundle_is_refused(make, tmp_path):
    count, accepted = check_every_change(make.tiny(own=True).save(tmp_path / "bundle"))

    assert count > 100
    assert accepted == []


@pytest.mark.slow
def test_every_change_of_some_keys_of_a_real_one_is_refused(tmp_path):
    """With batch norm: buffers, and a counter that is a whole number of rank 0."""
    model = zoo.build("timm:test_resnet", zoo.head("classifier", name="pet", classes=["a", "b"]), weights=None)
    count, accepted = check_every_change(model.save(tmp_path / "bundle"), most=6)

    assert count > 100
    assert accepted == []


@pytest.mark.soak
@pytest.mark.parametrize(("name", "most"), [("test_resnet", 20), ("test_vit", None)])
def test_every_change_of_every_key_is_refused(tmp_path, name, most):
    model = zoo.build(f"timm:{name}", zoo.head("classifier", name="pet", classes=["a", "b"]), weights=None)
    count, accepted = check_every_change(model.save(tmp_path / "bundle"), most=most)

    assert count > 300
    assert accepted == []


def test_nan_in_weights_is_loaded_as_what_it_is(bundle):
    """A bundle keeps what a model is; whether its numbers are any good is for the probe and for evaluation to say."""
    file = "heads/pet/model.safetensors"
    tensors = decode((bundle / file).read_bytes(), file)
    resealed(bundle, file, {key: torch.full_like(tensor, float("nan")) for key, tensor in tensors.items()})

    back = zoo.load(bundle)

    assert all(torch.isnan(tensor).all() for tensor in back.heads["pet"].state_dict().values())
    assert zoo.verify(bundle).ok
    assert "another output" in zoo.verify(bundle, run=True).problems[0]


@pytest.mark.parametrize("what", ["edited", "cut", "deleted", "replaced", "grown"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_happens_to_a_file_after_a_load_touches_no_tensor(bundle, what, times):
    old = 1_600_000_000_000_000_000
    for file in bundle.rglob("*"):
        os.utime(file, ns=(old, old))
    for _ in range(times):  # a later load may know the files already
        model = zoo.load(bundle)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batch = torch.ones(1, 1, 8, 8)
    outputs = model(batch)["pet"]

    for file in [path for path in bundle.rglob("*") if path.is_file()]:
        size = file.stat().st_size
        if what == "edited":
            with open(file, "r+b") as handle:
                handle.write(b"\xff" * size)
        elif what == "cut":
            os.truncate(file, 0)
        elif what == "deleted":
            file.unlink()
        elif what == "replaced":
            file.unlink()
            file.write_bytes(b"\0" * size)
        else:
            os.truncate(file, size + 10_000_000)

    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(model(batch)["pet"], outputs)
    with pytest.raises(BundleError):
        zoo.load(bundle)


def test_a_loaded_model_may_be_trained_and_its_bundle_stays_as_it_is(bundle):
    before = {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    model = zoo.load(bundle)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)

    assert {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()} == before
    assert not torch.equal(next(zoo.load(bundle).parameters()), next(model.parameters()))


def test_a_loaded_model_is_in_eval_mode_and_grad_mode_is_as_it_was(bundle):
    assert torch.is_grad_enabled()
    model = zoo.load(bundle)

    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.is_inference() for parameter in model.parameters())
    model(torch.ones(1, 1, 8, 8))["pet"].sum().backward()


def test_buffers_of_a_frozen_batch_norm_that_moved_are_the_bundle_s(tmp_path):
    """Frozen weights alone do not keep batch norm at rest; a full bundle has its buffers, whatever they became."""
    model = zoo.build("timm:test_resnet", zoo.head("classifier", name="pet", classes=["a", "b"]), weights=None, seed=1)
    for parameter in model.backbones.parameters():
        parameter.requires_grad_(False)
    fresh = {key: tensor.clone() for key, tensor in model.backbones.state_dict().items()}
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(torch.randn(4, 3, 160, 160, generator=torch.Generator().manual_seed(seed)) * 5)
    model.eval()
    batch = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        outputs = model(batch)["pet"].clone()

    back = zoo.load(model.save(tmp_path / "bundle"))

    assert any(not torch.equal(tensor, fresh[key]) for key, tensor in model.backbones.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(back(batch)["pet"], outputs)

"""What methods keep in a model from one run to the next: its files, and what of them is refused."""

import json
import math

import pytest
import torch

import zoo
from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import _checksum
from zoo.bundle.plain_json import canonical
from zoo.errors import BundleError

TREE, TENSORS = "state/mine/state.json", "state/mine/state.safetensors"


@pytest.fixture(scope="module")
def built():
    return zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)


def state():
    return {
        "count": 3,
        "share": 0.5,
        "beyond": math.inf,
        "known": True,
        "none": None,
        "text": "ä",
        "pair": (1, [torch.arange(6, dtype=torch.uint8).reshape(2, 3)]),
        "by": {"a.b/c": torch.tensor(2.5), 7: torch.zeros(0, 3)},
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


@pytest.fixture
def bundle(built, tmp_path):
    built.state = {"mine": state(), "plain": {"tasks": 1}}
    path = zoo.save(built, tmp_path / "bundle", probe=False)
    built.state = {}
    return path


def sealed(bundle, change=lambda files: None):
    data = json.loads((bundle / "zoo.json").read_bytes())
    data.pop("checksum")
    change(data["files"])
    for name, entry in data["files"].items():
        content = (bundle / name).read_bytes()
        entry.update(size=len(content), blake3=digest_of(content))
    (bundle / "zoo.json").write_bytes(canonical({**data, "checksum": _checksum(data)}))


def refused(bundle, said):
    with pytest.raises(BundleError, match=said):
        zoo.load(bundle)
    assert not zoo.verify(bundle).ok


def test_a_state_comes_back_as_it_was(bundle):
    again = zoo.load(bundle)

    assert equal(again.state["mine"], state())
    assert again.state["plain"] == {"tasks": 1}
    assert zoo.verify(bundle).ok
    listed = json.loads((bundle / "zoo.json").read_bytes())["files"]
    assert {TREE, TENSORS, "state/plain/state.json"} == {name for name in listed if name.startswith("state/")}


def test_a_delta_bundle_keeps_the_state_too(built, tmp_path):
    built.state = {"mine": state()}
    path = zoo.save(built, tmp_path / "delta", kind="delta", base=built, probe=False)
    built.state = {}

    assert equal(zoo.load(path).state["mine"], state())


def test_a_model_without_a_state_has_no_files_of_it(built, tmp_path):
    built.state = {}
    path = zoo.save(built, tmp_path / "none", probe=False)

    assert not (path / "state").exists()
    assert zoo.load(path).state == {}


def test_saving_a_loaded_model_writes_the_same_state(bundle, tmp_path):
    again = zoo.save(zoo.load(bundle), tmp_path / "again", probe=False)

    for name in (TREE, TENSORS):
        assert (again / name).read_bytes() == (bundle / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [({"mine": {"a": object()}}, "mine/a cannot be kept in a bundle"), ({"../x": 1}, "model.state cannot be kept")],
)
def test_what_is_no_state_is_refused_before_anything_is_written(built, tmp_path, given, said):
    built.state = given
    with pytest.raises(BundleError, match=said):
        zoo.save(built, tmp_path / "bad", probe=False)
    built.state = {}

    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("name", [TREE, TENSORS])
def test_an_edited_or_missing_file_is_refused(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(bundle, "is not what was saved")
    (bundle / name).unlink()
    refused(bundle, "is missing")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (b'{"pickle":"cos"}', "does not follow the format: a part of a state"),
        (b'{"tensor":"mine/none"}', "does not follow the format: a part of a state"),
        (b"[1,2]", "not spelled as a state and its tensors are"),
        (b'{"dict":[["a",1],["a",2]]}', "not spelled"),
        (b"[" * 80 + b"]" * 80, "nested"),
        (b"not JSON", "is damaged"),
    ],
    ids=["another form", "a tensor that is not there", "tensors left over", "a key twice", "depth", "no JSON"],
)
def test_a_tree_that_no_save_writes_is_refused_though_it_is_sealed(bundle, tree, said):
    (bundle / TREE).write_bytes(tree)
    sealed(bundle)

    refused(bundle, said)


@pytest.mark.parametrize("name", ["state/mine/more.json", "state/x.json", "state/two/state.safetensors", "state/a/b/c"])
def test_a_file_that_is_none_of_a_state_is_refused_by_its_name(bundle, name):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"{}")
    sealed(bundle, lambda files: files.update({name: {"size": 0, "blake3": "0" * 64}}))

    refused(bundle, "is no file of a method's state")


def test_a_tree_that_is_too_large_is_refused_before_it_is_read(bundle, monkeypatch):
    monkeypatch.setattr("zoo.bundle.method_states.MOST_TREE", 20)

    refused(bundle, "must have 20 bytes or fewer")

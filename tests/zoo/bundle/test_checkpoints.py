"""Checkpoints as bundles: states of any form, kept without pickle, read back as they were, and the manifest's rules."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
import torch

import zoo
from zoo.bundle.checkpoints import Resting, read_checkpoint, read_training, write_checkpoint
from zoo.bundle.manifest import Training
from zoo.bundle.trees import pack, unpack
from zoo.errors import BundleError

WHERE = Training(step=3, steps=8, epoch=0.75, epochs=2, finished=False, run={"method": "fine_tuning"})


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@pytest.fixture
def written(make, tmp_path):
    """Write a checkpoint of a tiny model, whose backbone may rest."""

    def write(*, trained=(), state=None):
        model = make.tiny()
        names = {name for name in model.state_dict() if name.startswith(("heads.", *trained))}
        resting = Resting.of(model, names, keep=True)
        path = tmp_path / "run" / "checkpoint-00000003"
        write_checkpoint(model, path, WHERE, {"note": 1} if state is None else state, resting)
        return model, path

    return write


# --- states


STATES = [
    {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}, "7": None},
    {"betas": (0.9, 0.999), "lr": float("inf"), "nan": float("nan"), "low": float("-inf"), "zero": -0.0},
    {"on": True, "off": False, "count": 2**53, "name": "Übung\n", "nested": [[], (), {}, [({"a": (1,)},)]]},
    {"bytes": torch.arange(5, dtype=torch.uint8), "half": torch.ones(2, dtype=torch.bfloat16), "empty": torch.zeros(0)},
    {"like": {"tensor": "state/x"}, "float": {"float": "nan"}},
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_read_back_as_it_was(state):
    tree, tensors = pack(state, "state")

    again = unpack(json.loads(json.dumps(tree, allow_nan=False)), tensors, "state")

    assert same(state, again)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS, torch.optim.Adagrad])
def test_the_state_of_an_optimizer_goes_on_as_it_was(optimizer):
    def steps(one, weight, count):
        for _ in range(count):
            one.zero_grad()
            ((weight - 1) ** 2).sum().backward()
            one.step(lambda: ((weight - 1) ** 2).sum())

    first = torch.zeros(3, requires_grad=True)
    one = optimizer([first], lr=0.1)
    steps(one, first, 3)
    tree, tensors = pack(one.state_dict(), "optimizer")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    second = first.detach().clone().requires_grad_()
    other = optimizer([second], lr=0.7)

    other.load_state_dict(unpack(json.loads(json.dumps(tree)), tensors, "optimizer"))
    steps(one, first, 3)
    steps(other, second, 3)

    assert torch.equal(first, second)


@pytest.mark.parametrize("value", [object(), lambda: 0, {1, 2}, b"bytes", {(1, 2): 0}])
def test_what_json_and_tensors_cannot_hold_is_refused_by_its_path(value):
    with pytest.raises(BundleError, match=r"^run/a/0 cannot be kept in a bundle"):
        pack({"a": [value]}, "run")


@pytest.mark.parametrize(
    "tree",
    [{"tensor": "none"}, {"float": "1"}, {"tuple": 1}, {"dict": [[1]]}, {"dict": [[[], 1]]}, {}, {"a": 1, "b": 2}],
)
def test_a_tree_that_says_something_else_is_refused(tree):
    with pytest.raises(BundleError, match="does not follow the format"):
        unpack(tree, {}, "state")


# --- checkpoints


def test_a_checkpoint_holds_model_and_state_and_no_pickle(written):
    state = {"optimizer": STATES[0], "history": [1.5, None]}
    model, path = written(trained=("backbones.",), state=state)

    found = read_checkpoint(path)

    assert found.training == WHERE == read_training(path)
    assert same(dict(found.state), state)
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".json", ".txt", ".safetensors"}
    assert zoo.verify(path).problems == []
    other = zoo.load(path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_rests_is_in_the_store_and_verified_from_there(written):
    model, path = written()

    assert not (path / "backbones" / "main" / "model.safetensors").exists()
    assert zoo.verify(path).problems == []
    other = zoo.load(path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_backbone_that_trains_in_part_is_held_in_that_part(written):
    _, path = written(trained=("backbones.main.native.0.bias",))

    found = read_checkpoint(path)

    assert list(found.tensors["backbones/main/delta.safetensors"]) == ["0.bias"]
    assert zoo.verify(path).problems == []


def test_pouring_changes_what_training_may_change_and_nothing_else(written, make):
    model, path = written(trained=("backbones.main.native.0.bias",))
    other = make.tiny(seed=5)
    before = {key: value.clone() for key, value in other.state_dict().items()}

    read_checkpoint(path).pour(other)

    for key, value in other.state_dict().items():
        expected = before if key == "backbones.main.native.0.weight" else model.state_dict()
        assert torch.equal(value, expected[key]), key


def test_a_checkpoint_of_another_form_is_not_poured(written, make):
    _, path = written()
    other = make.tiny(zoo.head("classifier", name="pet", classes=["a", "b", "c"]))

    with pytest.raises(BundleError, match="does not fit the model"):
        read_checkpoint(path).pour(other)


def test_a_bundle_of_another_kind_is_no_checkpoint(bundle):
    with pytest.raises(BundleError, match="is a bundle of the kind 'full', and a checkpoint is needed"):
        read_training(bundle)


def test_every_flipped_bit_of_the_runs_state_is_found(written):
    _, path = written(state={"a": torch.arange(4)})

    for name in ("training/state.safetensors", "training/state.json"):
        file = path / name
        good = file.read_bytes()
        for place in range(0, len(good), 3):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            file.write_bytes(bad)
            with pytest.raises(BundleError):
                read_checkpoint(path)
        file.write_bytes(good)
    assert zoo.verify(path).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["training"].update(step=9),
        lambda data: data["files"].pop("training/state.json"),
        lambda data: data.pop("training"),
        lambda data: data.update(kind="full"),
        lambda data: data["training"].update(more=1),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(written, make, change):
    _, path = written()
    make.rewrite(path, change)

    with pytest.raises(BundleError, match="does not follow the format"):
        read_training(path)


@pytest.mark.slow
def test_the_manifest_follows_the_schema_that_ships(written):
    from zoo.bundle.schema import manifest_schema

    _, path = written()
    data = json.loads((path / "zoo.json").read_bytes())
    page = json.loads((Path(__file__).parents[3] / "docs/reference/zoo.schema.json").read_text())

    jsonschema.validate(data, manifest_schema())
    jsonschema.validate(data, page)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "kind": "full"}, page)

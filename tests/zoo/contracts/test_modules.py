"""ModuleMap: nn.ModuleDict for any name that a label column may have."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from zoo.contracts.modules import ModuleMap

NAMES = ["type", "float", "training", "train", "keys", "forward", "0", "T", "items", "a-b", "parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_kept_with_its_keys_mode_and_gradients(name):
    modules = ModuleMap({name: nn.Linear(2, 2)})

    assert list(modules) == list(modules.keys()) == [name]
    assert name in modules
    assert set(modules.state_dict()) == {f"{name}.weight", f"{name}.bias"}
    assert len(list(modules.parameters())) == 2
    assert not modules.eval()[name].training
    assert modules.train()[name].training
    assert modules.training is True
    assert modules.double()[name].weight.dtype == torch.float64


def test_it_is_an_ordered_mapping():
    first, second = nn.Linear(1, 1), nn.Linear(2, 2)
    modules = ModuleMap({"b": first, "a": second})

    assert len(modules) == 2
    assert list(modules.values()) == [first, second]
    assert list(modules.items()) == [("b", first), ("a", second)]
    assert "c" not in modules


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda modules: pickle.loads(pickle.dumps(modules))], ids=["copy", "pickle"]
)
def test_a_copy_has_modules_of_its_own(again):
    modules = ModuleMap({"type": nn.Linear(2, 2), "training": nn.Linear(2, 2)})
    copied = again(modules)

    assert torch.equal(copied["type"].weight, modules["type"].weight)
    assert copied["type"] is not modules["type"]
    assert list(copied) == list(modules)

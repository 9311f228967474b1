"""Weights: every tensor or none."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.contracts.weights import fit_weights, norm_kinds, read_weights
from zoo.errors import WeightsError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def other() -> dict[str, torch.Tensor]:
    return {key: (value + 1).to(value.dtype) for key, value in net().state_dict().items()}


def test_tensors_that_fit_are_poured_in():
    module, tensors = net(), other()
    fit_weights(module, tensors, where="here")

    assert all(torch.equal(value, tensors[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("0.bias"), "1 tensors are missing (first '0.bias'), 0 are left over."),
        (lambda t: t.clear(), "7 tensors are missing (first '0.weight'), 0 are left over."),
        (lambda t: t.update(more=torch.zeros(1)), "0 tensors are missing, 1 are left over (first 'more')."),
        (lambda t: t.update({"0.biases": t.pop("0.bias")}), "is '0.biases' meant for '0.bias'?"),
        (lambda t: t.update({"0.bias": t["0.bias"].double()}), "0.bias must be float32 (4,), got float64 (4,)."),
        (lambda t: t.update({"0.bias": torch.zeros(5)}), "0.bias must be float32 (4,), got float32 (5,)."),
        (lambda t: t.update({"1.num_batches_tracked": torch.zeros(1).long()}), "must be int64 (), got int64 (1,)."),
        (lambda t: t.update({"fc.weight": torch.zeros(1), "fcs.weight": torch.zeros(1)}), "(first 'fcs.weight')"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_loaded(change, words):
    module, tensors = net(), other()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    change(tensors)

    with pytest.raises(WeightsError, match=r"^The weights in here do not fit Sequential: ") as caught:
        fit_weights(module, tensors, where="here", classifier=("fc",))
    assert words in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_the_classifier_of_the_library_is_left_out():
    module, tensors = net(), {**other(), "fc.weight": torch.zeros(9), "fc.bias": torch.zeros(9)}
    fit_weights(module, tensors, where="here", classifier=("fc", "head"))

    assert torch.equal(module[0].bias, tensors["0.bias"])


def test_a_part_of_the_module_that_is_called_like_the_classifier_is_loaded():
    module, tensors = net(), other()
    fit_weights(module, tensors, where="here", classifier=("0",))

    assert torch.equal(module[0].bias, tensors["0.bias"])


def test_a_file_is_read_whole(tmp_path):
    save_file(other(), tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")

    assert found.keys() == other().keys()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 99], ids=["absent", "empty", "short", "bytes"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "w.safetensors").write_bytes(content)

    with pytest.raises(WeightsError, match=r"^The weights in [^\n]*w\.safetensors cannot be read: "):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([nn.Conv2d(1, 1, 1)], ()),
        ([nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2)], ("batch",)),
        ([nn.LayerNorm(2), nn.GroupNorm(1, 2)], ("group", "layer")),
        ([nn.InstanceNorm2d(2), nn.RMSNorm(2)], ("instance", "rms")),
    ],
    ids=str,
)
def test_the_kinds_of_normalisation_are_told(layers, kinds):
    assert norm_kinds(nn.Sequential(*layers)) == kinds


def test_tensors_are_taken_over_without_a_copy():
    module, tensors = net(), other()
    fit_weights(module, tensors, where="here")

    assert module[0].weight.data_ptr() == tensors["0.weight"].data_ptr()
    assert module[0].weight.requires_grad


def test_parameters_with_two_names_stay_one():
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    module["b"].weight = module["a"].weight
    module["a"].weight.requires_grad_(False)
    fit_weights(module, {key: torch.ones_like(value) for key, value in module.state_dict().items()}, where="here")

    assert module["b"].weight is module["a"].weight
    assert not module["a"].weight.requires_grad
    assert torch.equal(module["b"].weight, torch.ones(2, 2))


class Doubling(nn.Linear):
    """Keeps half of its weight in files."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        state_dict[prefix + "weight"] = 2 * state_dict[prefix + "weight"]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def halve(module, state_dict, prefix, *rest):
    state_dict[prefix + "weight"] = state_dict[prefix + "weight"] / 2


def test_a_module_that_loads_in_its_own_way_does_so():
    hooked = nn.Linear(2, 2)
    hooked.register_load_state_dict_pre_hook(halve)
    module = nn.Sequential(Doubling(2, 2), hooked, nn.BatchNorm1d(2))
    tensors = {key: torch.ones_like(tensor) for key, tensor in module.state_dict().items()}

    fit_weights(module, tensors, where="here")

    assert (module[0].weight == 2).all()
    assert (module[1].weight == 0.5).all()
    assert (module[2].running_mean == 1).all()


def test_what_is_fitted_is_what_torch_would_load_and_stays_as_trainable_as_it_was():
    module, twin = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()) for _ in range(2))
    module[0].weight.requires_grad_(False)
    tensors = {key: torch.rand(t.shape).to(t.dtype) for key, t in module.state_dict().items()}

    fit_weights(module, tensors, where="here")
    twin.load_state_dict(tensors)

    assert all(torch.equal(tensor, twin.state_dict()[key]) for key, tensor in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True, True]
    assert all(module.state_dict()[key].data_ptr() == tensor.data_ptr() for key, tensor in tensors.items())

"""Skipping initialisers: nothing is drawn, buffers are right, and no other thread sees it."""

from __future__ import annotations

import threading

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from zoo.contracts.initialising import skip_initialisers
from zoo.contracts.weights import fit_weights


class Odd(nn.Module):
    """Initialises itself in all the ways that libraries use."""

    def __init__(self):
        super().__init__()
        self.direct = nn.Parameter(torch.empty(4, 4))
        self.by_data = nn.Embedding(4, 4)
        self.by_data.weight.data.normal_(0, 0.02)
        self.by_data.weight.data[0].zero_()
        with torch.no_grad():
            self.direct.uniform_(-1, 1).mul_(3).add_(1).clamp_(-2, 2)
        nn.init.trunc_normal_(tensor=self.direct, std=0.02)
        self.register_buffer("table", torch.arange(6.0).mul_(2), persistent=False)
        self.register_buffer("filled", torch.empty(3).fill_(7), persistent=False)
        self.norm = nn.BatchNorm2d(3)


def test_nothing_is_drawn_and_buffers_are_computed():
    before = torch.get_rng_state()
    with skip_initialisers():
        module = Odd()

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(module.table, torch.arange(6.0) * 2)
    assert torch.equal(module.filled, torch.full((3,), 7.0))
    assert torch.equal(module.norm.running_var, torch.ones(3))


def test_weights_that_are_loaded_inside_are_there():
    usual = Odd()
    with skip_initialisers():
        module = Odd()
        module.load_state_dict(usual.state_dict())

    assert all(torch.equal(value, usual.state_dict()[key]) for key, value in module.state_dict().items())


def test_it_ends_with_the_block_even_if_that_raises():
    with pytest.raises(ZeroDivisionError), skip_initialisers():
        _ = 1 / 0
    before = torch.get_rng_state()
    Odd()

    assert not torch.equal(torch.get_rng_state(), before)


DRAWS = (
    lambda: nn.init.constant_(torch.empty(3), 5.0),
    lambda: nn.init.trunc_normal_(nn.Parameter(torch.full((64, 64), 9.0)), std=0.02).detach(),
    lambda: nn.init.orthogonal_(nn.Parameter(torch.empty(4, 4))).detach(),
)


def test_another_thread_draws_its_weights_meanwhile():
    found = []
    with skip_initialisers():
        thread = threading.Thread(target=lambda: found.extend([draw() for draw in DRAWS]))
        thread.start()
        thread.join()

    assert torch.equal(found[0], torch.full((3,), 5.0))
    assert 0 < found[1].std() < 0.03
    assert torch.allclose(found[2] @ found[2].T, torch.eye(4), atol=1e-5)


def bert():
    return transformers.BertModel(transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=0),
        lambda: timm.create_model("levit_128s", num_classes=0),
        lambda: timm.create_model("eva02_tiny_patch14_224", num_classes=0),
        lambda: timm.create_model("test_nfnet", num_classes=0),
        lambda: torchvision.models.swin_t(weights=None),
        lambda: torchvision.models.googlenet(weights=None, init_weights=True, aux_logits=False),
        bert,
    ],
    ids=["swin", "levit", "eva02", "nfnet", "torchvision-swin", "googlenet", "bert"],
)
def test_a_module_built_without_initialisers_is_equal_once_its_weights_are_in(make):
    usual = make()
    before = torch.get_rng_state()
    with skip_initialisers():
        module = make()
    unchanged = torch.equal(torch.get_rng_state(), before)
    fit_weights(module, usual.state_dict(), where="here")

    assert unchanged
    buffers = dict(usual.named_buffers())
    assert dict(module.named_buffers()).keys() == buffers.keys()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())
    assert all(torch.equal(value, usual.state_dict()[key]) for key, value in module.state_dict().items())

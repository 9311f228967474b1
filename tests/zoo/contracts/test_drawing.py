"""Drawing once: what a module starts with is what it would have, and what is drawn over was never drawn."""

from __future__ import annotations

import copy
import threading
from collections import Counter

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.catalog import catalog_of
from zoo.contracts.drawing import draw_once

ATEN = torch.ops.aten
DRAWS = {ATEN.uniform_.default: (0.0, 1.0), ATEN.normal_.default: (0.0, 1.0)}


class Certain(TorchDispatchMode):
    """Gives each draw numbers that its arguments and its shape decide, whatever came before, and counts them."""

    def __init__(self):
        super().__init__()
        self.drawn = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func not in DRAWS or args[0].is_meta:
            return func(*args, **(kwargs or {}))
        first, second = (*args[1:], *DRAWS[func][len(args) - 1 :])
        tensor = args[0]
        spread = (torch.arange(tensor.numel(), dtype=torch.float64) * 0.7548776662466927).frac()
        if func is ATEN.uniform_.default:
            spread = first + (second - first) * spread
        else:
            spread = first + second * (2 * spread - 1)
        self.drawn[tuple(tensor.shape)] += 1
        return tensor.copy_(spread.reshape(tensor.shape))


class Odd(nn.Module):
    """Looks at its parameters, and changes them, in the ways that libraries have."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4)
        nn.init.normal_(self.twice.weight, std=0.02)
        nn.init.zeros_(self.twice.bias)
        self.scaled = nn.Linear(4, 4)
        self.scaled.weight.data.mul_(3)
        self.part = nn.Linear(4, 6)
        with torch.no_grad():
            self.part.weight[:2].fill_(1)
            self.part.bias[2:4] = 5
        self.by_data = nn.Embedding(5, 4, padding_idx=2)
        self.by_data.weight.data.uniform_(-3, 3)
        self.by_data.weight.data[1].zero_()
        self.read = nn.Conv2d(3, 4, 3)
        self.register_buffer("sum", self.read.weight.sum())
        nn.init.constant_(self.read.weight, 2)
        self.shared = nn.Parameter(self.part.weight)
        self.flat = nn.Linear(2, 8)
        self.flat.weight.view(-1)[3:].detach().fill_(9)
        self.copied = copy.deepcopy(self.flat)
        self.both = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        nn.init.uniform_(self.other.weight)
        self.both.weight.data.copy_(self.other.weight)
        self.stacked = nn.Parameter(torch.cat([self.both.weight, self.other.weight]))
        self.swapped = nn.Linear(2, 2)
        self.swapped.weight.data = torch.full((2, 2), 7.0)
        self.turned = nn.Linear(3, 5)
        nn.init.kaiming_uniform_(self.turned.weight.t(), mode="fan_out")
        self.truncated = nn.Linear(7, 7)
        nn.init.trunc_normal_(self.truncated.weight, std=0.02)
        self.keyword = nn.Linear(4, 2)
        nn.init.normal_(tensor=self.keyword.weight, mean=4.0)
        nn.init.constant_(val=3.0, tensor=self.keyword.bias)
        self.seen = nn.Linear(4, 4)
        first, last = self.seen.weight[0].detach(), self.seen.weight[3].detach()
        nn.init.normal_(self.seen.weight)
        first.fill_(6)
        nn.init.normal_(self.seen.weight, std=5)
        last.normal_(2)
        self.half = nn.Linear(2, 2).to(torch.bfloat16)
        self.attention = nn.MultiheadAttention(4, 2)
        self.folded = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))


def bert():
    return transformers.BertModel(transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2))


def small_vit():
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.ViTModel(transformers.ViTConfig(**size))


SLOW = pytest.mark.slow
MAKERS = {
    "odd": Odd,
    "timm mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050"),
    "timm vit": lambda: timm.create_model("test_vit"),
    "timm nfnet": lambda: timm.create_model("test_nfnet"),
    "torchvision resnet": lambda: torchvision.models.resnet18(),
    "torchvision googlenet": lambda: torchvision.models.googlenet(init_weights=True, aux_logits=False),
    "torchvision swin": lambda: torchvision.models.swin_t(),
    "transformers bert": bert,
    "transformers vit": small_vit,
}


def assert_the_same_start(make):
    torch.manual_seed(0)  # for what is made of random numbers, and not drawn in place
    with Certain() as usual:
        expected = make()
    torch.manual_seed(0)
    with Certain() as once, draw_once():
        module = make()

    assert sum(once.drawn.values()) <= sum(usual.drawn.values())
    states = {**expected.state_dict(), **dict(expected.named_buffers())}
    found = {**module.state_dict(), **dict(module.named_buffers())}
    assert found.keys() == states.keys()
    differ = [key for key, value in states.items() if not torch.equal(found[key], value)]
    assert not differ
    return usual.drawn, once.drawn


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW if n.startswith("torchvision") else ()) for n in MAKERS])
def test_a_module_starts_with_what_it_would_have(name):
    assert_the_same_start(MAKERS[name])


def smallest_of_each_module() -> list[object]:
    """Give the smallest architecture of each module of timm, of at most 60 million parameters; the gate tries some."""
    sizes = {entry.name: entry.parameters or 10**12 for entry in catalog_of("timm").entries}
    names = [min(timm.list_models(module=module), key=lambda name: sizes[name]) for module in timm.list_modules()]
    soak = pytest.mark.soak
    return [
        pytest.param(name, marks=[soak] * (sizes[name] > 12_000_000)) for name in names if sizes[name] <= 60_000_000
    ]


@pytest.mark.thin(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_of_each_module())
def test_each_module_of_timm_starts_with_what_it_would_have(name):
    assert_the_same_start(lambda: timm.create_model(name))


def test_a_draw_that_is_drawn_over_is_not_made():
    usual, once = assert_the_same_start(lambda: timm.create_model("mobilenetv3_small_050", num_classes=0))

    assert sum(usual.values()) >= 1.9 * sum(once.values())


def test_a_draw_by_a_generator_of_its_own_is_made_at_once():
    own, same = (torch.Generator().manual_seed(5) for _ in range(2))
    with draw_once():
        weight = nn.Linear(3, 3).weight
        nn.init.uniform_(weight, generator=own)
        after = torch.rand(2, generator=own)

    assert weight.tolist() == torch.rand(3, 3, generator=same).tolist()
    assert torch.equal(after, torch.rand(2, generator=same))


def test_equal_seeds_give_equal_weights_and_the_block_leaves_none_undrawn():
    def made():
        torch.manual_seed(3)
        with draw_once():
            return nn.Sequential(nn.Linear(300, 300), nn.Conv2d(8, 8, 3))

    one, two = made().state_dict(), made().state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert one["0.weight"].std() == pytest.approx(1 / 300**0.5 / 3**0.5, rel=0.02)


def test_another_thread_draws_at_once():
    found = []
    with draw_once():
        thread = threading.Thread(target=lambda: found.append(torch.empty(1000).uniform_(2, 3).min()))
        thread.start()
        thread.join()
        assert found[0] >= 2


def test_it_ends_with_the_block_even_if_that_raises():
    with pytest.raises(ZeroDivisionError), draw_once():
        _ = 1 / 0

    assert torch.empty(1000).uniform_(2, 3).min() >= 2


@pytest.mark.slow
def test_zoo_builds_what_the_library_would_start_with():
    with Certain():
        model = zoo.build("timm:mobilenetv3_small_050", weights=None)
        usual = timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict()

    native = model.backbones["main"].native.state_dict()
    assert native.keys() == usual.keys()
    assert all(torch.equal(native[key], value) for key, value in usual.items())

"""Widths as data: what they say, and what of a stranger is refused before anything is changed."""

import pytest
import torch
from torch import nn

from zoo.contracts.widths import reshape, widths_of
from zoo.errors import ConfigError


def net(first=8, second=6, groups=2):
    return nn.Sequential(
        nn.Conv2d(3, first, 3),
        nn.BatchNorm2d(first),
        nn.Conv2d(first, first, 3, groups=first),
        nn.GroupNorm(groups, first),
        nn.Conv2d(first, second, 1),
        nn.LayerNorm(second),
        nn.Linear(second, 5),
    )


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_a_net_is_brought_to_the_shapes_of_a_narrower_one_on_any_device():
    narrow = net(4, 2)
    with torch.device("meta"):
        widths = widths_of(narrow, net())
    wide = net()
    reshape(wide, widths, where="it")

    assert widths["2"] == {"in_channels": 4, "out_channels": 4, "groups": 4}
    assert shapes(wide) == shapes(narrow)
    wide.load_state_dict(narrow.state_dict())
    pictures = torch.randn(2, 3, 9, 9)
    assert torch.equal(wide[:5].eval()(pictures), narrow[:5].eval()(pictures))


class Block(nn.Module):
    """A layer with scales of its own, as blocks of ConvNeXt have them in timm and torchvision."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.both = nn.Parameter(torch.ones(2, width))
        self.factor = nn.Parameter(torch.ones(()))
        self.register_parameter("none", None)


def test_scales_of_channels_that_stand_in_no_layer_are_widths_too():
    narrow = Block(3)
    narrow.both = nn.Parameter(torch.ones(2, 6))
    wide = Block(6)
    assert widths_of(narrow, wide) == {"": {"gamma": 3, "scale": 3}}
    reshape(wide, widths_of(narrow, wide), where="it")
    assert shapes(wide) == shapes(narrow)

    for widths, told in (
        ({"both": 3}, "its sizes are gamma, scale"),
        ({"gamma": 9}, "from 1 to 3"),
        ({"gamma": 0}, "from 1 to 3"),
    ):
        with pytest.raises(ConfigError, match=told):
            reshape(wide, {"": widths}, where="it")


def test_the_first_rows_and_columns_of_random_weights_stay():
    wide = net()
    before = wide[4].weight.detach().clone()
    reshape(wide, {"4": {"in_channels": 4, "out_channels": 2}}, where="it")

    assert torch.equal(wide[4].weight, before[:2, :4])
    assert wide[4].bias.shape == (2,)


def test_equal_nets_differ_in_nothing():
    assert widths_of(net(), net()) == {}


def test_what_was_cut_off_is_passed_over():
    narrow = net(4, 2)
    narrow[6] = nn.Identity()
    assert set(widths_of(narrow, net())) == {"0", "1", "2", "3", "4", "5"}


HOSTILE = {
    "a huge width": ({"0": {"out_channels": 10**12}}, "from 1 to 8, got 1000000000000"),
    "a negative width": ({"0": {"out_channels": -1}}, "from 1 to 8, got -1"),
    "no width": ({"6": {"out_features": 0}}, "from 1 to 5, got 0"),
    "a layer that is not there": ({"0.conv": {"out_channels": 1}}, "'0.conv', which is not there"),
    "a size of another layer": ({"0": {"out_features": 1}}, "has no size 'out_features'; its sizes are in_channels"),
    "an attribute that is no size": ({"0": {"__class__": 1}}, "has no size '__class__'"),
    "a layer without widths": ({"": {"out_channels": 1}}, "is a Sequential, whose widths cannot be changed"),
    "groups that do not divide": ({"2": {"out_channels": 5}}, "do not go together: its channels must be a multiple"),
    "norm groups that do not divide": ({"3": {"num_channels": 5}}, "a multiple of its 2 groups"),
    "a wider kernel": ({"2": {"groups": 1}}, r"2.weight would be \(8, 8, 3, 3\), and it is \(8, 1, 3, 3\)"),
    "a boolean": ({"0": {"out_channels": True}}, "a whole number from 1 to 8, got True"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_widths_are_refused_before_anything_is_changed(kind):
    widths, told = HOSTILE[kind]
    module = net()
    before = shapes(module)
    with pytest.raises(ConfigError, match=told):
        reshape(module, {"4": {"out_channels": 2}, **widths}, where="it")
    assert shapes(module) == before

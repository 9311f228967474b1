"""Which layers get an adapter: those that can be adapted exactly and that a pass really calls."""

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import ConfigError, UnknownName


def targets(model, **settings):
    [adapter] = model.add_adapters(rank=2, **settings)
    return adapter.spec.targets


def test_attention_means_the_linear_layers_of_attention(build):
    blocks = [f"blocks.{n}.attn.{name}" for n in range(6) for name in ("proj", "qkv")]

    assert targets(build("timm:test_vit"), targets="attention") == tuple(blocks)
    assert targets(build("timm:test_vit")) == tuple(blocks)


def test_the_attention_of_transformers_is_found(build):
    found = targets(build("hf:vit"), targets="attention")

    assert len(found) == 2 * 4
    assert all("attention" in path for path in found)


def test_linear_and_all_take_the_others_too(build):
    linear, everything = (set(targets(build("timm:test_vit"), targets=kind)) for kind in ("linear", "all"))

    assert {path for path in linear if "mlp" in path} == {f"blocks.{n}.mlp.fc{k}" for n in range(6) for k in (1, 2)}
    assert everything - linear == {"patch_embed.proj"}


def test_a_network_without_attention_is_adapted_in_all_its_layers(build):
    model = build("torchvision:resnet18")
    convolutions = [path for path, m in model.backbones["main"].native.named_modules() if isinstance(m, nn.Conv2d)]

    assert targets(model) == tuple(sorted(convolutions))


def test_convolutions_with_groups_are_left_out_and_refused_by_name(build):
    model = build("timm:test_efficientnet")
    native = model.backbones["main"].native
    grouped = [path for path, m in native.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped

    with pytest.raises(ConfigError, match=r"cannot be adapted: it is a convolution with groups"):
        model.add_adapters(targets=grouped[0])

    assert not set(targets(model)) & set(grouped)


@pytest.mark.slow
def test_layers_whose_weight_another_module_reads_are_left_out_and_refused(build):
    """torchvision's attention hands weights to a function: what stood beside the layers would never run."""
    model = build("torchvision:vit_b_32")
    assert not any("self_attention" in path for path in targets(model))
    model.remove_adapters()

    with pytest.raises(ConfigError, match=r"out_proj of torchvision:vit_b_32.* is not called: another layer reads"):
        model.add_adapters(targets="out_proj")
    with pytest.raises(ConfigError, match=r"no layer for targets='attention'; use targets='all'"):
        model.add_adapters(targets="attention")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("qkv", [f"blocks.{n}.attn.qkv" for n in range(6)]),
        (["blocks.3.attn.qkv", "blocks.0.*"], ["blocks.0.attn.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1"]),
    ],
)
def test_paths_ends_of_paths_and_patterns_name_layers(build, asked, expected):
    found = targets(build("timm:test_vit"), targets=asked)

    assert set(expected) <= set(found)
    assert all(path.endswith("qkv") or path.startswith("blocks.0.") for path in found)


def test_stages_limit_where_layers_are_taken(build):
    model = build("timm:test_vit")
    found = targets(model, stages=["s4"])

    assert found
    assert {model.backbones["main"].stage_of(path) for path in found} == {"s4"}


def test_what_is_not_there_is_said_with_what_is_near(build):
    model = build("timm:test_vit")

    with pytest.raises(UnknownName, match=r"no layer 'blocks.0.attn.qvk'; near: .*blocks\.0\.attn\.qkv"):
        model.add_adapters(targets="blocks.0.attn.qvk")
    with pytest.raises(UnknownName, match="s9"):
        model.add_adapters(stages=["s9"])
    with pytest.raises(ConfigError, match=r"blocks\.0\.norm1 .* is a LayerNorm, and adapters are for linear"):
        model.add_adapters(targets="blocks.0.norm1")
    assert model.adapters == []


class Odd(nn.Module):
    """Layers that cannot be adapted, each for a reason of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.dilated = nn.Conv2d(4, 4, 3, dilation=2)
        self.reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.standard = Standardised(4, 4, 1)
        self.one, self.two = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.two.weight = self.one.weight
        self.idle = nn.Linear(4, 4)

    def forward(self, image):
        x = self.standard(self.reflecting(self.dilated(self.stem(image))))
        return self.two(self.one(x)).mean((2, 3))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("dilated", "is a convolution with dilation"),
        ("reflecting", "is a convolution with a padding mode"),
        ("standard", "is a Standardised, which does more than Conv2d"),
        ("two", "shares its weight with another layer"),
        ("idle", "is not called"),
    ],
)
def test_layers_that_would_not_be_the_same_once_merged_are_refused_with_the_reason(layer, reason):
    wrapped = zoo.wrap(Odd(), inputs=torch.zeros(1, 3, 16, 16))
    model = zoo.build(wrapped, zoo.head("classifier", name="kind", classes=["a", "b"]))

    with pytest.raises(ConfigError, match=f"^{layer} of .* cannot be adapted: it {reason}"):
        model.add_adapters(targets=layer)

    assert targets(model) == ("stem",)


def test_looking_for_layers_changes_neither_modes_nor_statistics_nor_generators(build):
    model = build("timm:test_resnet").train()
    model.backbones["main"].native.layer1.eval()
    modes = [module.training for module in model.backbones["main"].native.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()

    model.add_adapters(rank=2)

    assert [module.training for module in model.backbones["main"].native.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())

"""A module that no provider knows becomes a backbone: what is inferred is true, what cannot be is refused."""

from __future__ import annotations

import logging

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import zoo
from zoo.contracts.features import Want


def images(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))


def block(width_in, width, stride=2):
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Cnn(nn.Module):
    """A hand-written net that ends in a map."""

    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.one = block(width, 2 * width)
        self.two = block(2 * width, 4 * width)

    def forward(self, x):
        return self.two(self.one(self.relu(self.conv(x))))


class TokenNet(nn.Module):
    """A small ViT that ends in tokens."""

    def __init__(self, size=32, patch=8, width=24, depth=8, registers=0):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.front = nn.Parameter(torch.randn(1, 1 + registers, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1 + registers, width))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.front.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        return self.norm(self.blocks(tokens))


class LastNet(nn.Module):
    """A net whose channels come last."""

    def __init__(self, *widths):
        super().__init__()
        ins = (3, *widths)
        self.stages = nn.ModuleList(nn.Linear(4 * a, b) for a, b in zip(ins, widths, strict=False))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        for stage in self.stages:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
            x = stage(x).relu()
        return x


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(12, 2, 24, batch_first=True) for _ in range(4))

    def forward(self, input_ids, attention_mask=None):
        x = self.embedding(input_ids)
        away = None if attention_mask is None else attention_mask == 0
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=away)
        return x


class Backwards(nn.Module):
    """Defines its parts in another order than they run in."""

    def __init__(self):
        super().__init__()
        self.late = block(16, 32)
        self.early = block(3, 16)

    def forward(self, x):
        return self.late(self.early(x))


def shape_of(backbone):
    return [(stage.name, stage.module, stage.channels, stage.reduction) for stage in backbone.spec.maps]


def test_a_hand_written_net_is_read_from_its_maps():
    net = Cnn().eval()
    backbone = zoo.wrap(net, inputs=images()).eval()

    assert shape_of(backbone) == [("stem", "relu", 8, 2.0), ("s1", "one", 16, 4.0), ("s2", "two", 32, 8.0)]
    assert backbone.spec.reference == "wrapped:Cnn"
    assert (backbone.spec.pooled_dim, backbone.spec.pooling, backbone.spec.norms) == (32, "mean", ("batch",))
    assert backbone.spec.parameters == sum(p.numel() for p in net.parameters())
    assert backbone.spec.capabilities == ("dynamic_size", "maps", "pooled")
    assert (backbone.spec.inputs[0].divisor, backbone.spec.inputs[0].least) == (1, 1)
    x = images(48)
    with torch.no_grad():
        features = backbone(x, Want(maps=("stem", "s1", "s2")))
        assert torch.equal(features.maps["s2"], net(x))
        assert torch.equal(features.maps["stem"], net.conv(x).relu())
        assert torch.equal(features.pooled, net(x).mean((2, 3)))
    assert backbone.stage_of("conv.weight") == "stem"
    assert backbone.stage_of("one.1.running_mean") == "s1"


@pytest.mark.slow
def test_a_net_of_torchvision_gives_what_its_provider_gives():
    model = zoo.build("torchvision:resnet18", weights=None, seed=0)
    theirs = model.backbones["main"]
    net = torchvision.models.resnet18(weights=None).eval()
    net.fc = nn.Identity()
    net.load_state_dict(theirs.native.state_dict())

    ours = zoo.wrap(net, inputs={"size": [64, 64], "channels": 3}).eval()

    x = images(96)
    want = Want(maps=("s1", "s2", "s3", "s4"))
    with torch.no_grad():
        one, other = ours(x, want), theirs(x, want)
    assert torch.equal(one.pooled, other.pooled)
    assert all(torch.equal(one.maps[name], other.maps[name]) for name in want.maps)
    names = [name for name, _ in theirs.native.named_parameters()]
    assert [ours.stage_of(name) for name in names] == [theirs.stage_of(name) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("densenet121", [2, 4, 8, 16, 32]),
        ("mobilenet_v3_small", [2, 4, 8, 16, 32]),
        ("swin_t", [4, 8, 16, 32]),
    ],
)
def test_other_families_are_cut_where_their_maps_shrink(name, reductions):
    backbone = zoo.wrap(torchvision.models.get_model(name, weights=None), inputs=images())

    assert [stage.reduction for stage in backbone.spec.maps] == reductions


def test_a_net_of_tokens_gives_tokens_maps_and_its_class_token():
    net = TokenNet().eval()
    backbone = zoo.wrap(net, inputs=images(32)).eval()

    spec = backbone.spec
    assert [(s.name, s.module) for s in spec.maps] == [(f"s{i + 1}", f"blocks.{2 * i + 1}") for i in range(4)]
    assert (spec.prefix_tokens, spec.token_dim, spec.pooling) == (1, 24, "class_token")
    assert spec.inputs[0].fixed_size
    x = images(32)
    with torch.no_grad():
        features = backbone(x, Want(tokens=True, maps=("s4",)))
        tokens = net(x)
    assert torch.equal(features.pooled, tokens[:, 0])
    assert torch.equal(features.tokens, tokens[:, 1:])
    assert features.grid == (4, 4)
    assert torch.equal(net.norm(features.maps["s4"].flatten(2).transpose(1, 2)), features.tokens)


def test_a_size_that_is_described_is_the_size_of_the_dry_run():
    backbone = zoo.wrap(TokenNet(size=128, patch=16), inputs={"channels": 3, "size": (128, 128)})

    assert (backbone.spec.inputs[0].size, backbone.spec.inputs[0].fixed_size) == ((128, 128), True)


def test_registers_that_cannot_be_counted_are_asked_for():
    net = TokenNet(size=32, patch=2, registers=191)  # 256 + 192 tokens
    with pytest.raises(zoo.ConfigError, match="fill no grid"):
        zoo.wrap(net, inputs=images(32))

    assert zoo.wrap(net, inputs=images(32), prefix_tokens=192).spec.prefix_tokens == 192


def test_a_net_whose_channels_come_last_is_turned():
    net = LastNet(16, 24, 40).eval()
    backbone = zoo.wrap(net, inputs=images()).eval()

    assert shape_of(backbone) == [
        ("s1", "stages.0", 16, 2.0),
        ("s2", "stages.1", 24, 4.0),
        ("s3", "stages.2", 40, 8.0),
    ]
    x = images()
    with torch.no_grad():
        assert torch.equal(backbone(x).pooled, net(x).mean((1, 2)))
    assert backbone.spec.inputs[0].divisor == 8


def test_a_layout_that_cannot_be_seen_is_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Unflatten(2, (8, 1)), nn.Flatten(2, 3))  # 32 pixels only
    with pytest.raises(zoo.ConfigError, match="pass layout='NCHW' or layout='NHWC'"):
        zoo.wrap(net, inputs=images(32))

    assert zoo.wrap(net, inputs=images(32), layout="NCHW").spec.pooled_dim == 8


def test_a_text_net_gives_the_mean_over_real_tokens():
    net = Words().eval()
    ids = torch.randint(1, 50, (2, 6))
    backbone = zoo.wrap(net, inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)}).eval()

    assert backbone.spec.modality == "text"
    assert backbone.spec.capabilities == ("mask", "pooled", "tokens")
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    with torch.no_grad():
        features = backbone({"input_ids": ids, "attention_mask": mask})
        short = net(ids[:1, :4])
    torch.testing.assert_close(features.pooled[:1], short.mean(1))
    assert features.mask.tolist() == mask.bool().tolist()


def test_a_net_of_vectors_has_stages_without_maps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 32), nn.ReLU(), nn.Linear(32, 5))
    backbone = zoo.wrap(net, inputs=images(4), name="mlp")

    assert backbone.spec.reference == "wrapped:mlp"
    assert backbone.spec.maps == ()
    assert backbone.spec.pooled_dim == 5
    assert backbone.spec.inputs[0].fixed_size


def test_parts_that_run_in_another_order_than_they_are_defined_in_have_the_stage_in_which_they_run():
    backbone = zoo.wrap(Backwards(), inputs=images())

    assert [(s.name, s.module) for s in backbone.spec.maps] == [("s1", "early"), ("s2", "late")]
    assert {backbone.stage_of(name) for name, _ in backbone.native.early.named_parameters("early")} == {"s1"}
    assert {backbone.stage_of(name) for name, _ in backbone.native.late.named_parameters("late")} == {"s2"}


def test_stages_pooling_and_preprocessing_can_be_said():
    recipe = zoo.Preprocessing(size=(48, 48), resize=(48,))
    backbone = zoo.wrap(Cnn(), stages={"stem": "conv", "s1": "two"}, preprocessing=recipe)

    assert [(s.name, s.module) for s in backbone.spec.stages] == [("stem", "conv"), ("s1", "two"), ("post", "")]
    assert backbone.preprocess(Image.new("RGB", (60, 50))).shape == (3, 48, 48)


def test_nothing_of_the_module_is_changed_and_one_line_says_what_was_found(caplog):
    net = Cnn().train()
    net.one.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()

    with caplog.at_level(logging.INFO, "zoo"):
        zoo.wrap(net, inputs=images())

    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (net.training, net.one.training, net.two.training) == (True, False, True)
    assert torch.equal(state, torch.get_rng_state())
    (line,) = caplog.messages
    assert "pooled 32 = mean of its NCHW" in line
    assert "s1 16@1/4 (one)" in line


def test_a_last_layer_that_looks_like_a_classifier_is_pointed_out(caplog):
    net = nn.Sequential(block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000))
    with caplog.at_level(logging.INFO, "zoo"):
        zoo.wrap(net, inputs=images())

    assert "class scores" in caplog.text


def test_a_spec_that_was_made_before_wraps_another_module_of_the_class():
    spec = zoo.wrap(Cnn(), inputs=images()).spec
    other = Cnn().eval()

    backbone = zoo.wrap(other, spec=spec)

    with torch.no_grad():
        assert torch.equal(backbone(images()).pooled, other(images()).mean((2, 3)))
    with pytest.raises(zoo.ConfigError, match=r"must have \d+ channels|must be \(2"):
        zoo.wrap(Cnn(width=16), spec=spec)
    with pytest.raises(zoo.ConfigError, match="leave one out"):
        zoo.wrap(other, spec=spec, inputs=images())


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.what = what

    def forward(self, x):
        return self.what(self.conv(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass inputs=torch.zeros"),
        ({"inputs": "a picture"}, "must be a tensor, a dict or a zoo.InputSpec, got str"),
        ({"inputs": {"channels": 3}}, "must have channels and size"),
        ({"inputs": {"chanels": 3}}, "no option 'chanels'"),
        ({"inputs": torch.zeros(3)}, "must be a batch of pictures"),
        ({"inputs": torch.zeros(0, 3, 8, 8)}, "one row or more"),
        ({"inputs": torch.zeros(1, 5, 32, 32)}, "cannot be run on image"),
        ({"inputs": {"pixels": images()}}, "cannot be run on pixels"),
        ({"inputs": images(), "stages": {"s1": "tow"}}, "no module 'tow' for s1 to end in; there is two"),
        ({"inputs": images(), "stages": {"first": "two"}}, "must be called stem"),
        ({"inputs": images(), "stages": {"s1": "two", "s2": "one"}}, "in the order in which they run"),
        ({"inputs": images(), "pooling": "class_token"}, "pooling must be mean"),
        ({"inputs": images(), "preprocessing": zoo.Preprocessing(size=(9, 9), resize=None)}, "preprocessing must give"),
        ({"inputs": images(), "layout": "NHWC"}, "layout"),
        ({"inputs": images(), "layout": "NWHC"}, "layout must be one of NCHW, NHWC, tokens, got 'NWHC'"),
        ({"inputs": images(), "pooling": "max"}, "pooling must be one of output, mean, class_token, got 'max'"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.wrap(Cnn(), **arguments)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: {"features": x}, "must give one tensor, got dict"),
        (lambda x: (x, x), "must give one tensor, got tuple"),
        (lambda x: x.mean(), "must give a vector"),
        (lambda x: x.mean((0, 2, 3))[None], "must give a vector"),
        (lambda x: x[..., None], "must give a vector"),
    ],
)
def test_an_output_that_is_no_feature_is_refused(what, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.wrap(Gives(what), inputs=images())


def test_a_net_that_takes_vectors_of_one_length_says_so_and_one_that_takes_any_does_not():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    x = torch.randn(3, 6)
    backbone = zoo.wrap(net, inputs=x)

    assert backbone.spec.inputs[0].fixed_length
    assert torch.equal(backbone(x).pooled, net(x))
    with pytest.raises(zoo.ShapeError, match="takes 6 samples only, got 7"):
        backbone(torch.randn(3, 7))

    pooled = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(4, 4))
    free = zoo.wrap(pooled, inputs=x)

    assert not free.spec.inputs[0].fixed_length
    assert free(torch.randn(3, 70)).pooled.shape == (3, 4)


class Dropping(nn.Module):
    """A net that drops what its last layer gives, without a module that does so."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return nn.functional.dropout(self.conv(x), 0.5, self.training)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_net_does_itself_after_its_last_layer_reaches_the_features_in_training_alone(training):
    net, x = Dropping(), images(16)
    backbone = zoo.wrap(net, inputs=x).train(training)
    torch.manual_seed(5)
    expected = net(x).mean(dim=(2, 3))
    torch.manual_seed(5)

    assert torch.equal(backbone(x).pooled, expected)
    assert torch.equal(backbone(x).pooled, backbone(x).pooled) is not training


def test_a_backbone_and_what_is_no_module_are_not_wrapped():
    for wrong in (zoo.wrap(Cnn(), inputs=images()), "resnet", Cnn):
        with pytest.raises(zoo.ConfigError, match="takes a torch module"):
            zoo.wrap(wrong, inputs=images())


@pytest.mark.parametrize(("wrong", "words"), [(Cnn(), r"zoo.wrap\(module, inputs=…\), got Cnn"), (7, "got int")])
def test_a_module_that_was_not_wrapped_and_what_is_none_are_refused_as_backbones(wrong, words):
    for given in (wrong, {"left": wrong}):
        with pytest.raises(zoo.ConfigError, match=words):
            zoo.build(given, heads=[zoo.head("classifier", classes=["a", "b"])])


def test_a_wrong_size_channel_or_dtype_is_refused_before_the_module_sees_it():
    backbone = zoo.wrap(TokenNet(), inputs=images(32))

    for wrong in (images(40), torch.zeros(2, 4, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.int64), images(32)[0]):
        with pytest.raises(zoo.ShapeError):
            backbone(wrong)


# --- in models and bundles

HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}


@pytest.fixture
def model():
    return zoo.build(zoo.wrap(Cnn(), inputs=images()), HEAD, seed=0)


def test_a_model_is_built_on_it_and_its_weights_are_kept():
    net = Cnn()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = zoo.build(zoo.wrap(net, inputs=images()), HEAD, seed=0)

    assert model.backbones["main"].native is net
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    model.freeze("s1").train()
    assert not net.one.training
    assert net.two.training
    for weights in (None, zoo.build("timm:test_resnet", weights=None)):
        with pytest.raises(zoo.ConfigError, match="comes with the weights that it has; leave weights out"):
            zoo.build(zoo.wrap(net, inputs=images()), HEAD, weights=weights)


def test_it_stands_beside_a_backbone_of_a_provider():
    two = {"own": zoo.wrap(Cnn(), inputs=images()), "more": "timm:test_resnet"}
    with pytest.raises(zoo.WeightsError):  # no network: the other's weights were asked for
        zoo.build(two)
    with pytest.raises(zoo.ConfigError, match="give 'timm:test_resnet"):
        zoo.build(zoo.build("timm:test_resnet", weights=None).backbones["main"])


def test_weights_of_a_file_are_poured_into_it(tmp_path):
    from safetensors.torch import save_file

    source = Cnn()
    save_file(source.state_dict(), tmp_path / "cnn.safetensors")
    model = zoo.build(zoo.wrap(Cnn(), inputs=images()), HEAD, weights=tmp_path / "cnn.safetensors")

    assert torch.equal(model.backbones["main"].native.conv.weight, source.conv.weight)


@pytest.mark.parametrize("make", [Cnn, lambda: Cnn()])
def test_a_bundle_needs_the_module_and_gives_it_its_tensors(model, tmp_path, make):
    model.freeze("s1")
    path = model.save(tmp_path / "bundle")

    for given in (make, make()):
        again = zoo.load(path, modules={"main": given})
        x = images()
        with torch.no_grad():
            assert torch.equal(model(x)["kind"], again(x)["kind"])
        assert again.frozen() == model.frozen()
        assert again.spec == model.spec
    assert zoo.verify(path).ok


def test_without_the_module_the_error_says_which_class_and_how(model, tmp_path):
    path = model.save(tmp_path / "bundle")

    with pytest.raises(zoo.BundleError, match=r"needs code: .*'main' is a '.*Cnn'.*modules=\{'main': Cnn\(…\)\}"):
        zoo.load(path)
    report = zoo.verify(path, run=True)
    assert not report.ok
    assert "needs code" in report.problems[0]
    assert "needs code" in (path / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"main": lambda: Cnn(width=16)}, "does not fit|do not fit"),
        ({"main": nn.Linear(2, 2)}, "does not fit"),
        ({"main": lambda: "net"}, "must be or make a torch module, got str"),
        ({"main": Cnn, "more": Cnn}, "takes no module for the stream 'more'"),
        ({"main": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(model, tmp_path, modules, message):
    path = model.save(tmp_path / "bundle")

    with pytest.raises(zoo.BundleError, match=message):
        zoo.load(path, modules=modules)


def test_a_bundle_of_a_provider_takes_no_module(tmp_path):
    path = zoo.build("timm:test_resnet", HEAD, weights=None, seed=0).save(tmp_path / "bundle")

    with pytest.raises(zoo.BundleError, match="takes no module for the stream 'main'"):
        zoo.load(path, modules={"main": Cnn})


@pytest.mark.parametrize(
    "change",
    [{"more": 1}, {"pooling": "sum"}, {"layouts": {"s9": "NCHW"}}, {"output": "tokens"}, {"moved": 7}],
    ids=lambda change: next(iter(change)),
)
def test_a_spec_that_zoo_never_writes_is_refused(change):
    from dataclasses import replace

    spec = zoo.wrap(Cnn(), inputs=images()).spec

    with pytest.raises(zoo.ConfigError):
        zoo.wrap(Cnn(), spec=replace(spec, construction={**spec.construction, **change}))


def test_frozen_features_are_kept_apart_where_the_code_differs(tmp_path):
    from zoo.training.features.store import FeatureStore

    class Louder(Cnn):
        def forward(self, x):
            return 2 * super().forward(x)

    one, other = Cnn(), Louder()
    other.load_state_dict(one.state_dict())
    stores = [
        FeatureStore(zoo.build(zoo.wrap(net, inputs=images(), name="net"), HEAD, seed=0), tmp_path)
        for net in (one, other, one)
    ]

    assert stores[0].folders["main"] != stores[1].folders["main"]
    assert stores[0].folders["main"] == stores[2].folders["main"]


def test_a_module_off_which_nothing_is_cut_serves_one_model_after_another():
    backbone = zoo.wrap(Cnn(), inputs=images())

    zoo.build(backbone, zoo.head("classifier", classes=["a", "b"]))

    with torch.no_grad():
        assert backbone(images(), Want(maps=("s1",))).maps["s1"].ndim == 4

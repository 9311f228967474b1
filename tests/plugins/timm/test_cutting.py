"""Whole models on timm backbones keep and run only what their heads read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import zoo
from zoo.contracts.features import Want
from zoo.contracts.head import Needs
from zoo.errors import CapabilityError, ConfigError
from zoo.reference import Reference
from zoo.registry import registry
from zoo_heads.regression import Regression
from zoo_timm.backbone import TimmBackbone
from zoo_timm.provider import TimmProvider


class OnMap(Regression):
    """A linear regression on the mean of the map at 1/8, which timm's last stages come after."""

    @classmethod
    def reads(cls, config):
        return Needs(reductions=(8,))

    def __init__(self, spec, config, context):
        super().__init__(spec, config, context)
        stage = next(stage for stage in context.streams[self.stream].maps if stage.reduction == 8)
        self.layers = torch.nn.Linear(stage.channels, 1)

    def score(self, features):
        (found,) = features.maps.values()
        return self.layers(found.mean((2, 3))).squeeze(1)


@pytest.fixture
def on_map(registry_with):
    return registry_with("cutting", zoo_heads=lambda: {"on_map": "zoo_cutting:OnMap"}, OnMap=OnMap)


def backbone(text: str) -> TimmBackbone:
    provider = TimmProvider()
    return provider.build(provider.spec(Reference.parse(f"timm:{text}")), weights=None).eval()


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_efficientnet", "ghostnet_050", pytest.param("hrnet_w18_small", marks=pytest.mark.slow)],
)
def test_a_model_that_reads_an_early_map_has_no_later_layer_and_comes_back_from_its_bundle(on_map, tmp_path, name):
    whole = backbone(name)
    model = zoo.build(f"timm:{name}", "on_map", weights=None, seed=0)
    image = torch.randn(2, 3, 96, 96)
    ours = model.backbones["main"]
    stages = [stage.name for stage in ours.spec.stages]
    read = next(stage.name for stage in ours.spec.maps if stage.reduction == 8)

    zoo.save(model, tmp_path / "bundle")
    again = zoo.load(tmp_path / "bundle")

    with torch.no_grad():
        assert torch.equal(again(image)["on_map"], model(image)["on_map"])
    assert set(ours.state_dict()) < set(whole.state_dict())
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in whole.parameters())
    assert {ours.stage_of(n) for n, _ in ours.native.named_parameters()} <= set(stages[: stages.index(read) + 1])
    assert not (tmp_path / "bundle" / "backbones" / "main" / "config.json").exists()
    assert again.backbones["main"].state_dict().keys() == ours.state_dict().keys()


def test_every_parameter_of_a_cut_model_learns(on_map):
    model = zoo.build("timm:test_resnet", "on_map", weights=None).train()

    model(torch.randn(2, 3, 64, 64))["on_map"].sum().backward()

    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_layers_after_the_last_map_that_is_wanted_do_not_run():
    whole, ran = backbone("test_convnext"), []
    for path, module in whole.native.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.append(path))

    found = whole(torch.zeros(1, 3, 64, 64), Want(pooled=False, maps=("s2",)))

    assert list(found.maps) == ["s2"]
    assert found.pooled is None
    assert {whole.stage_of(path) for path in ran} == {"stem", "s1", "s2"}


def test_a_whole_model_keeps_the_file_with_which_timm_loads_it(tmp_path):
    model = zoo.build("timm:test_resnet", zoo.head("regression"), weights=None)
    zoo.save(model, tmp_path / "bundle")

    assert (tmp_path / "bundle" / "backbones" / "main" / "config.json").exists()


def test_a_cut_backbone_gives_what_was_kept_and_says_what_it_cannot_give_any_more():
    cut = backbone("test_vit")
    cut.trim(Want(pooled=False, maps=("s1", "s2")))
    image = torch.zeros(1, 3, 160, 160)

    assert list(cut(image, Want(pooled=False, maps=("s1",))).maps) == ["s1"]
    for want in (Want(), Want(pooled=False, maps=("s3",)), Want(pooled=False, tokens=True)):
        with pytest.raises(CapabilityError, match=r"was cut to what gives s1 and s2, and \S+ is wanted; build it anew"):
            cut(image, want)
        with pytest.raises(CapabilityError, match="was cut to what gives s1 and s2"):
            cut.trim(want)
    cut.trim(Want(pooled=False, maps=("s1",)))
    assert list(cut(image, Want(pooled=False, maps=("s1",))).maps) == ["s1"]


@pytest.mark.parametrize(
    ("want", "words"),
    [(Want(tokens=True), "gives no tokens"), (Want(maps=("s9",)), "no map 's9'"), (Want(pooled=False), "nothing is")],
)
def test_a_cut_to_what_there_is_not_is_refused_and_takes_nothing_away(want, words):
    whole = backbone("test_resnet")
    keys = list(whole.state_dict())

    with pytest.raises(CapabilityError, match=words):
        whole.trim(want)

    assert list(whole.state_dict()) == keys


@pytest.mark.parametrize(
    "reading",
    [
        {"until": "post", "idle": ["no.such.module"], "beside": []},
        {"until": "s9", "idle": [], "beside": []},
    ],
)
def test_a_strangers_spec_that_names_what_is_not_there_is_refused(reading):
    spec = TimmProvider().spec(Reference.parse("timm:test_resnet"))
    hostile = replace(spec, construction={**spec.construction, "readings": {"pooled": reading}})
    built = registry().provider("timm").build(hostile, weights=None)

    with pytest.raises(ConfigError, match=r"which (ResNet|the backbone) does not have"):
        built.trim(Want())


@pytest.mark.parametrize("reading", [None, ["post"], {"until": "post"}, {"until": 1, "idle": [], "beside": []}])
def test_a_strangers_spec_that_says_nonsense_of_what_is_read_is_refused(reading):
    spec = TimmProvider().spec(Reference.parse("timm:test_resnet"))
    hostile = replace(spec, construction={**spec.construction, "readings": {"pooled": reading}})

    with pytest.raises(ConfigError, match="of what is read, which zoo never writes"):
        TimmProvider().build(hostile, weights=None)


@pytest.mark.slow
def test_a_cut_model_compiles_in_one_graph():
    cut = backbone("test_resnet")
    cut.trim(Want(pooled=False, maps=("s2",)))
    image, want = torch.randn(1, 3, 64, 64), Want(pooled=False, maps=("s2",))
    compiled = torch.compile(cut, fullgraph=True, backend="eager")

    with torch.no_grad():
        assert torch.equal(compiled(image, want).maps["s2"], cut(image, want).maps["s2"])

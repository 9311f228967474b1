"""Blocks of a stage, on the families that every library builds in its own way, and what a method sees of a backbone."""

import pytest

import zoo
from zoo.contracts.blocks import blocks_of, layer_of, outline_of, part_of
from zoo.contracts.outline import BackboneOutline, StageOutline, find_stage
from zoo.errors import UnknownName

# The numbers of layers that the papers and the libraries give; a stage that cannot be divided is one block.
FAMILIES = {
    "timm:resnet50": (1, 3, 4, 6, 3, 0),
    "timm:mobilenetv3_small_050": (1, 1, 2, 5, 3, 1),
    "timm:vit_tiny_patch16_224": (1, 3, 3, 3, 3, 1),
    "timm:swin_tiny_patch4_window7_224": (1, 2, 2, 6, 2, 1),
    "timm:convnext_atto": (1, 2, 2, 6, 2, 1),
    "timm:regnety_002": (1, 1, 1, 4, 7, 0),
    "timm:levit_128s": (1, 2, 3, 4, 0),
    "torchvision:vit_b_16": (1, 3, 3, 3, 3, 1),
    "torchvision:swin_t": (1, 2, 2, 6, 2, 1),
    "torchvision:densenet121": (1, 6, 12, 24, 16, 1),
    "torchvision:regnet_y_400mf": (1, 1, 3, 6, 6, 0),
    "hf:resnet": (1, 3, 4, 6, 3, 0),
}
QUICK = ("timm:regnety_002", "timm:convnext_atto", "timm:mobilenetv3_small_050")


def backbone(reference):
    return zoo.build(reference, weights=None).backbones["main"]


@pytest.mark.parametrize(
    "reference", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_stage_has_the_blocks_that_its_paper_gives_it_and_every_parameter_is_in_one(reference):
    one = backbone(reference)

    numbers, outline = blocks_of(one), outline_of(one)

    assert tuple(stage.blocks for stage in outline.stages) == FAMILIES[reference]
    for stage in outline.stages:
        held = {
            numbers[name]: parameter.numel()
            for name, parameter in one.native.named_parameters()
            if one.stage_of(name) == stage.name
        }
        assert sorted(held) == list(range(stage.blocks))
    assert sum(stage.parameters for stage in outline.stages) == sum(p.numel() for p in one.parameters())
    assert sum(stage.biases for stage in outline.stages) == sum(
        p.numel() for name, p in one.named_parameters() if name.endswith(".bias")
    )


@pytest.mark.slow
def test_layers_of_a_language_model_are_blocks():
    outline = outline_of(backbone("hf:bert"))

    assert [stage.blocks for stage in outline.stages] == [1, 3, 3, 3, 3, 0]


def test_blocks_follow_one_another_as_they_run_and_what_stands_before_the_first_belongs_to_it():
    numbers = blocks_of(backbone("timm:convnext_atto"))

    assert numbers["stages.2.downsample.0.weight"] == numbers["stages.2.blocks.0.conv_dw.weight"] == 0
    assert [numbers[f"stages.2.blocks.{at}.conv_dw.weight"] for at in range(6)] == list(range(6))
    assert numbers["stages.2.blocks.4"] == 4


def test_each_stage_of_two_layers_begins_anew():
    numbers = blocks_of(backbone("timm:test_vit"))

    assert [numbers[f"blocks.{at}.mlp.fc1.weight"] for at in range(6)] == [0, 1, 0, 0, 0, 1]
    assert numbers["norm.weight"] == 0


def test_a_parameter_is_a_weight_a_bias_or_an_adapters():
    assert part_of("native.layer1.0.bn1.bias") == "biases"
    assert part_of("native.layer1.0.bn1.weight") == "weights"
    assert part_of("native.layers.0.attn.relative_position_bias_table") == "weights"
    assert part_of("adapters.main.parts.layer1.0.conv1.lora_A.weight") == "adapters"


def test_an_adapters_parameter_is_found_beside_its_layer():
    one = backbone("timm:test_resnet")

    assert layer_of(one, "native.layer2.0.conv1.weight") == "layer2.0.conv1.weight"
    assert layer_of(one, "adapters.mine.parts.layer2.0.conv1.lora_A.weight") == "layer2.0.conv1"
    assert layer_of(one, "scale") is None


# --- the outline


OUTLINE = BackboneOutline(
    (
        StageOutline("stem", 1, 10),
        StageOutline("s1", 0, 0),
        StageOutline("s2", 3, 30),
        StageOutline("s3", 1, 40),
        StageOutline("s4", 0, 0),
        StageOutline("post", 1, 5),
    )
)


def test_a_method_steps_over_stages_without_parameters_and_takes_post_with_the_last_stage_before_it():
    assert OUTLINE.units() == (("stem",), ("s1", "s2"), ("s3", "s4", "post"))


@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 0, 5), (3, 0, 0), (3, 2, 1), (0, 2, 0), (3, 0, 1)])
def test_every_stage_is_in_exactly_one_step_in_order(counts):
    names = ("stem", "s1", "post")
    outline = BackboneOutline(tuple(StageOutline(n, int(c > 0), c) for n, c in zip(names, counts, strict=True)))

    units = outline.units()

    assert tuple(name for unit in units for name in unit) == names
    assert all(unit for unit in units)


def test_a_stage_is_found_in_every_stream_or_in_the_one_that_is_named():
    streams = {"rgb": OUTLINE, "flow": OUTLINE}

    assert find_stage(streams, "s3") == {"rgb": "s3", "flow": "s3"}
    assert find_stage(streams, "flow.s3") == {"flow": "s3"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("s9", r"There is no stage 's9'; the stages are stem, s1, s2, s3, s4, post\."),
        ("rgp.s3", r"There is no stream 'rgp' for the stage 'rgp\.s3'; there is rgb\."),
    ],
)
def test_an_unknown_stage_is_told_with_the_list(name, sentence):
    with pytest.raises(UnknownName, match=sentence):
        find_stage({"rgb": OUTLINE, "flow": OUTLINE}, name)

"""Networks of written-out blocks: timm's own networks spelled out are timm's own, and no letter goes unread."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch

import zoo
from zoo.catalog import resolve
from zoo.errors import ConfigError, UnknownName, WeightsError
from zoo.registry import registry
from zoo.spec import BackboneSpec
from zoo_timm.provider import TimmProvider

TINY = "ds_r1_k3_s2_c16_nre/ir_r2_k5_s2_e3_c24_se0.25_nhs"
HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}

# The tables of the papers (arXiv:1905.02244, table 2; 1807.11626, figure 7 without squeeze; EfficientNet-Lite 0).
SPELLED = {
    "mobilenetv3_small_100": (
        "ds_r1_k3_s2_e1_c16_se0.25_nre/ir_r1_k3_s2_e4.5_c24_nre,ir_r1_k3_s1_e3.67_c24_nre/"
        "ir_r1_k5_s2_e4_c40_se0.25,ir_r2_k5_s1_e6_c40_se0.25/ir_r2_k5_s1_e3_c48_se0.25/"
        "ir_r3_k5_s2_e6_c96_se0.25/cn_r1_k1_s1_c576"
    ),
    "mnasnet_100": (
        "ds_r1_k3_s1_c16_noskip/ir_r3_k3_s2_e3_c24/ir_r3_k5_s2_e3_c40/ir_r3_k5_s2_e6_c80/ir_r2_k3_s1_e6_c96/"
        "ir_r4_k5_s2_e6_c192/ir_r1_k3_s1_e6_c320_noskip"
    ),
    "efficientnet_lite0": (
        "ds_r1_k3_s1_e1_c16/ir_r2_k3_s2_e6_c24/ir_r2_k5_s2_e6_c40/ir_r3_k3_s2_e6_c80/ir_r3_k5_s1_e6_c112/"
        "ir_r4_k5_s2_e6_c192/ir_r1_k3_s1_e6_c320"
    ),
}


def spec_of(text: str) -> BackboneSpec:
    return TimmProvider().spec(resolve(f"timm:{text}").reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLED)
def test_the_librarys_own_blocks_spelled_out_are_the_librarys_own_network(name):
    spec = spec_of(f"{name}?blocks={SPELLED[name]}")
    ours = TimmProvider().build(spec, weights=None).eval()
    library = timm.create_model(name, num_classes=0).eval()
    whole = spec_of(name)
    ours.native.load_state_dict(library.state_dict())
    picture = torch.randn(2, 3, 64, 64)

    with torch.no_grad():
        assert torch.equal(ours(picture).pooled, library(picture))
    assert list(ours.native.state_dict()) == list(library.state_dict())
    assert str(ours.native) == str(library)
    assert spec.stages == whole.stages
    assert spec.parameters == whole.parameters == sum(p.numel() for p in library.parameters())
    assert spec.preprocessing == whole.preprocessing


def test_every_letter_is_in_the_network():
    net = TimmProvider().build(spec_of(f"mnasnet_100?blocks={TINY}&stem_width=8&last_width=40"), weights=None).native

    first, (one, two) = net.blocks[0][0], net.blocks[1]
    assert net.conv_stem.out_channels == 8
    assert net.conv_head.out_channels == 40
    assert (first.conv_dw.kernel_size, first.conv_dw.stride, first.conv_pw.out_channels) == ((3, 3), (2, 2), 16)
    assert (one.conv_dw.kernel_size, one.conv_dw.stride, two.conv_dw.stride) == ((5, 5), (2, 2), (1, 1))
    assert (one.conv_pw.out_channels, two.conv_pw.out_channels) == (3 * 16, 3 * 24)
    assert two.conv_pwl.out_channels == 24
    assert one.se.conv_reduce.out_channels == 16 // 4  # a quarter of the block's input
    assert (type(first.bn1.act).__name__, type(one.bn1.act).__name__) == ("ReLU", "Hardswish")


def test_a_multiplier_of_the_architecture_does_not_reach_the_written_widths():
    blocks = spec_of(f"mobilenetv3_small_050?blocks={TINY}")

    assert [stage.channels for stage in blocks.maps][-2:] == [16, 24]


@pytest.mark.slow
def test_a_bundle_of_written_blocks_is_loaded_in_a_fresh_process(tmp_path):
    model = zoo.build(f"timm:mnasnet_100?blocks={TINY}&img_size=32&last_width=40", HEAD, weights=None, seed=0)
    model.save(tmp_path / "own")
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save((picture, model(picture)["kind"].detach()), tmp_path / "said.pt")
    script = (
        "import torch, zoo; picture, said = torch.load('said.pt'); model = zoo.load('own');"
        "assert torch.equal(model(picture)['kind'], said);"
        "print(model.spec.streams['main'].backbone.construction['blocks']['blocks'])"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert told.stdout.strip() == TINY, told.stderr


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ("", "'' is none of the kinds cn, ds, dsa, er, ir"),
        ("mb_r1_k3_s1_c16", "'mb_r1_k3_s1_c16' is none of the kinds"),
        ("ir_r1_k3_s1_c16", "lacks e"),
        ("ir_r1_k4_s1_e2_c16", "has 'k4', which means nothing there"),
        ("ir_r1_k3_s3_e2_c16", "has 's3'"),
        ("ir_r1_k3_s1_e0_c16", "a ratio of nothing"),
        ("ir_r1_k3_s1_e2_c16_se2", "a ratio above 1"),
        ("ir_r1_k3_s1_e2_c16_q5", "has 'q5'"),
        ("ir_r1_r2_k3_s1_e2_c16", "says 'r' twice"),
        ("cn_r1_k3_s1_c16_se0.25", "has 'se0.25', which means nothing there"),
        ("ds_r1_k3_s1_e4_c16", "has 'e4', which means nothing there"),
        ("ir_r1_k3_s1_e2_c16//ir_r1_k3_s1_e2_c16", "'' is none of the kinds"),
    ],
)
def test_a_definition_that_the_library_would_read_otherwise_is_refused(blocks, told):
    with pytest.raises(ConfigError, match="blocks must be stages divided by") as caught:
        zoo.build(f'timm:mnasnet_100?blocks="{blocks}"', HEAD, weights=None)

    assert told in str(caught.value)


def test_widths_without_blocks_and_architectures_without_definitions_are_refused():
    with pytest.raises(ConfigError, match=r"stem_width go with blocks="):
        spec_of("mnasnet_100?stem_width=8")
    with pytest.raises(ConfigError, match="test_resnet is not made of timm's block definitions"):
        spec_of(f"test_resnet?blocks={TINY}")
    with pytest.raises(ConfigError, match="last_width must be a whole number of channels from 1 to 9999, got 0"):
        spec_of(f"mnasnet_100?blocks={TINY}&last_width=0")
    with pytest.raises(UnknownName, match="block"):
        spec_of(f"mnasnet_100?block={TINY}")


def test_there_are_no_pretrained_weights_for_blocks_of_ones_own():
    with pytest.raises(WeightsError, match="has no pretrained weights"):
        zoo.build(f"timm:mnasnet_100?blocks={TINY}", HEAD)


@pytest.mark.parametrize("blocks", [None, "ir_r1", {"blocks": TINY, "act_layer": "x"}, {"blocks": ["ir"]}, {}])
def test_blocks_that_zoo_never_writes_are_refused(blocks, monkeypatch):
    spec = spec_of(f"mnasnet_100?blocks={TINY}")
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("timm was asked to build it"))

    with pytest.raises(ConfigError):
        registry().provider("timm").build(
            replace(spec, construction={**spec.construction, "blocks": blocks}), weights=None
        )

"""How large a picture becomes, beside the functions of the libraries themselves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision.models.detection.transform import _resize_image_and_masks
from torchvision.transforms.v2.functional._geometry import _compute_resized_output_size
from transformers import SamImageProcessor
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width
from transformers.models.bridgetower.image_processing_bridgetower import get_resize_output_image_size as bridge_tower
from transformers.models.glm4v.image_processing_glm4v import smart_resize as glm
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size as pixtral
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as qwen
from transformers.models.yolos.image_processing_yolos import get_size_with_aspect_ratio_yolos

from zoo.errors import DataError
from zoo.preprocessing.geometry import RULES, scaled_size

SIDE = st.integers(1, 3000)
EDGE = st.integers(1, 1400)


def blank(height: int, width: int) -> torch.Tensor:
    return torch.empty(3, height, width, device="meta")


class Keep(ResizeKeepRatio):
    """timm's rule on a size alone."""

    def of(self, height: int, width: int) -> tuple[int, int]:
        return tuple(self.get_params(blank(height, width), self.size, self.longest))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE)
def test_one_number_is_the_shorter_side_as_in_torchvision_and_transformers(height, width, edge):
    ours = scaled_size(height, width, (edge,), "plain", 1, "down")

    picture = np.broadcast_to(np.uint8(0), (3, height, width))
    assert list(ours) == _compute_resized_output_size((height, width), [edge])
    assert ours == get_resize_output_image_size(
        picture, edge, default_to_square=False, input_data_format="channels_first"
    )


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE, EDGE)
def test_cover_and_contain_are_timms_rules(height, width, rows, columns):
    cover, contain = Keep((rows, columns)), Keep((rows, columns), longest=1.0)

    expected = {"cover": cover.of(height, width), "contain": contain.of(height, width)}
    for fit, size in expected.items():
        assert scaled_size(height, width, (rows, columns), fit, 1, "down") == tuple(max(1, side) for side in size)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE, EDGE)
def test_contain_down_is_transformers_largest_height_and_width(height, width, rows, columns):
    expected = get_image_size_for_max_height_width((height, width), rows, columns)

    assert scaled_size(height, width, (rows, columns), "contain_down", 1, "down") == tuple(max(1, n) for n in expected)


@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE)
def test_contain_half_up_is_the_rule_of_segment_anything(height, width, edge):
    expected = SamImageProcessor._get_preprocess_shape(SimpleNamespace(), (height, width), edge)

    assert scaled_size(height, width, (edge, edge), "contain_half_up", 1, "down") == tuple(max(1, n) for n in expected)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@example(512, 16, 16, 496, 16)
@example(16, 512, 16, 496, 16)
@given(SIDE, SIDE, EDGE, EDGE, st.sampled_from([1, 16]))
def test_limit_is_detrs_rule_and_in_multiples_that_of_yolos(height, width, shorter, longer, multiple):
    if multiple == 1:
        expected = get_size_with_aspect_ratio((height, width), shorter, longer)
    else:
        expected = get_size_with_aspect_ratio_yolos((height, width), shorter, longer)
    ours = scaled_size(height, width, (shorter, longer), "limit", multiple, "down")

    if min(expected) > 0:  # theirs fail where ours give the least size
        assert ours == tuple(expected)
    assert min(ours) >= multiple


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80), st.integers(1, 130))
def test_limit_down_is_the_rule_of_torchvisions_detectors(height, width, shorter, longer):
    picture = torch.zeros(3, height, width)
    assume(min(longer / max(height, width), shorter / min(height, width)) * min(height, width) >= 1)

    expected = _resize_image_and_masks(picture, shorter, longer)[0].shape[-2:]
    assert scaled_size(height, width, (shorter, longer), "limit_down", 1, "down") == tuple(expected)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE, st.integers(2, 64))
def test_limit_half_up_is_the_rule_of_bridge_tower(height, width, shorter, multiple):
    longer = int(1333 / 800 * shorter)
    expected = bridge_tower(blank(height, width), shorter, longer, multiple)

    ours = scaled_size(height, width, (shorter, longer), "limit_half_up", multiple, "down")

    assert ours == tuple(max(multiple, side) for side in expected)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, EDGE, st.integers(2, 64))
def test_within_is_the_rule_of_pixtral(height, width, edge, patch):
    picture = np.broadcast_to(np.uint8(0), (3, height, width))
    expected = pixtral(picture, (edge, edge), patch, input_data_format="channels_first")
    if min(expected) > 0:
        assert scaled_size(height, width, (edge, edge), "within", patch, "up") == expected


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RULES)), SIDE, SIDE, EDGE, EDGE, st.integers(1, 64), st.sampled_from(["down", "up"]))
def test_a_size_is_of_whole_multiples_and_keeps_the_shape_unless_it_need_not(
    fit, height, width, rows, columns, multiple, snap
):
    ours = scaled_size(height, width, (rows, columns), fit, multiple, snap)

    assert all(isinstance(side, int) and side >= multiple and side % multiple == 0 for side in ours)
    if fit in ("cover", "cover_factor") and multiple == 1:
        assert ours[0] >= rows
        assert ours[1] >= columns
    if fit.startswith("contain") and multiple == 1:
        assert ours[0] <= rows
        assert ours[1] <= columns


@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_the_rule_by_a_factor_is_a_pixel_beside_at_the_most(fit):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 2000, (2000, 2)).tolist():
        one, other = (scaled_size(height, width, (384, 384), name, 1, "down") for name in (fit, f"{fit}_factor"))
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_a_border_is_cut_and_filled_as_timm_does():
    from zoo.preprocessing import Preprocessing

    recipe = Preprocessing(size=(33, 36), resize=None, fill=(124, 116, 104), mean=(0.0,) * 3, std=(1.0,) * 3)
    for size in ((20, 20), (21, 50), (60, 10), (77, 81), (36, 33)):
        noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        theirs = np.asarray(CenterCropOrPad((33, 36), fill=(124, 116, 104))(Image.fromarray(noise)))

        ours = (recipe.apply(Image.fromarray(noise)) * 255).round().byte().permute(1, 2, 0)
        assert np.array_equal(ours.numpy(), theirs), size


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SIDE, SIDE, st.sampled_from((14, 28, 32)), st.integers(1, 10**5), st.integers(0, 10**7))
def test_a_budget_of_pixels_is_spent_as_qwen_and_glm_spend_it(height, width, multiple, least, more):
    budget = (least, least + more)
    rules = {
        "budget": lambda: qwen(height, width, multiple, *budget),
        "budget_whole": lambda: glm(2, height, width, 2, multiple, 2 * budget[0], 2 * budget[1]),
    }
    for fit, theirs in rules.items():
        try:
            expected = theirs()
        except ValueError:
            with pytest.raises(DataError, match="at most 200 times the shorter"):
                scaled_size(height, width, budget, fit, multiple, "down")
            continue
        assert scaled_size(height, width, budget, fit, multiple, "down") == tuple(max(multiple, n) for n in expected)

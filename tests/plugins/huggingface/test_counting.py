"""The sizes of pictures whose pixels are counted, against transformers' own functions, over pictures of any shape."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MiniCPMV4_6ImageProcessor
from transformers.models.gemma4.image_processing_gemma4 import get_aspect_ratio_preserving_size
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.muse_glimmer.image_processing_muse_glimmer import smart_resize as muse
from transformers.models.paddleocr_vl.image_processing_paddleocr_vl import smart_resize as paddle
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from zoo.errors import ConfigError, DataError
from zoo.preprocessing import Preprocessing
from zoo.preprocessing.geometry import scaled_size

SIDE = st.integers(1, 3000)
MINICPM = MiniCPMV4_6ImageProcessor()
RULES: dict[str, tuple[Callable[[int, int, int, int], tuple[int, int]], Callable[[int, int], tuple[int, ...]]]] = {
    "budget_up": (
        lambda height, width, block, most: get_image_size_for_max_num_patches(height, width, block, most),
        lambda block, most: (most * block**2,),
    ),
    "budget_down": (
        lambda height, width, block, most: get_aspect_ratio_preserving_size(height, width, block, most, 1),
        lambda block, most: (most * block**2,),
    ),
    "budget_near": (
        lambda height, width, block, most: muse(height, width, block, most),
        lambda block, most: (most * block**2,),
    ),
    "budget_area": (
        lambda height, width, block, most: MINICPM.find_best_resize(
            (height, width), most * block, block, "none", allow_upscale=True
        ),
        lambda block, most: ((most * block) ** 2,),
    ),
    "budget_raised": (
        lambda height, width, block, most: paddle(height, width, block, block**2, most * block**2),
        lambda block, most: (block**2, most * block**2),
    ),
    "budget_free": (
        lambda height, width, block, most: Lfm2VlImageProcessor.smart_resize(
            SimpleNamespace(), height, width, 1, max(1, most // 4), most, block
        )[::-1],
        lambda block, most: (max(1, most // 4) * block**2, most * block**2),
    ),
}
"""Rule to transformers' own function of height, width, block and most blocks, and the rule's numbers of pixels."""


@pytest.mark.slow
@pytest.mark.parametrize("fit", RULES)
@settings(max_examples=300, deadline=None)
@given(SIDE, SIDE, st.integers(4, 64), st.integers(4, 300))
def test_a_counting_rule_gives_the_size_of_the_librarys_own_function(fit, height, width, block, most):
    theirs, pixels = RULES[fit]
    multiple = block * 4 if fit == "budget_area" else block  # that one's merges twice
    try:
        expected = theirs(height, width, block, most)
    except ValueError:  # too long a picture
        with pytest.raises(DataError, match="cut it"):
            scaled_size(height, width, pixels(block, most), fit, multiple, "down")
        return

    assert scaled_size(height, width, pixels(block, most), fit, multiple, "down") == tuple(expected)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"resize": (64, 4096), "fit": "budget_up"}, "fit 'budget_up' needs one number in resize"),
        ({"resize": (64,), "fit": "budget_raised"}, "fit 'budget_raised' needs two numbers in resize"),
        ({"resize": (4096,), "fit": "budget_near", "crop": "center"}, "needs crop='none'"),
        ({"resize": (4096, 64), "fit": "budget_free"}, "the least number of pixels before the largest"),
    ],
)
def test_numbers_that_a_counting_rule_cannot_use_are_refused(fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Preprocessing(**{"size": (32, 32), "multiple": 16, "crop": "none", **fields})

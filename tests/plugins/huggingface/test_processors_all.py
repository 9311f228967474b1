"""Every image processor of transformers that can be made from its defaults: said exactly, nearly, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.spec import InputSpec
from zoo.strict import from_json, to_json
from zoo_huggingface.pictures import Pictures
from zoo_huggingface.processors import as_preprocessing, as_processor
from zoo_huggingface.quiet import quiet
from zoo_huggingface.recipes import BY_ITSELF

NAMES = sorted({name for row in IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in row.values() if name})
# Pictures are none of those by which a recipe is proven when it is read.
SIZES = ((123, 77), (64, 151), (431, 317))
NEAR = {"DepthProImageProcessor", "PPDocLayoutV2ImageProcessor", "PPDocLayoutV3ImageProcessor"}
"""Classes whose numbers are ours but for the last bit, since they normalise before they scale, or by nothing."""
REASONS = {
    "EfficientLoFTR": "compares two pictures",
    "Fuyu": "that has no vision tower",
    "ImageGPT": "the numbers of colour clusters",
    "Inkling": "for a tower that is not served",
    "LightGlue": "compares two pictures",
    "SuperGlue": "compares two pictures",
    "VitMatte": "takes a trimap",
    "VitPose": "takes the boxes",
}
"""Classes that are refused, by the beginning of their names."""
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"do_image_splitting": False} for name in ("Idefics2", "Idefics3", "Lfm2Vl", "SmolVLM", "UltraVBert")},
    **{name: {"crop_to_patches": False} for name in ("Cohere2Vision", "GraniteDocling")},
    **{name: {"apply_ocr": False} for name in ("LayoutLMv2", "LayoutLMv3")},
    "Llama4": {"max_patches": 1},
    "Mllama": {"max_image_tiles": 1},
    "MiniCPMOcr": {"slice_mode": False},
    "MiniCPMV4_6": {"slice_mode": False},
    "PerceptionLM": {"vision_input_type": "vanilla"},
}
"""Classes that are made so that they cut no tiles and read no texts; of the others the first tile is the whole."""
PIXELS_FIRST = ("Cosmos3Edge", "Gemma4", "Inkling2", "Kosmos2_5", "Lfm2Vl", "Molmo2", "NeoMME", "Pix2Struct", "Siglip2")
"""Classes whose patches are pixels, then channels; the others have channels before pixels."""
ROW_BY_ROW = (
    *(
        "Gemma4",
        "HunYuan",
        "Inkling2",
        "Kimi",
        "Kosmos2_5",
        "Lfm2Vl",
        "MiniCPM",
        "Molmo2",
        "Muse",
        "Nemotron",
        "NeoMME",
    ),
    *("PaddleOCRVL", "Pix2Struct", "Siglip2"),
)
"""Classes whose patches lie row by row; those of the others lie block by block."""


def noise(width: int, height: int, bands: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, bands), dtype=np.uint8))


def short(name: str) -> str:
    return name.removesuffix("Pil").removesuffix("ImageProcessor")


def alone(name: str) -> Any:
    """Make a processor so that it gives one picture."""
    return get_image_processor_class_from_name(name)(**SETTINGS.get(short(name), {}))


def theirs(processor: Any, picture: Image.Image) -> torch.Tensor:
    """Give the one picture in what the processor gives: the whole one, before any tiles."""
    with quiet():
        found = processor(images=picture, return_tensors="pt")
    if isinstance(found, torch.Tensor):
        return found[0].float()
    keys = ("pixel_values", "image_pixel_values", "flattened_patches")
    value = next(value for key, value in found.items() if key in keys or key == "pixel_values_images")
    grid = grid_of(processor, found)
    if grid is None:
        return value.reshape(-1, *value.shape[-3:])[0].float()
    name = type(processor).__name__
    if name.startswith("MiniCPM"):  # side by side, one patch high
        side = processor.patch_size
        rows = value[0].reshape(3, side, -1, side).movedim(2, 0)
    elif name.startswith(("Kosmos2_5", "Pix2Struct")):
        rows = value[0, :, 2:]
    else:
        rows = value[0] if value.ndim == 3 else value
    return picture_of(name, rows, *grid, side_of(processor), getattr(processor, "merge_size", 1)).float()


def side_of(processor: Any) -> int:
    name = type(processor).__name__
    if name.startswith("Inkling2"):
        return int(processor.size["height"])
    if name.startswith("Lfm2Vl"):
        return int(processor.encoder_patch_size)
    side = processor.patch_size if isinstance(processor.patch_size, int) else processor.patch_size["height"]
    return int(side * (processor.pooling_kernel_size if name.startswith("Gemma4Unified") else 1))


def grid_of(processor: Any, found: Any) -> tuple[int, int] | None:
    """Count the patches down and across; None where the picture is in one piece."""
    if type(processor).__name__.startswith("Molmo2"):
        return (processor.size["height"] // processor.patch_size,) * 2
    keys = ("image_grid_thw", "image_grid_hw", "spatial_shapes")
    if type(processor).__name__.startswith("MiniCPM"):
        keys = ("target_sizes",)
    if (key := next((key for key in keys if key in found), None)) is not None:
        down, across = found[key][0].tolist()[-2:]
        return down, across
    if "image_position_ids" in found:
        across, down = (found["image_position_ids"][0].max(0).values + 1).tolist()
        return down, across
    if "flattened_patches" in found:
        down, across = found["flattened_patches"][0, :, :2].max(0).values.int().tolist()
        return down, across
    return None


def picture_of(name: str, patches: torch.Tensor, rows: int, columns: int, side: int, merge: int) -> torch.Tensor:
    """Lay patches out one by one."""
    picture = torch.empty(3, rows * side, columns * side)
    places = [(row, column) for row in range(rows) for column in range(columns)]
    if not name.startswith(ROW_BY_ROW):
        places.sort(key=lambda place: (place[0] // merge, place[1] // merge, place))
    for patch, (row, column) in zip(patches, places, strict=False):  # some fill the row up
        if name.startswith(PIXELS_FIRST):
            pixels = patch.reshape(side, side, 3).permute(2, 0, 1)
        elif name.startswith("Muse"):
            pixels = patch.reshape(-1, 3, side, side)[0]
        else:
            pixels = patch.reshape(3, -1, side, side)[:, 0]
        picture[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = pixels
    return picture


def run(name: str) -> Pictures:
    """Make what runs a class with its defaults."""
    takes = InputSpec(name="image", kind="image", rank=4, channels=3, size=(224, 224))
    return Pictures("hf:x", "", {"image_processor_type": name}, takes, None)


@pytest.fixture(scope="module")
def read() -> dict[str, tuple[Any, Preprocessing | str]]:
    """Give for each class its processor, and what it is read as: a recipe, or the sentence that refuses it."""
    found: dict[str, tuple[Any, Preprocessing | str]] = {}
    for name in NAMES:
        with quiet():
            try:
                processor = get_image_processor_class_from_name(name)()
            except TypeError:  # one class needs an argument, timm's configuration
                assert name == "TimmWrapperImageProcessor"
                continue
        try:
            found[name] = processor, as_preprocessing(processor)
        except ConfigError as error:
            found[name] = processor, str(error)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_processor_is_said_exactly_or_nearly_or_run_itself_or_refused_with_its_reason(read):
    exact, near, itself, refused = set(), set(), set(), set()

    for name, (processor, said) in read.items():
        if short(name) in REASONS:
            assert isinstance(said, str)
            assert name.removesuffix("Pil") in said
            assert REASONS[short(name)] in said
            with pytest.raises(ConfigError, match=REASONS[short(name)]):
                run(name)
            refused.add(name)
            continue
        prepare = run(name) if isinstance(said, str) else said.apply
        pictures = [noise(*size) for size in SIZES]
        if getattr(processor, "do_convert_rgb", None) and not name.startswith("SegGpt"):  # which converts masks alone
            pictures.append(noise(90, 70, 4))
        pairs = [(prepare(picture), theirs(alone(name), picture)) for picture in pictures]
        assert all(ours.shape == other.shape for ours, other in pairs), name
        if isinstance(said, str):
            assert all(torch.equal(*pair) for pair in pairs), name
            itself.add(name)
            continue
        assert from_json(Preprocessing, to_json(said)) == said
        levels = torch.tensor(said.std)[:, None, None] / said.scale
        assert max(float(((ours - other) * levels).abs().max()) for ours, other in pairs) <= 1, name
        (exact if all(torch.equal(*pair) for pair in pairs) else near).add(name)

    assert near == NEAR
    assert {name.removesuffix("Pil") for name in itself} >= BY_ITSELF.keys()
    assert (len(exact), len(near), len(itself), len(refused)) == (155, 3, 52, 15)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_recipe_on_tensors_is_written_back_as_a_processor_of_the_same_numbers(read):
    written = 0

    for name, (_, said) in read.items():
        if isinstance(said, str):
            continue
        content = as_processor(said)
        assert (content is None) == (said.on == "pil" or said.fit.startswith("budget")), name
        if content is None:
            continue
        written += 1
        with quiet():
            again = get_image_processor_class_from_name(content.pop("image_processor_type"))(**content)
        levels = torch.tensor(said.std)[:, None, None] / said.scale
        for size in SIZES[:2]:
            ours, other = said.apply(noise(*size)), theirs(again, noise(*size))
            assert ours.shape == other.shape, name
            assert float(((ours - other) * levels).abs().max()) <= 1, name

    assert written >= 62

"""Preprocessing read from image processors, against the processors themselves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from zoo.errors import ConfigError
from zoo.preprocessing import Preprocessing
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo_huggingface.processors import as_preprocessing, as_processor
from zoo_huggingface.provider import HuggingFaceProvider

PROVIDER = HuggingFaceProvider()
VIT = {
    "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 64, "image_size": 32, "patch_size": 8,
}  # fmt: skip
SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, dict[str, Any]] = {
    "BeitImageProcessor": {"size": SQUARE},
    "BitImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "CLIPImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 28}, "crop_pct": 0.875},
    "DeiTImageProcessor": {"size": {"height": 36, "width": 36}, "crop_size": SQUARE, "resample": 1},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
    "PvtImageProcessor": {"size": SQUARE, "rescale_factor": 1 / 127.5},
    "SegformerImageProcessor": {"size": {"height": 32, "width": 48}, "do_normalize": False},
    "SiglipImageProcessor": {"size": SQUARE, "do_rescale": False},
    "ViTImageProcessor": {"size": SQUARE},
}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def spec_of(folder: Path, options: str = "", **files: Any) -> BackboneSpec:
    (folder / "config.json").write_text(json.dumps(VIT))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return PROVIDER.spec(Reference.parse(f"hf:{folder}{options}"))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(64, 64), (80, 40), (50, 100)])
def test_a_picture_becomes_the_processors_own_tensor(name, size):
    processor = getattr(transformers, name)(**PROCESSORS[name])
    said = as_preprocessing(processor)
    picture = noise(*size)

    ours, theirs = said.apply(picture), processor(images=picture, return_tensors="pt")["pixel_values"][0]

    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5 * max(1, float(theirs.abs().max())))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("DonutImageProcessor", "DonutImageProcessor makes a thumbnail of a picture before it is padded"),
        ("Kimi_K25ImageProcessor", "Kimi_K25ImageProcessor pads a picture to whole patches"),
        ("LightGlueImageProcessor", "LightGlueImageProcessor compares two pictures"),
        ("Owlv2ImageProcessor", "Owlv2ImageProcessor blurs a picture before it is scaled"),
        ("PerceiverImageProcessor", "PerceiverImageProcessor cuts a picture before it is scaled"),
    ],
)
def test_a_processor_that_does_more_is_named_and_not_imitated(name, sentence):
    with pytest.raises(ConfigError) as caught:
        as_preprocessing(getattr(transformers, name)())

    assert sentence in str(caught.value)


class Brighter(transformers.ViTImageProcessor):
    """A class that does what none of its flags says."""

    def resize(self, image: torch.Tensor, **settings: Any) -> torch.Tensor:
        return super().resize(image, **settings) // 2 + 128


def test_a_class_that_does_what_its_flags_do_not_say_is_found_out_by_the_proof():
    with pytest.raises(ConfigError, match="Brighter gives other numbers than scaling, cropping and normalising do"):
        as_preprocessing(Brighter())


def test_pictures_of_no_fixed_size_keep_their_shape():
    said = as_preprocessing(transformers.ViTImageProcessor(size={"shortest_edge": 32}))

    assert not said.fixed
    assert said.apply(noise(80, 40)).shape == (3, 32, 64)
    assert said.at((48, 48)).apply(noise(80, 40)).shape == (3, 48, 48)


@pytest.mark.parametrize(
    "name", ["CLIPImageProcessor", "DeiTImageProcessor", "SamImageProcessor", "ViltImageProcessor"]
)
def test_a_recipe_is_written_as_a_processor_that_transformers_loads(name, tmp_path):
    said = as_preprocessing(getattr(transformers, name)(**PROCESSORS.get(name, {})))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(as_processor(said)))

    loaded = transformers.AutoImageProcessor.from_pretrained(tmp_path)

    picture = noise(83, 47)
    theirs = loaded(images=picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(said.apply(picture), theirs)


def test_a_file_cannot_ask_for_the_form_on_pictures_so_none_is_written(tmp_path):
    processor = transformers.CLIPImageProcessorPil(**PROCESSORS["CLIPImageProcessor"])
    processor.save_pretrained(tmp_path)

    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path)) is transformers.CLIPImageProcessor
    assert as_processor(as_preprocessing(processor)) is None


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "CLIPImageProcessorPil"])
def test_what_is_clear_is_laid_over_white_where_the_processor_does_so(name):
    picture = noise(80, 40, "RGBA")
    processor = getattr(transformers, name)(**PROCESSORS["CLIPImageProcessor"])

    theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]

    assert torch.equal(as_preprocessing(processor).apply(picture), theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 1, "mean": (0.5,), "std": (0.5,)},  # for three channels only
        {"resize": (40, 60), "fit": "cover"},  # timm's rule, which no processor has
        {"on": "pil", "resize": (35,)},  # timm's and torchvision's odd margins, which no processor has
        {"crop": "corner"},  # pads with black before normalising, processors pad after it
        {"fill": (9,)},
    ],
    ids=str,
)
def test_a_recipe_that_no_processor_follows_is_not_written(changes):
    base = {"size": (32, 32), "resize": (30,), "on": "tensor"}

    assert as_processor(Preprocessing(**{**base, **changes})) is None


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("kind", ["VideoMAEImageProcessor", "VivitImageProcessor"])
def test_a_clip_becomes_the_processors_own_with_channels_first(kind, backend):
    if not hasattr(transformers, kind + backend):
        backend = ""  # Vivit's has one form only
    processor = getattr(transformers, kind + backend)(size={"shortest_edge": 36}, crop_size=SQUARE)
    frames = [noise(83, 47).rotate(90 * n) for n in range(4)]

    theirs = processor(frames, return_tensors="pt")["pixel_values"][0]

    ours = as_preprocessing(processor).apply(frames)
    assert torch.allclose(ours, theirs.transpose(0, 1), atol=1e-6)
    assert ours.shape == (3, 4, 32, 32)


@pytest.mark.parametrize("kind", ["VideoMAEImageProcessor", "VivitImageProcessor"])
def test_a_recipe_for_clips_is_written_as_a_processor_of_clips(kind, tmp_path):
    said = as_preprocessing(getattr(transformers, kind)(size={"shortest_edge": 36}, crop_size=SQUARE))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(as_processor(said, clips=True)))

    loaded = transformers.AutoImageProcessor.from_pretrained(tmp_path)

    frames = [noise(83, 47).rotate(90 * n) for n in range(4)]
    theirs = loaded(frames, return_tensors="pt")["pixel_values"]
    assert type(loaded).__name__ == kind
    assert torch.allclose(said.apply(frames), theirs[0].transpose(0, 1), atol=1e-6)


@pytest.mark.parametrize("file", ["preprocessor_config", "processor_config"])
def test_a_folders_processor_is_read_from_either_file(file, tmp_path):
    content: dict[str, Any] = {
        "feature_extractor_type": "ViTFeatureExtractor", "size": 32, "image_mean": [0.1, 0.2, 0.3], "resample": 3
    }  # fmt: skip
    spec = spec_of(tmp_path, **{file: content if file.startswith("pre") else {"image_processor": content}})

    assert spec.preprocessing.resize == (32, 32)
    assert spec.preprocessing.interpolation == "bicubic"
    assert spec.preprocessing.on == "tensor"
    assert spec.preprocessing.mean == (0.1, 0.2, 0.3)


def test_without_a_processor_pictures_are_scaled_to_the_size_and_to_minus_one_and_one(tmp_path):
    expected = Preprocessing(
        size=(32, 32), resize=(32, 32), interpolation="bilinear", on="tensor", mean=(0.5,) * 3, std=(0.5,) * 3
    )

    assert spec_of(tmp_path).preprocessing == expected


def test_options_carry_the_recipe_over_to_another_size_and_other_channels(tmp_path):
    content = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 36}, "crop_size": SQUARE}

    said = spec_of(tmp_path, "?img_size=64&in_channels=2", preprocessor_config=content).preprocessing

    assert said.size == (64, 64)
    assert said.resize == (72,)
    assert len(said.mean) == said.channels == 2


def test_a_processor_that_gives_no_picture_is_logged_and_the_backbone_still_builds(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="zoo"):
        spec = spec_of(tmp_path, preprocessor_config={"image_processor_type": "LightGlueImageProcessor"})

    assert spec.preprocessing is None
    assert spec.inputs[0].size == (32, 32)
    assert "its preprocessing is not known, so give it tensors that are ready" in caplog.text
    assert "LightGlueImageProcessor compares two pictures" in caplog.text


def test_a_processor_that_is_run_itself_leaves_the_recipe_out_and_says_nothing(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="zoo"):
        spec = spec_of(tmp_path, preprocessor_config={"image_processor_type": "DonutImageProcessor"})

    assert spec.preprocessing is None
    assert caplog.text == ""


def test_a_processor_of_a_repositorys_own_code_is_never_made(tmp_path, caplog):
    content = {"image_processor_type": "EvilProcessor", "auto_map": {"AutoImageProcessor": "evil.EvilProcessor"}}

    spec = spec_of(tmp_path, preprocessor_config=content)

    assert spec.preprocessing is None
    assert "transformers has no image processor 'EvilProcessor'" in caplog.text

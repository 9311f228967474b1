"""Files of every kind become what the library's own transform makes of the file as its users open it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image, ImageOps
from torchvision.transforms._presets import ImageClassification

from zoo.data import FileSample
from zoo.preprocessing import Preprocessing

CLIP = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 36})
CLIP_PIL = transformers.CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 36})
CLIP_FIELDS = {
    "size": (33, 36), "resize": (40,), "alpha": "white", "mean": tuple(CLIP.image_mean), "std": tuple(CLIP.image_std)
}  # fmt: skip
TIMM = timm.data.create_transform((3, 48, 48), crop_pct=0.9, interpolation="bicubic", is_training=False)
LIBRARIES: dict[str, tuple[Preprocessing, Callable[[Image.Image], torch.Tensor]]] = {
    "timm": (Preprocessing(size=(48, 48), resize=(53,)), TIMM),
    "torchvision": (
        Preprocessing(size=(41, 41), resize=(46,), interpolation="bilinear"),
        ImageClassification(crop_size=41, resize_size=46),
    ),
    "transformers on tensors": (
        Preprocessing(on="tensor", **CLIP_FIELDS),
        lambda picture: CLIP(images=picture, return_tensors="pt")["pixel_values"][0],
    ),
    "transformers on pictures": (
        Preprocessing(rules="transformers", **CLIP_FIELDS),
        lambda picture: CLIP_PIL(images=picture, return_tensors="pt")["pixel_values"][0],
    ),
}
SIZES = {
    "landscape": (97, 61),
    "portrait": (60, 121),
    "tiny": (5, 3),
    "smaller than the crop": (31, 70),
    "equal": (48, 48),
}
"""Width and height in pixels; most leave odd margins."""


def noise(size: tuple[int, int], bands: int = 4, top: int = 256) -> np.ndarray:
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    kind = np.uint8 if top == 256 else np.uint16
    return rng.integers(0, top, (size[1], size[0], bands), dtype=kind)


def sixteen_bits(path: Path, size: tuple[int, int], bands: int = 3) -> np.ndarray:
    """Write a PNG of 16 bits a channel, which Pillow itself cannot."""
    levels = noise(size, bands, 65536)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", *size, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return levels


def written(kind: str, folder: Path, size: tuple[int, int]) -> Path:
    """Write a file of a kind, and give its path."""
    rgba = Image.fromarray(noise(size))
    rgb = rgba.convert("RGB")
    path = folder / "picture.png"
    if kind == "16-bit colour":
        sixteen_bits(path, size)
    elif kind == "palette with transparency":
        palette = rgb.quantize(16)
        palette.save(path, transparency=bytes(range(0, 256, 16)))
    elif kind == "palette with one clear colour":
        rgb.quantize(16).save(path, transparency=3)
    elif kind == "grey with one clear level":
        rgb.convert("L").save(path, transparency=0)
    elif kind.startswith("turned"):
        path = folder / "picture.jpg"
        exif = Image.Exif()
        exif[0x0112] = int(kind[-1])
        rgb.save(path, exif=exif, quality=95)
    elif kind in ("JPEG", "JPEG CMYK", "JPEG L"):
        path = folder / "picture.jpg"
        rgb.convert(kind.removeprefix("JPEG ") if " " in kind else "RGB").save(path, quality=90)
    elif kind == "TIFF CMYK":
        path = folder / "picture.tiff"
        rgb.convert("CMYK").save(path)
    elif kind == "GIF":
        path = folder / "picture.gif"
        rgb.save(path)
    else:
        (rgba if kind in ("RGBA", "LA") else rgb).convert(kind).save(path)
    return path


KINDS = (
    "RGB", "L", "1", "P", "palette with transparency", "palette with one clear colour", "grey with one clear level",
    "LA", "RGBA", "16-bit colour", "JPEG", "JPEG L", "JPEG CMYK", "TIFF CMYK", "GIF",
    *(f"turned {n}" for n in range(1, 9)),
)  # fmt: skip
CLEAR = {kind for kind in KINDS if "transparency" in kind or "clear" in kind} | {"LA", "RGBA"}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_bit_for_bit_what_the_librarys_users_get(kind, library, tmp_path):
    ours, theirs = LIBRARIES[library]

    for what, size in SIZES.items():
        path = written(kind, tmp_path, size)
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            # transformers lays what is clear over white itself; to timm and torchvision users give RGB.
            given = upright if kind in CLEAR and library.startswith("transformers") else upright.convert("RGB")
            assert torch.equal(ours.apply(FileSample(path).open()), theirs(given)), what


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_turned_file_has_the_width_and_height_that_a_person_sees(turn, tmp_path):
    opened = FileSample(written(f"turned {turn}", tmp_path, (30, 20))).open()

    assert opened.size == ((20, 30) if turn >= 5 else (30, 20))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_16_bit_grey_is_its_high_byte_as_pillow_reads_16_bit_colour(size, suffix, tmp_path):
    path = tmp_path / f"deep.{suffix}"
    levels = noise(size, 1, 65536)[..., 0]
    Image.fromarray(levels).save(path)
    opened = FileSample(path).open()

    assert opened.mode.startswith("I")
    high = Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    for ours, theirs in LIBRARIES.values():
        assert torch.equal(ours.apply(opened), theirs(high))


def test_16_bit_colour_is_read_by_pillow_as_its_high_byte(tmp_path):
    levels = sixteen_bits(tmp_path / "deep.png", (7, 5))

    opened = FileSample(tmp_path / "deep.png").open()

    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), (levels >> 8).astype(np.uint8))


@pytest.mark.parametrize(("mode", "undone"), [("RGBa", "RGBA"), ("La", "LA")])
def test_a_picture_multiplied_by_its_alpha_is_the_one_before(mode, undone):
    picture = Image.fromarray(noise((9, 8))).convert(undone).convert(mode)
    recipe = Preprocessing(size=(8, 9), resize=None, alpha="white")

    assert torch.equal(recipe.apply(picture), recipe.apply(picture.convert(undone)))


def test_floats_are_clipped_to_eight_bits_as_pillow_does():
    picture = Image.fromarray(np.linspace(-10, 300, 64, dtype=np.float32).reshape(8, 8))
    recipe = Preprocessing(size=(8, 8), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)

    expected = np.asarray(picture).clip(0, 255).astype(np.uint8)
    assert torch.equal(recipe.apply(picture)[1] * 255, torch.from_numpy(expected).float())

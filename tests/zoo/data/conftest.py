"""Pictures drawn on the spot, so that no test needs a file of its own."""

import io
from pathlib import Path

import pytest
from PIL import Image


def encoded(colour=(200, 30, 30), *, size=(8, 6), form="JPEG", orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form, exif=exif)
    return stream.getvalue()


@pytest.fixture
def jpeg():
    return encoded()


@pytest.fixture
def draw(tmp_path):
    """Write a picture under the temporary folder and give its path."""

    def write(name, colour=(200, 30, 30), **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        forms = {".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF", ".ppm": "PPM"}
        path.write_bytes(encoded(colour, form=forms.get(path.suffix.lower(), "JPEG"), **options))
        return path

    return write


@pytest.fixture
def pets(tmp_path, draw) -> Path:
    """A folder of two classes, two pictures each."""
    for name in ("cat/1.jpg", "cat/2.png", "dog/1.jpg", "dog/2.jpg"):
        draw(f"pets/{name}")
    return tmp_path / "pets"

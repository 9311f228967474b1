"""A working folder as the pages describe it, and no network."""

import csv
import socket
from pathlib import Path

import pytest
from PIL import Image

KINDS = {"cat": (200, 120, 40), "dog": (60, 90, 180)}


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with ``photos/cat``, ``photos/dog``, ``cat.jpg`` and ``labels.csv``; the current one."""
    rows = []
    for kind, colour in KINDS.items():
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            name = f"photos/{kind}/{number:02}.jpg"
            noise = Image.effect_noise((96, 80), 60).convert("RGB")
            Image.blend(noise, Image.new("RGB", noise.size, colour), 0.7).save(tmp_path / name)
            coat = "" if number % 5 == 4 else ("short", "long")[number % 2]
            rows.append((name, kind, 2 + number / 4, coat))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "species", "weight", "coat"), *rows])
    Image.open(tmp_path / "photos/cat/00.jpg").save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / ".store"))
    return tmp_path


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Refuse every connection to another machine."""

    def refuse(self, address):
        raise OSError(f"a page that is said to work offline asks for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)

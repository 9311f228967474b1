"""The command line run in this process, pictures drawn on the spot, and plugins that a stranger might install."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from zoo.catalog import catalog_of
from zoo.cli import main
from zoo.registry import registry


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def zoo(capsys) -> Callable[..., Result]:
    """Run ``zoo`` with some arguments."""

    def run(*argv: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def pets(tmp_path) -> Path:
    """A folder of two classes that a network can tell apart by colour, ten pictures each."""
    root = tmp_path / "pets"
    for name, colour in (("cat", (200, 30, 30)), ("dog", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (40, 32), tuple(c + 2 * number for c in colour)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def install(tmp_path, monkeypatch) -> Iterator[Callable[[str, str], None]]:
    """Install a package with one plugin: its name, its module's source, and the package that brings it."""
    site = tmp_path / "site"
    modules: list[str] = []

    def make(name: str, source: str, distribution: str = "") -> None:
        distribution = distribution or f"zoo-{name}"
        module = f"{distribution.replace('-', '_')}_module"
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)
        modules.append(module)
        monkeypatch.syspath_prepend(str(site))
        registry.cache_clear()
        catalog_of.cache_clear()

    yield make
    for module in modules:
        sys.modules.pop(module, None)
    registry.cache_clear()
    catalog_of.cache_clear()

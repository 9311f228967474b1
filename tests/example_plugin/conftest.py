"""Lets zoo's own tests use this package without installing it. A copy of the package does not need this file."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.catalog import catalog_of
from zoo.registry import registry

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the modules import one another by the package's name


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write the metadata that an installation would."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    info = tmp_path_factory.mktemp("site") / "zoo_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["zoo"]
    (info / "entry_points.txt").write_text("[zoo]\n" + "".join(f"{name} = {at}\n" for name, at in points.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(info.parent))
        registry.cache_clear()
        catalog_of.cache_clear()
        yield
    registry.cache_clear()
    catalog_of.cache_clear()

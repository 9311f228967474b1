"""What is in the wheel: the packages, their catalogs, the mark of typing, and nothing else."""

import re
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def names(root, tmp_path_factory) -> list[str]:
    """Build the wheel without a network and list its files."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = out.iterdir()
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_only_zoo_and_its_plugins_are_at_the_top(names, project):
    packages = project["project"]["entry-points"]["zoo"].values()
    info = f"headzoo-{project['project']['version']}.dist-info"

    assert {name.partition("/")[0] for name in names} == {"zoo", *packages, info}


def test_every_catalog_and_the_mark_of_typing_are_inside(names, root):
    catalogs = {f"{path.parent.name}/catalog.json" for path in root.glob("plugins/*/catalog.json")}

    assert {"zoo_timm/catalog.json", "zoo_torchvision/catalog.json", *catalogs} <= set(names)
    assert "zoo/py.typed" in names


def test_no_test_and_no_leftover_is_inside(names):
    guilty = [name for name in names if re.search(r"(^|/)(tests?|conftest\.py|__pycache__|test_[^/]*)(/|$)", name)]

    assert guilty == []
    assert {name.rpartition(".")[2] for name in names if "dist-info" not in name} == {"py", "json", "typed"}


def test_the_licence_goes_with_it(names):
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)

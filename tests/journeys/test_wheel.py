"""A stranger's day: the wheels of zoo and of the example plugin, in a fresh environment, used from another folder.

Nothing is fetched. The fresh environment has its own site-packages with the two wheels in it, and behind it, by a
``.pth`` file, the libraries that the tests themselves run on.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_plugin"
KINDS = {"cat": (200, 120, 40), "dog": (60, 90, 180)}
# Both refuse every connection to another machine, in every process of the environment; processes may talk to one
# another.
NO_NETWORK = """
import socket
local = socket.socket.connect
def refuse(own, *args, **kwargs):
    if getattr(own, "family", None) == getattr(socket, "AF_UNIX", "none"):
        return local(own, *args, **kwargs)
    raise OSError("these tests have no network")
socket.socket.connect = socket.create_connection = refuse
"""


@dataclass(frozen=True)
class Place:
    """A fresh environment, and a folder to work in.

    Args:
        bin: The environment's commands.
        site: Its own site-packages.
        work: The folder.
    """

    bin: Path
    site: Path
    work: Path

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's commands in the folder."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ZOO_", "PIP_"))}
        env = {**clean, "ZOO_CACHE": str(self.work / ".cache"), "PYTHONWARNINGS": "ignore"}
        name, *rest = map(str, command)
        return subprocess.run([str(self.bin / name), *rest], cwd=self.work, env=env, capture_output=True, text=True)

    def ok(self, *command: object) -> str:
        """Run a command that must succeed, and give what it wrote to stdout."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def python(self, code: str) -> str:
        """Run Python code that must succeed."""
        return self.ok("python", "-c", code)


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Place:
    """Build both wheels and install them into a fresh environment, without a network."""
    base = tmp_path_factory.mktemp("journey")
    for source in (ROOT, EXAMPLE):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(base / "wheels")]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True, capture_output=True)
    scheme = {"base": str(base / "venv"), "platbase": str(base / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv" if "venv" in sysconfig.get_scheme_names() else None, scheme))
    commands = Path(sysconfig.get_path("scripts", "venv" if "venv" in sysconfig.get_scheme_names() else None, scheme))
    # A plain path in a .pth file is appended to sys.path, and the .pth files of that folder are not read: so the
    # libraries come after the wheels, and an editable zoo among them is not found.
    (site / "behind.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (site / "no_network.py").write_text(NO_NETWORK)
    (site / "no_network.pth").write_text("import no_network\n")  # a system's Python may have a sitecustomize of its own
    work = base / "work"
    _draw(work)
    made = Place(commands, site, work)
    wheels = sorted(map(str, (base / "wheels").iterdir()))
    made.ok("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", *wheels)
    return made


def _draw(folder: Path) -> None:
    """Draw the pictures that the README names, and a table of them."""
    rows = []
    for kind, colour in KINDS.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            name = f"photos/{kind}/{number:02}.jpg"
            noise = Image.effect_noise((96, 80), 60).convert("RGB")
            Image.blend(noise, Image.new("RGB", noise.size, colour), 0.7).save(folder / name)
            rows.append((name, kind, 2 + number / 4))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "species", "weight"), *rows])
    shutil.copy(folder / "photos/cat/00.jpg", folder / "cat.jpg")


def test_the_wheel_is_what_runs_and_not_the_checkout(place):
    code = """
import importlib.metadata as m, json, socket, zoo, zoo_acme, zoo_timm, torch
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    network = str(error)
print(json.dumps({
    "files": [zoo.__file__, zoo_acme.__file__, zoo_timm.__file__, str(m.distribution("headzoo").locate_file("zoo"))],
    "torch": torch.__file__,
    "version": m.version("headzoo"),
    "own": zoo.__version__,
    "network": network,
}))
"""

    told = json.loads(place.python(code))

    assert all(Path(file).is_relative_to(place.site) for file in told["files"]), told
    assert not Path(told["torch"]).is_relative_to(place.site)
    assert told["version"] == told["own"]
    assert told["network"] == "these tests have no network"


def test_the_readme_runs_word_for_word(place):
    block = re.search(r"```python\n(import zoo\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)

    told = place.python(block[1]).splitlines()[-1].split()

    assert told[0] in KINDS
    assert 0.5 <= float(told[1]) <= 1
    assert json.loads(place.ok("zoo", "verify", "pets", "--run", "--json"))["ok"] is True


def test_the_conformance_kit_passes_outside_the_checkout(place):
    shutil.copytree(EXAMPLE / "tests", place.work / "acme-tests")

    told = place.ok(
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "zoo.testing.pytest_plugin", "acme-tests")
    )

    assert " passed" in told.splitlines()[-1]


def test_the_commands_do_the_main_job(place):
    out = place.work / "tiny"
    data = "labels.csv"

    fitted = place.ok(
        *("zoo", "fit", data, "--out", out, "--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "2"),
        *("--method", "feature_extraction", "--json"),
    )
    predicted = json.loads(place.ok("zoo", "predict", out, "cat.jpg", "--json"))
    measured = json.loads(place.ok("zoo", "evaluate", out, data, "--json"))

    assert json.loads(fitted)["rows"] == {"train": 19, "validation": 5}
    assert predicted[0]["predictions"]["species"]["label"] in KINDS
    assert set(predicted[0]["predictions"]) == set(measured) == {"species", "weight"}
    assert place.ok("zoo", "verify", out, "--run").startswith(f"{out}: ok")


def test_a_strangers_plugin_is_a_full_member_until_it_is_uninstalled(place):
    plugins = {one["name"]: one for one in json.loads(place.ok("zoo", "plugins", "--json"))}
    listed = json.loads(place.ok("zoo", "list", "acme:*", "--json"))
    head = '{"type": "temperature_classifier", "name": "kind", "temperature": 2.0}'
    place.ok(
        *("zoo", "fit", "photos", "--out", "acme", "--backbone", "acme:tinynet?width=8", "--weights", "none"),
        *("--head", head, "--method", "heads_then_all", "--set", "backbone_lr_scale=0.5", "--epochs", "2"),
    )
    predicted = json.loads(place.ok("zoo", "predict", "acme", "cat.jpg", "--json"))

    assert plugins["acme"]["ok"] is True
    assert plugins["acme"]["distribution"] == "zoo-acme"
    assert plugins["acme"]["heads"] == ["temperature_classifier"]
    assert plugins["acme"]["methods"] == ["heads_then_all"]
    assert [one["reference"] for one in listed] == ["acme:tinynet"]
    assert predicted[0]["predictions"]["kind"]["label"] in KINDS
    assert json.loads(place.ok("zoo", "verify", "acme", "--run", "--json"))["ok"] is True

    place.ok("python", "-m", "pip", "uninstall", "--quiet", "--yes", "zoo-acme")
    refused = place.run("zoo", "predict", "acme", "cat.jpg")

    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "needs the plugin 'acme' of zoo-acme, which is not installed" in refused.stderr
    assert "acme" not in {one["name"] for one in json.loads(place.ok("zoo", "plugins", "--json"))}

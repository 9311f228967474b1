"""Bundles of someone who means harm, at a URL: as in a folder they end in an error or in the honest model."""

import runpy
import shutil
from pathlib import Path

import fsspec
import pytest
import torch

import zoo
from zoo.errors import ZooError

pytestmark = pytest.mark.slow

attacking = runpy.run_path(str(Path(__file__).parents[1] / "bundle" / "attacking.py"))
ATTACKS = {name: attack for base in ("timm", "signed") for name, attack in attacking["ATTACKS"][base].items()}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """An honest model, and the folder of each attack on it; links and pipes cannot be at a URL."""
    home = tmp_path_factory.mktemp("attacked")
    pet = zoo.head("classifier", name="pet", classes=["cat", "dog"])
    model = zoo.build("timm:test_vit", pet, weights=None, seed=0)
    model.save(home / "honest")
    for name, attack in ATTACKS.items():
        shutil.copytree(home / "honest", home / name)
        attack(home / name, home / "sentinel")
    return model, home


def upload(folder, url):
    memory = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            memory.pipe(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def entries(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_is_at_a_url_does_no_more_than_in_a_folder(attacked, tmp_path, monkeypatch):
    model, home = attacked
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    before, outcomes = entries(home), {}
    for name in ATTACKS:
        upload(home / name, "memory://hostile/pets")
        found = []
        for call in (zoo.load, zoo.inspect, zoo.verify):
            try:
                found.append(call("memory://hostile/pets"))
            except ZooError:
                found.append(None)
        loaded = found[0]  # what is not there is taken from an earlier download, by its digest
        if loaded is not None:
            own = model.state_dict()
            assert own.keys() == loaded.state_dict().keys()
            assert all(torch.equal(tensor, own[key]) for key, tensor in loaded.state_dict().items())
        outcomes[name] = loaded is not None
        fsspec.filesystem("memory").store.clear()

    assert entries(home) == before
    assert not (home / "sentinel").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    made = {path.name for path in (tmp_path / "cache").iterdir()}  # what was read is remembered once it is 2 s old
    assert "remote" in made <= {"remote", "verified"}
    assert 5 < sum(outcomes.values()) < len(outcomes) - 20

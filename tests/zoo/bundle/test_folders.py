"""What a folder may hold: names that are one on some systems, hard links, folders without end, too many files."""

import json
import os
import subprocess

import pytest

import zoo
from zoo.bundle import manifest
from zoo.errors import BundleError

CLASHES = {
    "case": ("A.json", "a.json"),
    "case of a folder": ("A/x.json", "a/X.json"),
    "the manifest": ("zoo.json", "b.json"),
    "the manifest in capitals": ("ZOO.JSON", "b.json"),
    "the card in other letters": ("readme.MD", "b.json"),
    "a file that is a folder": ("README.md/x", "b.json"),
    "a folder in other letters": ("Readme.md/x", "b.json"),
    "a file under the manifest": ("zoo.json/x", "b.json"),
}


@pytest.mark.parametrize("case", sorted(CLASHES))
def test_names_that_are_one_on_some_systems_are_refused(bundle, make, case):
    make.rewrite(bundle, lambda data: data["files"].update(dict.fromkeys(CLASHES[case], data["files"]["README.md"])))

    with pytest.raises(BundleError):
        zoo.load(bundle)


def test_a_hard_link_is_a_file_like_any_other_and_checked_as_one(bundle, tmp_path):
    file = bundle / "heads/pet/model.safetensors"
    os.link(file, tmp_path / "second name")
    zoo.load(bundle)

    with open(tmp_path / "second name", "r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\xff")

    with pytest.raises(BundleError, match="not what was saved"):
        zoo.load(bundle)


def test_a_hard_link_to_a_secret_is_refused_without_a_word_of_it(bundle, tmp_path):
    (tmp_path / "secret").write_text("the secret word")
    file = bundle / "README.md"
    file.unlink()
    os.link(tmp_path / "secret", file)

    with pytest.raises(BundleError) as caught:
        zoo.load(bundle)
    assert "secret word" not in str(caught.value)


@pytest.mark.parametrize("depth", [50, 1_500])
def test_folders_in_folders_without_end_are_a_problem_and_no_crash(bundle, depth):
    """Unlisted folders are not read by load, and verify names them."""
    here = os.open(bundle, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)

    try:
        zoo.load(bundle)
        report = zoo.verify(bundle)
    finally:
        subprocess.run(["rm", "-rf", bundle / "d"], check=True)  # Python's own way is too deep for itself

    assert len(report.extra) == 1
    assert report.extra[0].startswith("d/d/")
    assert not report.ok


def test_a_manifest_may_name_ten_thousand_files_and_no_more(bundle, make):
    entry = json.loads((bundle / "zoo.json").read_bytes())["files"]["README.md"]
    make.rewrite(bundle, lambda data: data["files"].update({f"f{i}": entry for i in range(10_001)}))

    with pytest.raises(BundleError, match="10000 files at the most"):
        manifest.read((bundle / "zoo.json").read_bytes(), "zoo.json")


@pytest.fixture
def delta(make, tmp_path, monkeypatch):
    """A bundle that differs from another in little, beside it, and no store that has its base."""
    first = make.tiny().save(tmp_path / "home" / "first")
    path = make.tiny(seed=0).save(tmp_path / "home" / "delta", kind="delta", base=first)
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "another store"))
    zoo.load(path)
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "a third store"))
    return path


@pytest.mark.parametrize(
    "path", ["/etc", "../../../../etc/..", "C:\\x", "\\\\server\\share", "a\0b", "~/x", "file:///etc"]
)
def test_a_base_is_not_looked_for_at_such_a_path(delta, make, path):
    make.rewrite(delta, lambda data: data["bases"]["main"].update(path=path))

    with pytest.raises(BundleError, match="a base cannot be at"):
        zoo.load(delta)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("path", ["../delta", "../copy", "../nowhere", "../file", "../pipe"])
def test_a_base_that_is_no_bundle_or_based_on_itself_is_refused(delta, make, path):
    make.copy(delta)
    (delta.parent / "file").write_text("x")
    os.mkfifo(delta.parent / "pipe")
    make.rewrite(delta, lambda data: data["bases"]["main"].update(path=path))
    make.rewrite(delta.parent / "copy", lambda data: data["bases"]["main"].update(path="../delta"))

    with pytest.raises(BundleError):
        zoo.load(delta)
    assert not zoo.verify(delta, run=True).ok

"""``zoo store`` as its user runs it."""

import os

import pytest

from zoo.bundle.store import GRACE, Store


@pytest.fixture
def first(tmp_path, monkeypatch):
    """Save a model, and another on top of it."""
    import zoo

    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    head = zoo.head("classifier", classes=["a", "b"])
    model = zoo.build("timm:test_vit", head, weights=None, seed=0)
    return model.save(tmp_path / "first"), model.save(tmp_path / "task", kind="delta", base=tmp_path / "first")


def test_an_empty_store_is_listed_verified_and_cleaned(zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    assert zoo("store", "list").out.startswith("0 backbones")
    assert zoo("store", "list", "--json").json == []
    assert zoo("store", "verify").code == 0
    assert zoo("store", "gc").out == "0 backbones in 0 files removed, 0.0 MB\n"
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_base_is_listed_verified_and_kept_while_it_is_needed(zoo, first):
    told = zoo("store", "list")
    assert "timm:test_vit" in told.out
    [stored] = zoo("store", "list", "--json").json
    assert stored["bundles"] == [str(first[1])]
    assert zoo("store", "verify", "--json").json["ok"]
    for path in Store().root.rglob("*"):
        if path.is_file():
            os.utime(path, (0, path.stat().st_mtime - 2 * GRACE))
    assert zoo("store", "gc", "--missing", "--json").json["states"] == []
    for file in [f for f in first[1].rglob("*") if f.is_file()]:
        file.unlink()
    assert zoo("store", "gc", "--missing", "--dry-run").out.startswith("1 backbones in 1 files would be removed")
    assert zoo("store", "gc", "--missing", "--json").json["states"] == [stored["state_digest"]]


@pytest.mark.slow
def test_a_damaged_file_makes_verifying_exit_with_1(zoo, first):
    [blob] = [f for f in (Store().root / "blobs").rglob("*") if f.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    told = zoo("store", "verify")
    assert told.code == 1
    assert "problem:" in told.out
    assert "Traceback" not in told.err


@pytest.mark.slow
def test_a_bundle_puts_back_what_was_lost(zoo, first, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "other"))
    moved = first[0].rename(tmp_path / "moved")
    assert zoo("verify", first[1]).code == 1
    [digest] = zoo("store", "add", moved, "--json").json
    assert digest.startswith("zsd1:blake3:")
    assert zoo("verify", first[1], "--run").code == 0
    assert zoo("store", "add", "nowhere").code == 2
    assert zoo("store", "add", "timm:no_such_model").code == 2

"""What the cache folder holds is told and removed piece by piece; what is in use, or not ours, stays."""

import json
import os
import subprocess
import sys
import time

import pytest

import zoo
from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import FileEntry
from zoo.clearing import DAY, HOUR, KINDS, clear_cache, list_cache
from zoo.errors import ConfigError, UnknownName
from zoo.remote.shelf import Shelf
from zoo.training.features.evicting import hold


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def age(path, days):
    """Make a file or a folder, and all in it, older."""
    then = time.time() - days * DAY
    for one in (path, *path.rglob("*")):
        os.utime(one, (then, then))


def file(path, size=10, days=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    age(path, days)
    return path


def store(root, name, days=0.0):
    file(root / "features" / name / "one.safetensors", 100)
    lock = file(root / "features" / f"{name}.lock", 0, days)
    return lock.with_suffix("")


def bundle(root, address, contents, days):
    """Download a bundle, as it were, so many days ago."""
    shelf = Shelf.of_user()
    entries = {name: FileEntry(size=len(data), blake3=digest_of(data)) for name, data in contents.items()}
    for name, entry in entries.items():
        if not shelf.has(entry):
            with shelf.part(entry) as part:
                part.write(contents[name])
                shelf.keep(part, entry)
        os.utime(shelf.blob(entry.blake3), (time.time() - days * DAY,) * 2)
    data = json.dumps(sorted(contents)).encode()
    folder = shelf.assemble(digest_of(data), data, entries)
    shelf.remember(address, folder.name)
    age(folder, days)
    age(root / "remote" / "seen" / address, days)
    return folder, [shelf.blob(entry.blake3) for entry in entries.values()]


def names(entries):
    return sorted(entry.path.name for entry in entries)


def test_an_empty_cache_holds_nothing_and_nothing_is_made(root):
    assert list_cache() == []
    assert clear_cache().removed == ()
    assert not root.exists()


def test_everything_that_zoo_keeps_is_listed_with_its_size_and_its_last_use(root):
    store(root, "a" * 32, days=3)
    bundle(root, "k", {"heads.safetensors": b"h" * 50}, days=2)
    for kind in ("weights", "specs", "catalog", "verified"):
        file(root / kind / "inner" / "one.json", 7, days=1)

    found = {entry.kind: entry for entry in list_cache()}

    assert list(found) == list(KINDS)
    assert found["features"].bytes == 100
    assert found["remote"].bytes == 50 + len('["heads.safetensors"]')
    assert found["specs"].bytes == 7
    days = {kind: round((time.time() - entry.used) / DAY) for kind, entry in found.items()}
    assert days == {"features": 3, "remote": 2, "weights": 1, "specs": 1, "catalog": 1, "verified": 1}


def test_what_is_older_than_some_days_goes_of_the_kinds_that_are_named(root):
    old, new = store(root, "a" * 32, days=40), store(root, "b" * 32, days=3)
    spec = file(root / "specs" / "timm" / "one.json", days=40)

    assert names(clear_cache(["features"], older_than=30, dry_run=True).removed) == [old.name]
    assert old.is_dir()
    found = clear_cache(["features"], older_than=30)

    assert names(found.removed) == [old.name]
    assert found.kept == ()
    assert not old.exists()
    assert not old.with_name(f"{old.name}.lock").exists()
    assert new.is_dir()
    assert spec.is_file()


def test_a_store_that_another_process_uses_stays(root):
    used, free = store(root, "a" * 32, days=40), store(root, "b" * 32, days=40)
    code = "import sys; from pathlib import Path; from zoo.training.features.evicting import hold\n"
    code += "kept = hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert {entry.path.name: entry.busy for entry in list_cache()} == {used.name: True, free.name: False}
        found = clear_cache()
        other.stdin.close()

    assert names(found.removed) == [free.name]
    assert names(found.kept) == [used.name]
    assert used.is_dir()
    assert names(clear_cache().removed) == [used.name]


def test_a_store_that_is_taken_up_after_it_was_listed_stays(root):
    folder = store(root, "a" * 32, days=40)
    [entry] = list_cache()
    held = hold(folder)

    assert not entry.remove()
    assert folder.is_dir()
    assert held is not None


def test_listing_does_not_count_as_use(root):
    folder = store(root, "a" * 32, days=40)
    folder.with_name(f"{folder.name}.lock").unlink()
    age(folder, 40)
    before = list_cache()[0].used

    assert list_cache()[0].used == before


def test_a_bundle_goes_with_the_blobs_that_no_other_has(root):
    old, (shared, own) = bundle(root, "old", {"a": b"shared", "b": b"of the old one"}, days=40)
    new, (_, other) = bundle(root, "new", {"a": b"shared", "c": b"of the new one"}, days=3)

    found = clear_cache(["remote"], older_than=30)

    assert names(found.removed) == [old.name]
    assert not old.exists()
    assert not own.exists()
    assert shared.is_file()
    assert other.is_file()
    assert [path.name for path in (root / "remote" / "seen").iterdir()] == ["new"]
    assert (new / "a").read_bytes() == b"shared"
    clear_cache(["remote"])
    assert [path for path in (root / "remote").rglob("*") if path.is_file()] == []


def test_a_bundle_of_the_last_hour_stays_and_so_do_blobs_while_something_is_downloaded(root):
    fresh, _ = bundle(root, "fresh", {"a": b"one"}, days=0)
    old, (blob,) = bundle(root, "old", {"b": b"two"}, days=40)
    part = file(root / "remote" / "parts" / f"{'0' * 64}.part")

    found = clear_cache(["remote"])

    assert names(found.removed) == [old.name]
    assert fresh.is_dir()
    assert part.is_file()
    assert blob.is_file()
    age(part, 2 * HOUR / DAY)
    clear_cache(["remote"])
    assert not part.exists()
    assert not blob.exists()


def test_what_zoo_did_not_make_stays(root, tmp_path):
    mine = file(root / "my pictures" / "cat.png", days=400)
    beside = file(root / "remote" / "notes.txt", days=400)
    outside = file(tmp_path / "elsewhere" / "one.safetensors", days=400)
    (root / "features").mkdir()
    (root / "features" / "link").symlink_to(outside.parent)

    assert clear_cache().removed == ()
    assert mine.is_file()
    assert beside.is_file()
    assert outside.is_file()


def test_a_file_that_is_being_written_stays(root):
    half = file(root / "specs" / "timm" / ".one.json.123")

    assert names(clear_cache().kept) == [half.name]
    assert half.is_file()


def test_what_was_cleared_is_made_again(root):
    head = zoo.head("classifier", name="kind", classes=["a", "b"])
    zoo.build("timm:test_resnet", head, weights=None)
    assert any(entry.kind == "specs" for entry in list_cache())

    clear_cache()

    assert list_cache() == []
    zoo.build("timm:test_resnet", head, weights=None)
    assert any(entry.kind == "specs" for entry in list_cache())


def test_an_unknown_kind_and_days_below_none_are_refused(root):
    with pytest.raises(UnknownName, match=r"The cache has no kind 'feature'; .* Did you mean features"):
        clear_cache(["feature"])
    for days in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="older_than must be a number of days, 0 or more"):
            clear_cache(older_than=days)

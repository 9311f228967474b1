"""The store: what is in it stays whole, whatever others do at once, and rather too much stays than too little."""

import json
import multiprocessing
import os
import shutil

import pytest
import torch

import zoo
from zoo.bundle.digest import state_digest
from zoo.bundle.store import GRACE, Store
from zoo.errors import BundleError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def some(seed, size=1000):
    draw = torch.Generator().manual_seed(seed)
    large, small = torch.randn(size, generator=draw), torch.randn(3, 4, generator=draw)
    return {"a": large, "b.weight": small, "n": torch.tensor(seed)}


def age(store, seconds=2 * GRACE):
    for path in store.root.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))


def files(store, folder="blobs"):
    return sorted(path for path in (store.root / folder).rglob("*") if path.is_file())


@pytest.fixture
def based(tmp_path, monkeypatch):
    """Save a bundle on top of one in the store."""
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    model = zoo.build("timm:test_vit", zoo.head("regression", name="age"), weights=None, seed=0)
    return model, model.save(tmp_path / "task", kind="delta", base=model)


def test_what_is_put_in_comes_out_and_is_kept_once(store):
    given = some(0)
    digest = store.put(given, label="some")
    assert store.put({name: given[name] for name in reversed(given)}, label="again") == digest == state_digest(given)

    got = store.get(digest)
    assert got.keys() == given.keys()
    assert all(torch.equal(got[name], tensor) and got[name].dtype == tensor.dtype for name, tensor in given.items())
    assert [stored.label for stored in store.entries()] == ["some"]
    assert len(files(store)) == 1
    assert files(store)[0].stat().st_mode & 0o777 == 0o444


def test_writing_to_a_tensor_does_not_write_to_the_store(store):
    digest = store.put(some(0), label="some")
    store.get(digest)["a"].zero_()

    assert torch.equal(store.get(digest)["a"], some(0)["a"])
    assert store.verify() == []


def test_what_is_not_there_or_no_digest_is_said(store):
    with pytest.raises(BundleError, match=r"has no tensors zsd1:blake3:0000"):
        store.get("zsd1:blake3:" + "0" * 64)
    for wrong in ("", "../../x", "zsd1:blake3:" + "A" * 64, "zsd1:sha256:" + "0" * 64):
        with pytest.raises(BundleError, match="looks like zsd1:blake3"):
            store.get(wrong)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:],
    ],
    ids=["cut", "longer", "empty", "flipped"],
)
def test_a_damaged_file_is_found_by_reading_and_by_verifying(store, spoil):
    digest = store.put(some(0), label="some")
    [blob] = files(store)
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(spoil(data))

    with pytest.raises(BundleError, match="damaged"):
        store.get(digest)
    assert len(store.verify()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"blob": 1}', '{"state_digest": "x", "blob": "../../../etc/passwd"}'])
def test_damaged_knowledge_is_an_error_and_no_reason_to_remove_anything(store, text):
    digest = store.put(some(0), label="some")
    store.put(some(1), label="other")
    age(store)
    (store.root / "states" / f"{digest.rpartition(':')[2]}.json").write_text(text)

    with pytest.raises(BundleError, match="damaged"):
        store.get(digest)
    assert len(store.verify()) == 1
    store.collect(missing=True)
    assert len(files(store)) == 2


def test_a_blob_named_outside_the_store_is_refused(store):
    digest = store.put(some(0), label="some")
    path = store.root / "states" / f"{digest.rpartition(':')[2]}.json"
    content = json.loads(path.read_text())
    for wrong in ("../" * 21 + "x", "A" * 64, "0" * 63, "/" * 64):
        path.write_text(json.dumps({**content, "blob": wrong}))
        with pytest.raises(BundleError, match="malformed"):
            store.get(digest)


def test_only_what_no_bundle_needs_is_removed(based, tmp_path):
    model, bundle = based
    store = Store()
    unused = store.put(some(0), label="unused")
    assert store.collect().states == ()  # it is young
    age(store)
    assert store.collect(dry_run=True).states == (unused,)
    assert len(files(store)) == 2
    assert store.collect().states == (unused,)
    assert len(files(store)) == 1

    moved = bundle.rename(tmp_path / "moved")
    age(store)
    assert store.collect().states == ()  # it may come back
    moved.rename(bundle)
    assert store.collect(missing=True).states == ()
    assert zoo.verify(bundle).ok
    model.save(bundle, overwrite=True)  # with all its tensors
    [stored] = store.entries()
    assert store.collect().states == (stored.state_digest,)
    assert files(store) == files(store, "states") == files(store, "bundles") == []


def test_a_bundle_that_is_gone_needs_nothing_if_the_user_says_so(based):
    store = Store()
    shutil.rmtree(based[1])
    age(store)
    assert store.collect().states == ()
    assert len(store.collect(missing=True).states) == 1
    assert files(store) == []


def test_a_bundle_that_cannot_be_read_may_need_it(based):
    store = Store()
    (based[1] / "zoo.json").write_text("{")
    age(store)
    assert store.collect(missing=True).states == ()


def test_what_a_dead_writer_left_is_removed_later(store):
    digest = store.put(some(0), label="some")
    [blob] = files(store)
    (blob.parent / f".{blob.name[:40]}.12345-00ff00ff").write_bytes(b"half")
    store.collect()
    assert len(files(store)) == 2
    age(store)
    store.put(some(0), label="some")  # makes the other one young again
    store.collect()
    assert files(store) == [blob]
    assert digest in store


def put_all(root, start, done):
    store = Store(root)
    start.wait(60)
    for turn in range(20):
        for number in range(4):
            digest = store.put(some(number), label=f"{number}")
            assert torch.equal(store.get(digest)["a"], some(number)["a"])
        if turn % 5 == 0:
            store.collect(missing=True)
    done.put(os.getpid())


@pytest.mark.slow
def test_eight_processes_at_once_leave_it_whole(store):
    context = multiprocessing.get_context("fork")
    start, done = context.Event(), context.Queue()
    workers = [context.Process(target=put_all, args=(store.root, start, done)) for _ in range(8)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(120)

    assert [worker.exitcode for worker in workers] == [0] * 8
    assert store.verify() == []
    assert len(store.entries()) == len(files(store)) == 4


@pytest.mark.parametrize("name", ["write", "fsync", "fchmod", "replace", "open"])
def test_a_full_or_failing_disk_is_said_and_leaves_nothing(store, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(BundleError, match=r"cannot be written: No space left on device\."):
            store.put(some(0), label="some")
    assert store.entries() == []
    assert files(store) == []
    assert store.put(some(0), label="some") in store

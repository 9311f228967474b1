"""What waits for the disk: side by side, told of in the end, and never left behind."""

import contextlib
import os
import threading
import time

import pytest
import torch

import zoo
from zoo.bundle import closing, staging, syncing
from zoo.bundle.staging import StagedFolder, staged
from zoo.bundle.syncing import MOST, Syncs, start_writing
from zoo.errors import BundleError


def test_calls_wait_side_by_side_and_no_more_than_a_few_at_a_time():
    lock, now, most = threading.Lock(), [0], [0]

    def call():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    syncs = Syncs()
    for _ in range(3 * MOST):
        syncs.begin(call)
    syncs.finish()

    assert now == [0]
    assert 1 < most[0] <= MOST


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt(), SystemExit(143)])
def test_what_a_call_raises_is_raised_in_the_end_when_all_have_returned(error):
    done = []

    def fail():
        raise error

    def wait():
        time.sleep(0.05)
        done.append(True)

    syncs = Syncs()
    syncs.begin(wait)
    syncs.begin(fail)
    with pytest.raises(type(error)):
        syncs.finish()

    assert done == [True]


def test_a_system_without_more_threads_waits_here_and_now(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(syncing._thread, "start_new_thread", refuse)
    done, syncs = [], Syncs()
    syncs.begin(lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]

    syncs.begin(fail)
    with pytest.raises(OSError, match="No space left"):
        syncs.finish()


def test_every_file_and_folder_is_synced_before_the_folder_takes_its_place(tmp_path, monkeypatch):
    synced, published = set(), []
    sync, publish = os.fsync, staging.publish

    def note(fd):
        time.sleep(0.01)
        sync(fd)
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))

    def place(folder, target, *, overwrite):
        published.append({str(path) for path in [folder, *folder.rglob("*")]} - synced)
        publish(folder, target, overwrite=overwrite)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(staging, "publish", place)
    with staged(tmp_path / "bundle", overwrite=False) as folder:
        for number in range(20):
            folder.write(f"a/{number}/file", b"x" * number)

    assert published == [set()]
    assert str(tmp_path) in synced


def test_a_file_that_cannot_be_synced_stops_the_save_however_early_it_was_written(make, tmp_path, monkeypatch):
    path = make.tiny().save(tmp_path / "home" / "bundle")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    sync = os.fsync

    def fails(fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("backbones/main/model.safetensors"):
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(BundleError, match=r"Input/output error\. Nothing was changed"):
        make.tiny(seed=1).save(path, overwrite=True)

    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [entry.name for entry in path.parent.iterdir()] == ["bundle"]


def test_no_descriptor_stays_open_after_a_save_or_one_that_failed(make, tmp_path, monkeypatch):
    model = make.tiny()
    path = model.save(tmp_path / "bundle")
    closing.wait_for_space()
    before = set(os.listdir("/proc/self/fd"))

    model.save(path, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(StagedFolder, "settle", lambda self: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(BundleError):
            model.save(path, overwrite=True)
    closing.wait_for_space()

    assert len(os.listdir("/proc/self/fd")) == len(before)


def opened():
    """Give the paths of all that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder that is listed here
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_what_is_replaced_is_gone_at_once_and_its_space_behind_it(make, tmp_path, monkeypatch):
    model, go, close = make.tiny(), threading.Event(), closing._close
    path = model.save(tmp_path / "home" / "bundle")
    monkeypatch.setattr(closing, "_close", lambda opened: (go.wait(), close(opened)))

    model.save(path, overwrite=True)
    beside = [entry.name for entry in path.parent.iterdir()]
    held = opened()
    go.set()
    model.save(path, overwrite=True)  # waits for the space of the one before
    closing.wait_for_space()

    assert beside == ["bundle"]
    assert [place for place in held if place.endswith("zoo.json (deleted)")]
    assert not [place for place in opened() if "(deleted)" in place and str(tmp_path) in place]


def test_a_child_is_born_without_the_files_that_were_removed(make, tmp_path, monkeypatch):
    closed, close = [], closing._close
    path = make.tiny().save(tmp_path / "bundle")
    monkeypatch.setattr(closing, "_close", lambda opened: (time.sleep(0.1), close(opened), closed.append(True)))
    make.tiny().save(path, overwrite=True)

    child = os.fork()
    if child == 0:
        os._exit(0 if closed else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_asking_the_disk_to_begin_changes_nothing_and_is_left_out_where_it_cannot_be(tmp_path, monkeypatch):
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.write(b"x" * 10_000)
        opened.flush()
        start_writing(opened.fileno(), 0, 10_000)
        monkeypatch.setattr(syncing, "_starter", lambda: None)
        start_writing(opened.fileno(), 0, 10_000)

    assert file.read_bytes() == b"x" * 10_000


def test_a_large_file_is_begun_while_it_is_written(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(staging, "BEGIN", 2**20)
    monkeypatch.setattr(staging, "start_writing", lambda fd, start, size: begun.append((start, size)))
    model = zoo.build("timm:test_vit", zoo.head("classifier", classes=["a", "b"]), weights=None, seed=0)
    with torch.no_grad():
        assert sum(p.nbytes for p in model.parameters()) > 2**20

    model.save(tmp_path / "bundle", probe=False)

    assert begun == [(0, 2**20)]

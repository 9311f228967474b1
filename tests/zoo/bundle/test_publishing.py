"""Whatever stops a save, at any instant, there is the old bundle or the new one, whole, and nothing beside it."""

import errno
import itertools
import os
import random
import signal
import stat
import threading
import time

import pytest
import torch

import zoo
from zoo.bundle import publishing, saving
from zoo.errors import BundleError


def beside(path):
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.fixture(params=["renameat2", "fall-back"])
def renaming(request, monkeypatch):
    """Publish with the system call, and as where it is missing."""
    if request.param == "fall-back":
        monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    return request.param


def save_in_a_loop(drafts, path):
    """Save until killed, in a child process that does nothing else."""
    child = os.fork()
    if child == 0:
        try:
            for draft in itertools.cycle(drafts):
                saving.put(draft, path, overwrite=True)
        finally:
            os._exit(1)
    return child


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_thirty_kills_leave_a_whole_bundle_each_time(make, tmp_path, renaming):
    dice = random.Random(0)
    drafts = [saving.describe(make.tiny(seed=seed, generation=seed)) for seed in range(2)]
    weights = [draft.tensors.files["heads/pet/model.safetensors"] for draft in drafts]
    path = tmp_path / "home" / "bundle"
    saving.put(drafts[0], path, overwrite=False)

    for _ in range(30):
        child = save_in_a_loop(drafts, path)
        time.sleep(dice.uniform(0.002, 0.05))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)

        model = zoo.load(path)
        expected = weights[model.provenance["generation"]]
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.heads["pet"].state_dict().items())
        assert zoo.verify(path).ok
    saving.put(drafts[0], path, overwrite=True)

    assert beside(path) == ["bundle"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_writer_that_dies_between_two_renames_is_repaired_by_the_next_reader(bundle, make, monkeypatch):
    monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    draft = saving.describe(make.tiny(seed=1, generation=1))
    child = os.fork()
    if child == 0:
        rename, calls = os.rename, itertools.count()
        os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == 1 else rename(*names)
        saving.put(draft, bundle, overwrite=True)
        os._exit(1)
    os.waitpid(child, 0)
    assert "bundle" not in beside(bundle)

    model = zoo.load(bundle)

    assert model.provenance == {}
    make.tiny().save(bundle, overwrite=True)
    assert beside(bundle) == ["bundle"]


class Fault:
    """Make the Nth of all writes, syncs and renames fail."""

    def __init__(self, monkeypatch, error, at):
        self.error, self.at, self.calls = error, at, 0
        for name in ("write", "fsync", "mkdir", "rename"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))
        monkeypatch.setattr(publishing, "rename2", self.wrap(publishing.rename2))

    def wrap(self, call):
        def counted(*arguments, **options):
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return call(*arguments, **options)

        return counted


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fault_at_any_call_leaves_what_was_there(make, tmp_path, overwrite, error):
    path = tmp_path / "home" / "bundle"
    if overwrite:
        make.tiny().save(path)
    before = zoo.verify(path).id
    draft = saving.describe(make.tiny(seed=1))
    faults = 0

    for at in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, error, at)
            try:
                saving.put(draft, path, overwrite=overwrite)
            except (BundleError, KeyboardInterrupt):
                faults += 1
        if fault.calls < at:
            break
        assert zoo.verify(path).id == before
        assert (beside(path) if overwrite else list(tmp_path.iterdir())) == (["bundle"] if overwrite else [])

    assert faults >= 20
    assert zoo.verify(path).ok
    assert zoo.verify(path).id != before


def test_a_kept_target_says_how_to_replace_it(bundle, make):
    before = zoo.verify(bundle).id

    with pytest.raises(BundleError, match="overwrite=True"):
        make.tiny(seed=1).save(bundle)

    assert zoo.verify(bundle).id == before
    make.tiny(seed=1).save(bundle, overwrite=True)
    assert zoo.verify(bundle).id != before
    assert beside(bundle) == ["bundle"]


@pytest.mark.parametrize(
    "what", ["file", "folder", "link", "dangling link", "extra file", "broken manifest", "foreign json"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(bundle, make, what, overwrite):
    target = bundle.parent / "target"
    if what == "file":
        target.write_text("precious")
    elif what == "folder":
        target.mkdir()
        (target / "precious").write_text("x")
    elif what == "link":
        target.symlink_to(bundle)
    elif what == "dangling link":
        target.symlink_to("nowhere")
    else:
        make.copy(bundle, "target")
        if what == "extra file":
            (target / "notes.txt").write_text("precious")
        else:
            (target / "zoo.json").write_text("{" if what == "broken manifest" else '{"files": {}}')
    before = [(path, path.lstat().st_mtime_ns) for path in sorted(bundle.parent.rglob("*"))]

    with pytest.raises(BundleError):
        make.tiny().save(target, overwrite=overwrite)

    assert [(path, path.lstat().st_mtime_ns) for path in sorted(bundle.parent.rglob("*"))] == before


def test_a_damaged_bundle_and_an_empty_folder_may_be_overwritten(bundle, make, renaming):
    (bundle / "heads/pet/model.safetensors").unlink()
    (bundle.parent / "empty").mkdir()

    for path in (bundle, bundle.parent / "empty"):
        make.tiny().save(path, overwrite=True)
        assert zoo.verify(path).ok
    assert beside(bundle) == ["bundle", "empty"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_what_the_umask_leaves(make, tmp_path, mask):
    before = os.umask(mask)
    try:
        path = make.tiny().save(tmp_path / "bundle")
    finally:
        os.umask(before)

    modes = {entry.is_dir(): stat.S_IMODE(entry.stat().st_mode) for entry in [path, *path.rglob("*")]}
    assert modes == {True: 0o777 & ~mask, False: 0o666 & ~mask}


def test_a_new_bundle_never_replaces_one_that_came_meanwhile(make, tmp_path, renaming, monkeypatch):
    first = saving.describe(make.tiny(seed=0))
    second = saving.describe(make.tiny(seed=1))
    path = tmp_path / "bundle"
    publish = publishing.publish

    def slow(*arguments, **options):
        monkeypatch.setattr("zoo.bundle.staging.publish", publish)
        saving.put(second, path, overwrite=False)
        publish(*arguments, **options)

    monkeypatch.setattr("zoo.bundle.staging.publish", slow)
    with pytest.raises(BundleError, match="overwrite=True"):
        saving.put(first, path, overwrite=False)

    assert torch.equal(zoo.load(path).heads["pet"].layers[0].weight, second.tensors.files[HEAD]["layers.0.weight"])
    assert beside(path) == ["bundle"]


HEAD = "heads/pet/model.safetensors"


@pytest.mark.slow
def test_readers_see_one_generation_while_a_writer_replaces_it(make, tmp_path, renaming):
    drafts = [saving.describe(make.tiny(seed=seed, generation=seed)) for seed in range(3)]
    path = tmp_path / "bundle"
    saving.put(drafts[0], path, overwrite=False)
    stop, faults = time.monotonic() + 2.5, []

    def write():
        for draft in itertools.cycle(drafts):
            if time.monotonic() > stop:
                return
            try:
                saving.put(draft, path, overwrite=True)
            except Exception as error:
                faults.append(error)
            time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    try:
        while time.monotonic() < stop:
            model = zoo.load(path)
            expected = drafts[model.provenance["generation"]].tensors.files[HEAD]
            assert all(torch.equal(tensor, expected[key]) for key, tensor in model.heads["pet"].state_dict().items())
            reads += 1
    finally:
        writer.join()

    assert faults == []
    assert reads >= 3
    assert beside(path) == ["bundle"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, make):
    (tmp_path / "file").write_text("x")

    for path in (tmp_path / "file" / "bundle", tmp_path / ("x" * 300)):
        with pytest.raises(BundleError, match="cannot be written"):
            make.tiny().save(path)
    assert beside(tmp_path / "file") == ["file"]
    with pytest.raises(BundleError, match="exists"):
        make.tiny().save("/")


def test_hidden_folders_of_living_writers_are_left_alone(bundle, make):
    alive = bundle.with_name(f".bundle.tmp-{os.getppid()}-0123abcd")
    dead = bundle.with_name(".bundle.tmp-4194305-0123abcd")
    foreign = bundle.with_name(".bundle.tmp-x")
    for folder in (alive, dead, foreign):
        folder.mkdir()
        (folder / "x").write_text("x")

    make.tiny().save(bundle, overwrite=True)

    assert beside(bundle) == sorted([alive.name, foreign.name, "bundle"])

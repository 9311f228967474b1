"""What a save replaces and what it never does, and which hidden folders it clears away."""

import itertools
import os
import signal
import stat
import time

import pytest

import zoo
from zoo.bundle import publishing
from zoo.errors import BundleError


def beside(path):
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.fixture(params=["renameat2", "fall-back"])
def renaming(request, monkeypatch):
    """Publish with the system call, and as where it is missing."""
    if request.param == "fall-back":
        monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    return request.param


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_writer_that_dies_between_two_renames_is_repaired_by_the_next_reader(bundle, make, monkeypatch):
    monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    files = make.files(make.tiny(seed=1, generation=1))
    child = os.fork()
    if child == 0:
        rename, calls = os.rename, itertools.count()
        os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == 1 else rename(*names)
        make.put(files, bundle)
        os._exit(1)
    os.waitpid(child, 0)
    assert "bundle" not in beside(bundle)

    model = zoo.load(bundle)

    assert model.provenance == {}
    make.tiny().save(bundle, overwrite=True)
    assert beside(bundle) == ["bundle"]


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
    first = make.files(make.tiny(seed=0))
    second = make.files(make.tiny(seed=1))
    path = tmp_path / "bundle"
    publish = publishing.publish

    def slow(*arguments, **options):
        monkeypatch.setattr("zoo.bundle.staging.publish", publish)
        make.put(second, path, overwrite=False)
        publish(*arguments, **options)

    monkeypatch.setattr("zoo.bundle.staging.publish", slow)
    with pytest.raises(BundleError, match="overwrite=True"):
        make.put(first, path, overwrite=False)

    assert (path / HEAD).read_bytes() == second[HEAD] != first[HEAD]
    assert beside(path) == ["bundle"]


HEAD = "heads/pet/model.safetensors"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, make):
    (tmp_path / "file").write_text("x")

    for path in (tmp_path / "file" / "bundle", tmp_path / ("x" * 300)):
        with pytest.raises(BundleError, match="cannot be written"):
            make.tiny().save(path)
    assert beside(tmp_path / "file") == ["file"]
    with pytest.raises(BundleError, match="exists"):
        make.tiny().save("/")


def hidden(bundle, *, pid, place, purpose="tmp"):
    folder = bundle.with_name(f".bundle.{purpose}-{pid}-{place}abcd")
    folder.mkdir()
    (folder / "x").write_text("x")
    return folder


NOBODY = 4194305
"""A process id that no process has."""


def test_hidden_folders_of_living_writers_are_left_alone(bundle, make):
    alive = hidden(bundle, pid=os.getppid(), place=publishing.here())
    dead = hidden(bundle, pid=NOBODY, place=publishing.here())
    ours = hidden(bundle, pid=os.getpid(), place=publishing.here())  # of a thread of this process
    foreign = bundle.with_name(".bundle.tmp-x")
    foreign.mkdir()

    make.tiny().save(bundle, overwrite=True)

    assert not dead.exists()
    assert beside(bundle) == sorted([alive.name, ours.name, foreign.name, "bundle"])


def test_a_hidden_folder_of_another_machine_is_left_alone_for_an_hour(bundle, make, monkeypatch):
    elsewhere = "0000" if publishing.here() != "0000" else "0001"
    left = hidden(bundle, pid=NOBODY, place=elsewhere)
    held = hidden(bundle, pid=NOBODY - 1, place=elsewhere)
    make.tiny().save(bundle, overwrite=True)
    assert beside(bundle) == sorted([left.name, held.name, "bundle"])

    now = time.time()
    monkeypatch.setattr("zoo.bundle.publishing.time.time", lambda: now + 3700)
    with publishing.held(held):
        make.tiny().save(bundle, overwrite=True)

    assert beside(bundle) == sorted([held.name, "bundle"])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_folder_in_which_nobody_may_write_is_told_in_one_sentence(bundle, make):
    files = make.files(make.tiny(seed=1))
    bundle.parent.chmod(0o555)
    for folder in bundle.parent.parents[:3]:
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            make.put(files, bundle)
        except BundleError as error:
            code = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    bundle.parent.chmod(0o755)
    assert zoo.verify(bundle).ok
    assert beside(bundle) == ["bundle"]


def test_a_save_over_another_kind_of_model_leaves_nothing_of_it(bundle, make):
    heads = [zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("pet", "coat")]

    for model in (make.tiny(*heads), make.tiny()):
        model.save(bundle, overwrite=True)
        assert zoo.verify(bundle).extra == []

"""A power cut at any instant of a save leaves the old bundle or the new one; one after it leaves the new one.

Every system call by which a save changes the disk is recorded. For each prefix of that list the disk is rebuilt as a
power cut might leave it: what was not synced is there, or not, or as zeros, or in part; entries of folders that were
not synced may be missing in any order. A rename is one entry that changes, an exchange two at once.
"""

import ast
import errno
import itertools
import os
import random
import re
import shutil
import signal
from dataclasses import dataclass, field

import pytest

import zoo
from zoo.bundle import publishing, staging
from zoo.errors import BundleError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
NOBODY = 4194305
"""A process id that no process has: after a power cut all writers are dead."""
NEW = os.O_CREAT | os.O_EXCL


class Recorder:
    """Record what happens below a folder, as it is on the disk.

    Nodes are numbered anew, since the system gives the number of a removed one to the next.

    Attributes:
        ops: ``("entry", folder, ((name, node or None), …))``, ``("data", node, offset, bytes)`` or ``("sync", node)``.
        start: What was there at the beginning: folder to its entries, file to its bytes.
        files: The nodes that are files.
    """

    def __init__(self, root, die_after=None, note=None):
        self.root, self.die_after, self.note = root, die_after, note
        self.ops, self.start, self.numbers, self.files = [], {}, {}, set()
        self.count = itertools.count()
        self.look(root)

    def look(self, path):
        node = self.numbers[os.lstat(path).st_ino] = next(self.count)
        if path.is_dir():
            self.start[node] = {inner.name: self.look(inner) for inner in sorted(path.iterdir())}
        else:
            self.start[node] = path.read_bytes()
            self.files.add(node)
        return node

    def save(self):
        self.note.write_text(repr((self.ops, self.start, self.numbers, self.files, next(self.count))))

    def resume(self, note):
        """Go on where a process stopped that died."""
        self.ops, self.start, self.numbers, self.files, count = ast.literal_eval(note.read_text())
        self.count = itertools.count(count)

    def add(self, *op):
        self.ops.append(op)
        if len(self.ops) == self.die_after:
            self.save()
            os.kill(os.getpid(), signal.SIGKILL)

    def folder(self, path, dir_fd=None):
        """Give the node of the folder that an entry is in, and the entry's name."""
        parent, name = os.path.split(os.fspath(path))
        found = os.stat(parent or ".") if dir_fd is None else os.fstat(dir_fd)
        return self.numbers.get(found.st_ino), name

    def node(self, path, dir_fd=None):
        return self.numbers[os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_ino]

    def made(self, folder, name, inode, *, file):
        self.numbers[inode] = next(self.count)
        if file:
            self.files.add(self.numbers[inode])
        self.add("entry", folder, ((name, self.numbers[inode]),))

    def install(self, patch):
        """Have the calls recorded after they are done; those that fail change nothing."""

        def opened(call, path, flags, *more, dir_fd=None, **options):
            fd = call(path, flags, *more, dir_fd=dir_fd, **options)
            assert not flags & os.O_TRUNC
            if flags & NEW == NEW:
                self.made(*self.folder(path, dir_fd), os.fstat(fd).st_ino, file=True)
            return fd

        def written(call, fd, data):
            at = os.lseek(fd, 0, os.SEEK_CUR)
            count = call(fd, data)
            self.add("data", self.numbers[os.fstat(fd).st_ino], at, bytes(data[:count]))
            return count

        def synced(call, fd):
            call(fd)
            if (node := self.numbers.get(os.fstat(fd).st_ino)) is not None:
                self.add("sync", node)

        def folder_made(call, path, *more, dir_fd=None):
            call(path, *more, dir_fd=dir_fd)
            self.made(*self.folder(path, dir_fd), os.stat(path, dir_fd=dir_fd).st_ino, file=False)

        def renamed(call, source, target):
            (folder, old), (other, new), node = self.folder(source), self.folder(target), self.node(source)
            call(source, target)
            assert folder == other
            self.add("entry", folder, ((old, None), (new, node)))

        def renamed2(call, source, target, flags):
            if not flags & publishing.EXCHANGE:
                (folder, old), (_, new), node = self.folder(source), self.folder(target), self.node(source)
                done = call(source, target, flags)
                changes = ((old, None), (new, node))
            else:
                (folder, old), (_, new) = self.folder(source), self.folder(target)
                changes = ((old, self.node(target)), (new, self.node(source)))
                done = call(source, target, flags)
            if done:
                self.add("entry", folder, changes)
            return done

        def removed(call, path, *, dir_fd=None):
            folder, name = self.folder(path, dir_fd)
            call(path, dir_fd=dir_fd)
            self.add("entry", folder, ((name, None),))

        def wrap(call, note):
            return lambda *arguments, **options: note(call, *arguments, **options)

        notes = {"open": opened, "write": written, "fsync": synced, "mkdir": folder_made, "rename": renamed}
        for name, note in {**notes, "unlink": removed, "rmdir": removed}.items():
            patch.setattr(os, name, wrap(getattr(os, name), note))
        patch.setattr(publishing, "rename2", wrap(publishing.rename2, renamed2))


# --- what may be on the disk


def data_of(writes, how):
    """Give a file's bytes, of which those that were not synced went a way of their own."""
    synced, pending = writes
    content = bytearray(synced)
    for at, data in pending:
        if how == "dropped":
            continue
        lasting = {"kept": data, "zeroed": bytes(len(data)), "truncated": data[: len(data) // 2]}[how]
        content[at : at + len(lasting)] = lasting
    return bytes(content)


@dataclass
class Disk:
    """A disk after some calls: what lasts, and what may be lost."""

    entries: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)

    def apply(self, op):
        kind, node, *rest = op
        if kind == "entry":
            self.pending.append((node, rest[0]))
        elif kind == "data":
            self.files.setdefault(node, (b"", []))[1].append(tuple(rest))
        elif node in self.files:
            self.files[node] = (data_of(self.files[node], "kept"), [])
        else:
            for folder, changes in self.pending:
                if folder == node:
                    self.entries.setdefault(node, {}).update(changes)
            self.pending = [change for change in self.pending if change[0] != node]

    def choices(self, dice, more):
        """Give which of the pending entries may have lasted: each beginning, each alone, each but one, and others."""
        many = range(len(self.pending))
        yield from ({*range(count)} for count in range(len(self.pending) + 1))
        yield from ({one} for one in many)
        yield from ({*many} - {one} for one in many)
        yield from ({one for one in many if dice.random() < 0.5} for _ in range(more if self.pending else 0))

    def states(self, dice, more):
        loose = any(pending for _, pending in self.files.values())
        ways = ("kept", "dropped", "truncated", "zeroed") if loose else ("kept",)
        for chosen in self.choices(dice, more):
            entries = {folder: dict(held) for folder, held in self.entries.items()}
            for number in sorted(chosen):
                folder, changes = self.pending[number]
                entries.setdefault(folder, {}).update(changes)
            for how in ways:
                yield entries, {node: data_of(writes, how) for node, writes in self.files.items()}


def tree(entries, files, node):
    """Give a folder's content: path to bytes."""
    found = {}
    for name, inner in entries.get(node, {}).items():
        if inner in files:
            found[name] = files[inner]
        elif inner is not None:
            found |= {f"{name}/{path}": data for path, data in tree(entries, files, inner).items()} or {f"{name}/": b""}
    return found


class Judge:
    """Say what a reader finds on a disk, looking at each disk once."""

    def __init__(self, scratch, home):
        self.scratch, self.home, self.known, self.states = scratch, home, {}, 0

    def find(self, entries, files):
        """Give the id of the bundle, None if there is none, or ``broken``."""
        self.states += 1
        held = dict(entries.get(0, {}))
        for step in self.home:
            held = dict(entries.get(held.get(step), {}))
        looked_at = {name: node for name, node in held.items() if node is not None and name == "bundle"}
        looked_at = looked_at or {name: node for name, node in held.items() if node is not None and ".trash-" in name}
        seen = {re.sub(r"-\d+-", f"-{NOBODY}-", name): tree(entries, files, node) for name, node in looked_at.items()}
        key = tuple(sorted((name, tuple(sorted(inside.items()))) for name, inside in seen.items()))
        if key not in self.known:
            self.known[key] = self.look(seen)
        return self.known[key]

    def look(self, seen):
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        for name, inside in seen.items():
            (self.scratch / name).mkdir()
            for path, data in inside.items():
                file = self.scratch / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.mkdir() if path.endswith("/") else file.write_bytes(data)
        report = zoo.verify(self.scratch / "bundle")
        if report.ok:
            return report.id
        return "broken" if report.id or os.path.lexists(self.scratch / "bundle") else None


def judge(recorder, scratch, home, *, more):
    """Cut the power after every call, and give what is found there: a set after each call; and how many states."""
    judging, dice = Judge(scratch, home), random.Random(0)
    disk = Disk(files={node: (recorder.start.get(node, b""), []) for node in recorder.files})
    disk.entries = {node: dict(held) for node, held in recorder.start.items() if node not in recorder.files}
    found = [{judging.find(*state) for state in disk.states(dice, more)}]
    for op in recorder.ops:
        disk.apply(op)
        found.append({judging.find(*state) for state in disk.states(dice, more)})
    return found, judging.states


# --- the saves


@pytest.fixture
def generations(make):
    """Two models that are ready to be written; writing one always gives the same bytes, so the same id."""
    pet, coat = (zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("pet", "coat"))
    return [make.files(make.tiny(*heads, seed=len(heads))) for heads in ([pet], [pet, coat])]


@pytest.fixture
def identities(make, generations, tmp_path):
    """The ids of the two."""
    paths = [tmp_path / "alone" / str(number) for number in range(2)]
    for files, path in zip(generations, paths, strict=True):
        make.put(files, path, overwrite=False)
    return [zoo.verify(path).id for path in paths]


@pytest.fixture(params=["renameat2", "fall-back"])
def renaming(request, monkeypatch):
    """Publish with the system call, and as where it is missing."""
    if request.param == "fall-back":
        monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    return request.param


@pytest.fixture
def disk(tmp_path):
    """The folder that is recorded."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def recorded(disk, save):
    """Save, and record it."""
    recorder = Recorder(disk)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        save()
    return recorder


def on_disk(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


MORE = pytest.mark.parametrize("more", [40, pytest.param(2000, marks=pytest.mark.soak)])


@pytest.mark.slow
@MORE
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_power_cut_leaves_the_old_bundle_or_the_new_one(
    make, generations, identities, disk, tmp_path, overwrite, renaming, more
):
    path = disk / "home" / "bundle"
    if overwrite:
        make.put(generations[0], path, overwrite=False)
    old, new = identities[0] if overwrite else None, identities[1]

    recorder = recorded(disk, lambda: make.put(generations[1], path))
    found, states = judge(recorder, tmp_path / "scratch", ["home"], more=more)

    assert set.union(*found) == {old, new}
    assert found[0] == {old}
    assert found[-1] == {new}
    assert [{old}, {old, new}, {new}] == [held for held, _ in itertools.groupby(found)]
    assert states > 2000


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "ensemble", "delta"])
def test_a_power_cut_during_a_whole_save_leaves_the_old_bundle_or_the_new_one(
    make, disk, tmp_path, what, renaming, monkeypatch
):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = disk / "home" / "bundle"
    models = [make.tiny(seed=seed) for seed in range(2)]
    options = {"kind": "delta", "base": models[0]} if what == "delta" else {}
    if what == "ensemble":
        models = [zoo.ensemble({"a": models[seed], "b": make.tiny(seed=seed + 9)}) for seed in range(2)]
    models[0].save(path, **options)
    old = zoo.verify(path).id

    recorder = recorded(disk, lambda: models[1].save(path, overwrite=True, **options))
    found, states = judge(recorder, tmp_path / "scratch", ["home"], more=10)
    new = zoo.verify(path).id

    assert [{old}, {old, new}, {new}] == [held for held, _ in itertools.groupby(found)]
    assert states > 1000


def test_the_record_of_a_save_gives_what_is_on_the_disk(make, generations, disk, renaming):
    path = disk / "home" / "bundle"
    make.put(generations[0], path, overwrite=False)

    recorder = recorded(disk, lambda: make.put(generations[1], path))
    rebuilt = Disk(files={node: (recorder.start.get(node, b""), []) for node in recorder.files})
    rebuilt.entries = {node: dict(held) for node, held in recorder.start.items() if node not in recorder.files}
    for op in recorder.ops:
        rebuilt.apply(op)
    *_, (entries, files) = (state for state in [*rebuilt.states(random.Random(0), 0)][: len(rebuilt.pending) + 1])

    assert tree(entries, files, 0) == on_disk(disk)
    assert all(not pending for _, pending in rebuilt.files.values())


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_a_save_that_does_not_sync_is_found_out(make, generations, identities, disk, tmp_path, forgotten, monkeypatch):
    path = disk / "home" / "bundle"
    make.put(generations[0], path, overwrite=False)
    if forgotten == "files":
        monkeypatch.setattr(os, "fsync", lambda fd: None)
        monkeypatch.setattr(staging, "fsync_folder", lambda path: None)
    else:
        monkeypatch.setattr(staging, "fsync_folder", lambda path: None)

    recorder = recorded(disk, lambda: make.put(generations[1], path))
    recorder.ops = [op for op in recorder.ops if op[0] != "sync"] if forgotten == "files" else recorder.ops
    found, _ = judge(recorder, tmp_path / "scratch", ["home"], more=3)

    assert "broken" in set.union(*found)


def test_a_power_cut_after_a_sync_that_failed_leaves_the_old_bundle(
    make, generations, identities, disk, tmp_path, renaming, monkeypatch
):
    path = disk / "home" / "bundle"
    make.put(generations[0], path, overwrite=False)
    sync, calls = staging.fsync_folder, itertools.count()

    def fails_once(folder):
        if folder == path.parent and next(calls) == 0:
            raise OSError(errno.EIO, "Input/output error")
        sync(folder)

    monkeypatch.setattr(staging, "fsync_folder", fails_once)
    recorder = Recorder(disk)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        with pytest.raises(BundleError, match="Input/output error"):
            make.put(generations[1], path, overwrite=True)
    found, _ = judge(recorder, tmp_path / "scratch", ["home"], more=40)

    assert set.union(*found) == set(identities)
    assert found[-1] == {identities[0]}


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["publishing", "every call"])
def test_a_power_cut_while_a_save_clears_up_after_a_dead_one_leaves_the_one_or_the_other(
    make, generations, identities, disk, tmp_path, renaming, every
):
    path = disk / "home" / "bundle"
    note = tmp_path / "note"
    make.put(generations[0], path, overwrite=False)
    whole = recorded(disk, lambda: make.put(generations[1], path)).ops
    named = [number for number, op in enumerate(whole, 1) if op[0] == "entry" and "bundle" in dict(op[2])]

    for count in range(1, len(whole)) if every else range(named[0], named[-1] + 3):
        publishing.remove(disk / "home")
        make.put(generations[0], path, overwrite=False)
        child = os.fork()
        if child == 0:
            try:
                recorder = Recorder(disk, die_after=count, note=note)
                recorder.install(pytest.MonkeyPatch())
                make.put(generations[1], path, overwrite=True)
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        recorder = Recorder(disk)
        recorder.resume(note)
        with pytest.MonkeyPatch.context() as patch:
            recorder.install(patch)
            make.put(generations[0], path, overwrite=True)
        found, _ = judge(recorder, tmp_path / "scratch", ["home"], more=3)
        assert set.union(*found) <= set(identities), count
        assert found[-1] == {identities[0]}
        assert [entry.name for entry in path.parent.iterdir()] == ["bundle"]

"""What is asked for and kept: the manifest, the files that it lists, and parts of them that are gone on with."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

import zoo
from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import FileEntry, _checksum
from zoo.bundle.plain_json import canonical
from zoo.bundle.publishing import here
from zoo.errors import BundleError
from zoo.remote import web
from zoo.remote.address import Address
from zoo.remote.fetching import fetch
from zoo.remote.files import FilePlace
from zoo.remote.shelf import Part

TENSORS = "/pets/backbones/main/model.safetensors"
TIMES = 50


@pytest.mark.slow
def test_a_download_is_resumed_by_range_where_it_broke_off(server, served, shelf, bundle, make):
    size = len(server.files[TENSORS])
    server.lull = 0.1  # what was not read when a connection breaks is lost

    def fault(handler, place, start, data):
        if place == TENSORS and start == 0:
            handler.answer(200, data, send=100)
            return True
        return False

    server.fault = fault
    found = fetch(Address.of(served), shelf)

    assert make.contents(found.folder) == make.contents(bundle)
    assert [entry[1] for entry in server.log if entry[0] == TENSORS] == [0, 100]
    assert size > 100


@pytest.mark.slow
def test_a_later_process_goes_on_with_the_part_that_an_earlier_one_left(server, served, shelf, bundle):
    data = server.files[TENSORS]
    server.lull = 0.1
    part = shelf.root / "parts" / f"{digest_of(data)}.part"
    server.fault = lambda handler, place, start, data: (
        place == TENSORS and (handler.answer(200, data, send=77) if not start else handler.reset()) is None
    )
    with pytest.raises(BundleError, match="77 of"):
        fetch(Address.of(served), shelf)
    assert part.read_bytes() == data[:77]
    server.fault = None
    server.log.clear()

    fetch(Address.of(served), shelf)

    assert [entry[1] for entry in server.log if entry[0] == TENSORS] == [77]
    assert not part.exists()


@pytest.mark.parametrize("length", [1, 50, -1, 0, 5000])
def test_a_part_of_another_file_is_thrown_away_and_the_file_fetched_anew(length, server, served, shelf, bundle, make):
    data = server.files[TENSORS]
    part = shelf.root / "parts" / f"{digest_of(data)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(data) + length if length <= 0 else length))

    found = fetch(Address.of(served), shelf)

    assert (found.folder / "backbones/main/model.safetensors").read_bytes() == data
    assert make.are_whole(shelf)
    assert list(part.parent.iterdir()) == []


@pytest.mark.slow
def test_a_part_of_another_file_fifty_times_leaves_no_corrupted_blob(server, served, shelf, bundle, make, tmp_path):
    dice = random.Random(5)
    data = server.files[TENSORS]
    for number in range(TIMES):
        cache = type(shelf)(tmp_path / f"cache{number}")
        part = cache.root / "parts" / f"{digest_of(data)}.part"
        part.parent.mkdir(parents=True)
        begin = data[: dice.randrange(len(data))]
        part.write_bytes((begin + dice.randbytes(dice.randrange(1, 2 * len(data))))[: dice.choice([len(data), None])])

        found = fetch(Address.of(served), cache)

        assert make.contents(found.folder) == make.contents(bundle), number
        assert make.are_whole(cache)


def test_what_a_killed_process_left_is_taken_up_and_what_a_living_one_writes_is_not(server, served, shelf, bundle):
    data = server.files[TENSORS]
    folder = shelf.root / "parts"
    folder.mkdir(parents=True)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = folder / f"{digest_of(data)}.{here()}-{int(dead.stdout)}-00000000.tmp"
    living = folder / f"{digest_of(data)}.{here()}-{os.getppid()}-00000000.tmp"
    elsewhere = folder / f"{digest_of(data)}.ffff-{int(dead.stdout)}-00000000.tmp"
    for path in (left, living, elsewhere):
        path.write_bytes(data[:50])

    fetch(Address.of(served), shelf)

    assert [entry[1] for entry in server.log if entry[0] == TENSORS] == [50]
    assert sorted(folder.iterdir()) == sorted([living, elsewhere])


def test_parts_that_nobody_goes_on_with_are_removed_after_a_week(server, served, shelf):
    folder = shelf.root / "parts"
    folder.mkdir(parents=True)
    for days in (6, 8):
        path = folder / f"{digest_of(bytes([days]))}.part"
        path.write_bytes(b"x")
        os.utime(path, (time.time() - days * 86400,) * 2)

    fetch(Address.of(served), shelf)

    assert [path.name for path in folder.iterdir()] == [f"{digest_of(bytes([6]))}.part"]


def test_an_interruption_by_the_user_keeps_the_part(server, served, shelf, monkeypatch):
    before, data = Part.write, server.files[TENSORS]

    def interrupted(part, piece):
        before(part, piece[:40])
        if len(piece) == len(data):
            raise KeyboardInterrupt

    monkeypatch.setattr(
        Part, "write", lambda part, piece: interrupted(part, piece) if piece == data else before(part, piece)
    )
    with pytest.raises(KeyboardInterrupt):
        fetch(Address.of(served), shelf)
    monkeypatch.undo()

    assert (shelf.root / "parts" / f"{digest_of(data)}.part").read_bytes() == data[:40]


def test_a_bundle_for_which_there_is_no_room_is_refused_before_it_is_asked_for(server, served, shelf, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))

    with pytest.raises(BundleError, match=r"needs [\d,]+ bytes for this bundle, and 100 are free"):
        fetch(Address.of(served), shelf)

    assert {entry[0] for entry in server.log} == {"/pets/zoo.json"}


def test_a_cached_folder_whose_manifest_is_damaged_is_made_again(server, served, shelf, bundle, make):
    found = fetch(Address.of(served), shelf)
    (found.folder / "zoo.json").write_bytes(b"")
    server.log.clear()

    assert make.contents(fetch(Address.of(served), shelf).folder) == make.contents(bundle)
    assert [entry[0] for entry in server.log] == ["/pets/zoo.json"]


@pytest.mark.slow
def test_a_server_without_ranges_begins_anew(server, served, shelf, bundle, make):
    server.ranges, server.lull, broken = False, 0.1, []

    def fault(handler, place, start, data):
        if place != TENSORS or len(broken) == 2:
            return False
        broken.append(start)
        handler.answer(200, data, send=100 + len(broken))
        return True

    server.fault = fault
    found = fetch(Address.of(served), shelf)

    assert make.contents(found.folder) == make.contents(bundle)
    assert [entry[1] for entry in server.log if entry[0] == TENSORS] == [0, 101, 102]


def test_the_second_load_asks_for_the_manifest_alone(server, served, bundle, make):
    one = zoo.load(served)
    server.log.clear()
    other = zoo.load(served)

    assert [entry[0] for entry in server.log] == ["/pets/zoo.json"]
    assert make.same(one, other)
    assert make.same(one, zoo.load(bundle))


def test_nothing_but_the_manifest_and_what_it_lists_is_asked_for(server, served, bundle, make):
    server.files["/pets/stranger.txt"] = b"not mine"
    zoo.load(served)
    asked = [entry[0] for entry in server.log]

    assert asked[0] == "/pets/zoo.json"
    assert sorted(asked) == sorted(f"/pets/{name}" for name in make.contents(bundle))


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/passwd", "a\\b", "model.pkl"])
def test_a_manifest_with_a_path_that_leads_elsewhere_fetches_nothing(name, server, served, shelf):
    data = json.loads(server.files["/pets/zoo.json"])
    data.pop("checksum")
    data["files"][name] = {"size": 1, "blake3": digest_of(b"x")}
    server.files["/pets/zoo.json"] = canonical({**data, "checksum": _checksum(data)})

    with pytest.raises(BundleError):
        fetch(Address.of(served), shelf)

    assert {entry[0] for entry in server.log} == {"/pets/zoo.json"}


def test_a_manifest_without_end_is_refused(server, served, shelf):
    server.files["/pets/zoo.json"] = b" " * (5 * 2**20)

    with pytest.raises(BundleError, match="bytes or fewer"):
        fetch(Address.of(served), shelf)


def test_an_empty_file_is_fetched(server, served, shelf):
    entry = FileEntry(size=0, blake3=digest_of(b""))
    server.files["/pets/empty.txt"] = b""

    path = web.WebPlace(Address.of(served)).fetch("empty.txt", entry, shelf, fresh=False)

    assert path.read_bytes() == b""


@pytest.mark.slow
def test_a_process_that_is_killed_in_the_middle_leaves_a_part_that_the_next_goes_on_with(server, served, shelf, make):
    """SIGKILL, while a server waits in the middle of a file; nothing is flushed or renamed by the one that dies."""
    data = random.Random(1).randbytes(3 * 2**20)
    name, reached, half = "/pets/big.safetensors", threading.Event(), 2 * 2**20
    server.files[name] = data

    def fault(handler, place, start, content):
        if place != name or start:
            return False
        handler.answer(200, content[:half], length=len(content), send=half)
        reached.set()
        time.sleep(5)
        return True

    server.fault = fault
    code = f"""
from pathlib import Path
from zoo.bundle.manifest import FileEntry
from zoo.remote.address import Address
from zoo.remote.shelf import Shelf
from zoo.remote.web import WebPlace
entry = FileEntry(size={len(data)}, blake3={digest_of(data)!r})
WebPlace(Address.of({served!r})).fetch("big.safetensors", entry, Shelf(Path({str(shelf.root)!r})), fresh=False)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    assert reached.wait(60)
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size > 2**20 for path in (shelf.root / "parts").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.wait()
    (left,) = (shelf.root / "parts").iterdir()
    kept = left.stat().st_size
    server.log.clear()

    entry = FileEntry(size=len(data), blake3=digest_of(data))
    path = web.WebPlace(Address.of(served)).fetch("big.safetensors", entry, shelf, fresh=False)

    assert path.read_bytes() == data
    assert [entry[1] for entry in server.log] == [kept]
    assert 2**20 < kept <= half


def test_a_file_system_of_fsspec_is_resumed_where_it_broke_off(make, shelf, monkeypatch):
    data = random.Random(2).randbytes(5000)
    system = fsspec.filesystem("memory")
    system.pipe_file("/resumed/file.bin", data)
    place, asked = FilePlace(Address.of("memory://resumed")), []
    before = MemoryFile.read

    def read(file, size=-1):
        asked.append(file.tell())
        if len(asked) == 2:
            raise ConnectionResetError
        return before(file, min(size, 1000))

    monkeypatch.setattr(MemoryFile, "read", read, raising=False)
    entry = FileEntry(size=len(data), blake3=digest_of(data))
    path = place.fetch("file.bin", entry, shelf, fresh=False)
    monkeypatch.undo()

    assert path.read_bytes() == data
    assert asked == [0, 1000, 1000, 2000, 3000, 4000, 5000]
    system.rm("/resumed", recursive=True)

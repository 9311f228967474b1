"""Several processes at one bundle: each reader sees one generation, and of many writers one is the last."""

import contextlib
import fcntl
import json
import os
import time

import pytest
import torch

import zoo
from zoo.bundle import publishing
from zoo.bundle.folder import open_bundle
from zoo.bundle.loading import read_contents
from zoo.errors import ZooError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def beside(path):
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.fixture(params=["renameat2", "fall-back"])
def renaming(request, monkeypatch):
    """Publish with the system call, and as where it is missing."""
    if request.param == "fall-back":
        monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    return request.param


@pytest.fixture(params=["locks", "no-op locks"])
def locking(request, monkeypatch):
    """Lock, and as on a file system that only says that it locked."""
    if request.param == "no-op locks":
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    return request.param


@pytest.fixture
def generations(make):
    """Eight models, not all with the same files, that are ready to be written."""
    pet, coat = (zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("pet", "coat"))
    models = [make.tiny(*((pet, coat)[: 1 + seed % 2]), seed=seed, generation=seed) for seed in range(8)]
    return [make.files(model) for model in models]


@pytest.fixture
def tensors(make, generations, tmp_path):
    """The tensors of the eight, by file."""
    paths = [tmp_path / "alone" / str(number) for number in range(len(generations))]
    for files, path in zip(generations, paths, strict=True):
        make.put(files, path)
    return [open_bundle(path, read_contents).tensors.files for path in paths]


class Crew:
    """Child processes that each do one thing, and tell what came of it."""

    def __init__(self):
        self.children = []

    def start(self, work):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            told = {"failed": "the process died"}
            try:
                told = work()
            except BaseException as error:
                told = {"failed": f"{type(error).__name__}: {error}"}
            finally:
                os.write(writing, json.dumps(told).encode())
                os._exit(0)
        os.close(writing)
        self.children.append((child, reading))

    def results(self):
        found = []
        while self.children:
            child, reading = self.children.pop(0)
            with os.fdopen(reading) as pipe:
                found.append(json.loads(pipe.read()))
            os.waitpid(child, 0)
        return found


def reader(path, tensors, over):
    """Read again and again until the mark is set, and count what is mixed and what is told as an error."""

    def work():
        counts = {"read": 0, "mixed": 0, "errors": []}
        while counts["read"] < 5 or not over.exists():
            try:
                found = open_bundle(path, read_contents)
            except ZooError as error:
                counts["errors"].append(str(error))
                continue
            own = tensors[found.manifest.provenance["generation"]]
            same = own.keys() == found.tensors.files.keys() and all(
                torch.equal(tensor, found.tensors.files[file][key])
                for file, held in own.items()
                for key, tensor in held.items()
            )
            counts["read"] += 1
            counts["mixed"] += not same
        return counts

    return work


@pytest.mark.parametrize("writes", [30, pytest.param(600, marks=pytest.mark.soak)])
def test_readers_see_one_generation_while_a_writer_replaces_it(make, generations, tensors, tmp_path, renaming, writes):
    path, over = tmp_path / "home" / "bundle", tmp_path / "over"
    make.put(generations[0], path, overwrite=False)

    def write():
        try:
            for number in range(1, writes + 1):
                make.put(generations[number % 2], path, overwrite=True)
        finally:
            over.touch()
        return {}

    crew = Crew()
    crew.start(write)
    for _ in range(4):
        crew.start(reader(path, tensors, over))
    writer, *readers = crew.results()

    assert writer == {}
    assert [found["errors"] for found in readers] == [[]] * 4
    assert [found["mixed"] for found in readers] == [0] * 4
    assert min(found["read"] for found in readers) >= 5
    assert beside(path) == ["bundle"]


def test_a_reader_that_lost_the_race_is_waited_for(make, generations, tensors, tmp_path, renaming):
    """Each attempt but the last is spoilt by a writer that replaces and removes what is being read."""
    path = tmp_path / "home" / "bundle"
    make.put(generations[0], path)
    writers, attempts = Crew(), []

    def slowly(folder):
        attempts.append(folder)
        writers.start(lambda: {"done": make.put(generations[0], path)})
        if len(attempts) == 1:
            writers.results()
        else:
            time.sleep(0.2)  # the writer is done but for what it removes
        return read_contents(folder)

    found = open_bundle(path, slowly)

    assert len(attempts) == 2
    assert found.tensors.files.keys() == tensors[0].keys()
    assert writers.results()[-1] == {"done": None}
    assert beside(path) == ["bundle"]


@pytest.mark.parametrize("saves", [6, pytest.param(100, marks=pytest.mark.soak)])
def test_of_eight_writers_one_is_the_last_and_its_bundle_is_whole(
    make, generations, tensors, tmp_path, renaming, locking, saves
):
    path = tmp_path / "home" / "bundle"

    def writer(files):
        def work():
            for _ in range(saves):
                make.put(files, path, overwrite=True)
            return {}

        return work

    crew = Crew()
    for files in generations:
        crew.start(writer(files))
    found = crew.results()

    assert found == [{}] * 8
    report = zoo.verify(path)
    assert report.problems == []
    model = zoo.load(path)
    own = tensors[model.provenance["generation"]]
    for name, head in model.heads.items():
        held = own[f"heads/{name}/model.safetensors"]
        assert all(torch.equal(tensor, held[key]) for key, tensor in head.state_dict().items())
    assert len(own) == 1 + len(model.heads)
    assert beside(path) == ["bundle"]


def test_of_eight_writers_of_a_new_bundle_one_succeeds(make, generations, tmp_path, renaming, locking):
    path = tmp_path / "home" / "bundle"

    def writer(files):
        def work():
            with contextlib.suppress(zoo.BundleError):
                make.put(files, path, overwrite=False)
                return {"saved": True}
            return {"saved": False}

        return work

    crew = Crew()
    for files in generations:
        crew.start(writer(files))
    found = crew.results()

    assert sum(one["saved"] for one in found) == 1
    assert zoo.verify(path).problems == []
    assert beside(path) == ["bundle"]

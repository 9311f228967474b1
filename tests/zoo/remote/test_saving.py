"""Writing to an object store: the files first and ``zoo.json`` last, and at every instant old, new or a clean error."""

import contextlib
import itertools
import threading
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

import zoo
from zoo.errors import BundleError, ConfigError
from zoo.remote.shelf import Shelf

URL = "memory://bucket/pets"


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.fixture(autouse=True)
def memory():
    """An object store in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def heads():
    classifier = zoo.head("classifier", name="pet", classes=["cat", "dog"])
    return {"old": (classifier, zoo.head("regression", name="age")), "new": (classifier,)}


@pytest.fixture
def read(make, tmp_path, monkeypatch):
    """Say what a reader sees that has downloaded nothing before, or what one sees with a cache of its own."""
    fresh = itertools.count()

    def look(models, cache=None):
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / (cache or f"cache{next(fresh)}")))
        try:
            found = zoo.load(URL)
        except BundleError:
            return "error"
        return next((name for name, model in models.items() if make.same(model, found)), "a mix")

    return look


def names(memory):
    return sorted(path.removeprefix("/bucket/pets/") for path in memory.store)


class Writes:
    """Counts writes and removals; may do something instead of one, in the middle of one, or after each."""

    def __init__(self, monkeypatch):
        self.log, self.act = [], lambda number, name, go, half: go()
        put, remove = MemoryFileSystem.put_file, MemoryFileSystem.rm_file

        def put_file(system, source, path, **options):
            def half():
                data = Path(source).read_bytes()
                system.pipe_file(path, data[: len(data) // 2])

            self.log.append(("put", path.removeprefix("/bucket/pets/")))
            return self.act(len(self.log), path, lambda: put(system, source, path, **options), half)

        def rm_file(system, path):
            self.log.append(("remove", path.removeprefix("/bucket/pets/")))
            return self.act(len(self.log), path, lambda: remove(system, path), lambda: None)

        monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
        monkeypatch.setattr(MemoryFileSystem, "rm_file", rm_file)


@pytest.fixture
def writes(monkeypatch):
    return Writes(monkeypatch)


def test_a_model_comes_back_from_memory_as_it_was(make, memory):
    model = make.mini()

    assert zoo.save(model, URL) == URL
    assert make.same(zoo.load(URL), model)
    assert zoo.verify(URL, run=True).ok
    assert names(memory) == [
        "README.md",
        "backbones/main/config.json",
        "backbones/main/model.safetensors",
        "config.json",
        "heads/pet/model.safetensors",
        "zoo.json",
    ]


def test_the_manifest_is_written_last_and_stale_files_are_removed_after_it(make, memory, heads, writes):
    make.mini(0, *heads["old"]).save(URL)
    assert [entry[1] for entry in writes.log][-1] == "zoo.json"
    assert [name for _, name in writes.log].count("zoo.json") == 1
    writes.log.clear()

    make.mini(1, *heads["new"]).save(URL, overwrite=True)

    puts = [name for kind, name in writes.log if kind == "put"]
    assert puts[-1] == "zoo.json"
    assert sorted(puts) == names(memory)
    assert writes.log[len(puts) :] == [("remove", "heads/age/model.safetensors"), ("remove", "model.sig")]
    assert make.same(zoo.load(URL), make.mini(1))


def test_a_bundle_that_is_there_is_not_replaced_unless_asked(make, memory, writes):
    make.mini(0).save(URL)
    writes.log.clear()

    with pytest.raises(BundleError, match="overwrite=True"):
        make.mini(1).save(URL)

    assert writes.log == []
    assert make.same(zoo.load(URL), make.mini(0))


@pytest.mark.parametrize("text", [b"{}", b"not json", b'{"format":"zoo.bundle","files":{"../../x":{}}}', b""])
def test_what_is_no_bundle_is_not_replaced(text, make, memory, writes):
    memory.pipe_file("/bucket/pets/zoo.json", text)

    with pytest.raises(BundleError, match="no bundle's manifest"):
        make.mini().save(URL, overwrite=True)

    assert writes.log == []


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True], ids=["before", "half"])
@pytest.mark.parametrize("begin", ["nothing", "old"])
def test_a_kill_at_any_write_leaves_the_old_the_new_or_a_clean_error(begin, torn, make, memory, heads, writes, read):
    """Every n-th write and removal, with a reader that has nothing and one that has the old bundle in its cache."""
    models = {"old": make.mini(0, *heads["old"]), "new": make.mini(1, *heads["new"])}
    outcomes = []
    for last in itertools.count(1):
        memory.store.clear()
        if begin == "old":
            models["old"].save(URL)
            assert read(models, "kept") == "old"
        writes.log.clear()

        def act(count, name, go, half, last=last):
            if count < last:
                return go()
            if torn:
                half()
            raise Killed

        with acting(writes, act):
            try:
                models["new"].save(URL, overwrite=True)
                break
            except Killed:
                outcomes.append((read(models), read(models, "kept" if begin == "old" else "other")))

    steps = 6 if begin == "nothing" else 8
    assert len(outcomes) == steps
    assert {seen for pair in outcomes for seen in pair} <= {begin, "new", "error"}
    assert [pair[0] for pair in outcomes[:6]].count("new") == 0
    assert read(models) == "new"
    if begin == "old":
        assert outcomes[6:] == [("new", "new")] * 2  # all is there but the removals
        assert outcomes[0] == (("error", "old") if torn else ("old", "old"))


@contextlib.contextmanager
def acting(writes, act):
    """Do something instead of writing, for a while."""
    before, writes.act = writes.act, act
    try:
        yield
    finally:
        writes.act = before


def test_a_reader_between_any_two_writes_sees_the_old_the_new_or_a_clean_error(make, memory, heads, writes, read):
    models = {"old": make.mini(0, *heads["old"]), "new": make.mini(1, *heads["new"])}
    models["old"].save(URL)
    seen = []

    def act(number, name, go, half):
        go()
        seen.append(read(models))

    writes.act = act
    models["new"].save(URL, overwrite=True)

    assert len(seen) == 7  # the last removal finds nothing
    assert set(seen) <= {"old", "new", "error"}
    assert seen[-1] == seen[-2] == "new"


def test_a_reader_whose_bundle_is_replaced_meanwhile_ends_with_the_new_one(make, memory, heads, read, monkeypatch):
    models = {"old": make.mini(0, *heads["old"]), "new": make.mini(1, *heads["new"])}
    models["new"].save(URL)
    new = dict(memory.store)
    memory.store.clear()
    models["old"].save(URL)
    before = MemoryFileSystem._open

    def opens(system, path, mode="rb", **options):
        opened = before(system, path, mode, **options)
        if mode == "rb" and path.endswith("zoo.json") and memory.store.keys() != new.keys():
            memory.store.clear()
            memory.store.update(new)
        return opened

    monkeypatch.setattr(MemoryFileSystem, "_open", opens)

    assert read(models) == "new"


def test_a_bundle_that_never_rests_is_an_error_after_five_generations(make, memory, monkeypatch):
    kept = []
    for seed in range(8):
        make.mini(seed).save(URL, overwrite=True)
        kept.append(dict(memory.store))
    turns = []
    before = MemoryFileSystem._open

    def opens(system, path, mode="rb", **options):
        if path.endswith("zoo.json"):
            memory.store.update(kept[len(turns) % 8])
            opened = before(system, path, mode, **options)
            turns.append(path)
            memory.store.update(kept[len(turns) % 8])
            return opened
        return before(system, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", opens)

    with pytest.raises(BundleError, match="replaced by others all the time"):
        zoo.load(URL)
    assert len(turns) == 5


def test_a_write_that_fails_for_a_while_is_tried_again_and_one_that_always_fails_is_an_error(make, memory, writes):
    failed = []

    def act(number, name, go, half):
        if len(failed) < 3:
            failed.append(name)
            raise ConnectionResetError
        go()

    writes.act = act
    make.mini().save(URL)
    assert make.same(zoo.load(URL), make.mini())

    def always(number, name, go, half):
        raise TimeoutError

    writes.act = always
    writes.log.clear()
    with pytest.raises(BundleError, match="cannot be written: there was no answer in time, 5 times"):
        make.mini(1).save(URL, overwrite=True)
    assert len(writes.log) == 5
    assert make.same(zoo.load(URL), make.mini())


def test_a_file_that_arrives_cut_is_found_before_the_manifest_is_written(make, memory, writes):
    def act(number, name, go, half):
        return half() if name.endswith("backbones/main/model.safetensors") else go()

    writes.act = act

    with pytest.raises(BundleError, match="were written; save again"):
        make.mini().save(URL)

    assert "zoo.json" not in names(memory)


def test_a_leftover_that_cannot_be_removed_is_told_and_the_save_is_good(make, memory, heads, writes, caplog):
    make.mini(0, *heads["old"]).save(URL)

    def act(number, name, go, half):
        if writes.log[-1][0] == "remove":
            raise PermissionError
        return go()

    writes.act = act
    make.mini(1, *heads["new"]).save(URL, overwrite=True)

    assert "heads/age/model.safetensors was left behind: access is refused" in caplog.text
    assert make.same(zoo.load(URL), make.mini(1))


def test_what_only_can_be_read_is_refused_before_the_model_is_copied(served, make, server):
    with pytest.raises(BundleError, match="can only be read"):
        make.mini().save(served)
    assert server.log == []


def test_many_readers_at_once_share_one_cache(make, served, bundle, shelf):
    model = zoo.load(bundle)
    good = []

    def work():
        good.append(make.same(zoo.load(served), model))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert good == [True] * 8
    assert not any((shelf.root / "parts").iterdir())


def test_a_bundle_that_holds_the_difference_to_another_goes_round(make, memory, bundle):
    model = make.mini(0)
    with torch.no_grad():
        next(model.heads.parameters()).add_(1)
    model.save(URL, kind="delta", base=bundle)

    assert "backbones/main/model.safetensors" not in names(memory)
    assert make.same(zoo.load(URL), model)
    assert zoo.verify(URL, run=True).ok


# --- ensembles


def test_an_ensemble_with_its_members_inside_goes_round(make, memory):
    both = zoo.ensemble({"one": make.mini(0), "other": make.mini(1)})
    both.save(URL)
    again = zoo.load(URL)

    assert isinstance(again, zoo.Ensemble)
    assert [make.same(again.members[name], both.members[name]) for name in both.members] == [True, True]
    assert zoo.verify(URL, run=True).ok


def test_an_ensemble_of_urls_is_one_of_models(make, memory):
    make.mini(3).save(URL)
    both = zoo.ensemble({"one": URL, "other": make.mini(4)})

    assert make.same(both.members["one"], make.mini(3))
    with pytest.raises(BundleError, match="does not come from a bundle"):
        both.save("somewhere", members="refer")


def test_an_ensemble_that_refers_elsewhere_is_said_plainly(make, memory, tmp_path):
    for seed, name in enumerate(("one", "other")):
        make.mini(seed).save(tmp_path / name)
    both = zoo.ensemble({"one": tmp_path / "one", "other": tmp_path / "other"})
    with pytest.raises(ConfigError, match="embed"):
        both.save(URL, members="refer")
    both.save(tmp_path / "both", members="refer")
    for path, data in make.contents(tmp_path / "both").items():
        memory.pipe_file(f"/bucket/pets/{path}", data)

    with pytest.raises(BundleError, match=r"refers to bundles elsewhere.*one, other"):
        zoo.load(URL)
    assert zoo.verify(URL).problems[0].startswith("memory://bucket/pets is an ensemble that refers")
    places = {"one": tmp_path / "one", "other": tmp_path / "other"}
    assert make.same(zoo.load(URL, members=places).members["other"], make.mini(1))


def test_the_shelf_of_a_user_is_in_the_cache_folder(shelf):
    assert Shelf.of_user().root == shelf.root

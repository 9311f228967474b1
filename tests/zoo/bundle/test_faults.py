"""Whatever stops a save, at any instant, there is the old bundle or the new one, whole, and nothing beside it."""

import errno
import fcntl
import importlib.util
import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

import zoo
from zoo.bundle import publishing, staging
from zoo.cli import main
from zoo.errors import BundleError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def beside(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(params=["renameat2", "fall-back"])
def renaming(request, monkeypatch):
    """Publish with the system call, and as where it is missing."""
    if request.param == "fall-back":
        monkeypatch.setattr(publishing, "rename2", lambda *_: False)
    return request.param


@pytest.fixture
def generations(make):
    """Two models that are ready to be written; writing one always gives the same bytes, so the same id."""
    two = [make.tiny(zoo.head("classifier", name="pet", classes=["a", "b"]), seed=0, generation=0)]
    two.append(make.tiny(*two[0].spec.heads, zoo.head("classifier", name="coat", classes=["c", "d"]), generation=1))
    return [make.files(model) for model in two]


@pytest.fixture
def identities(make, generations, tmp_path):
    """The ids of the two."""
    paths = [tmp_path / "alone" / str(number) for number in range(2)]
    for files, path in zip(generations, paths, strict=True):
        make.put(files, path, overwrite=False)
    return [zoo.verify(path).id for path in paths]


def forked(work):
    """Run something in a child process that ends with 0 if it returns."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def is_whole(path, identities):
    """Say whether all bytes of one generation are there, and no others."""
    report = zoo.verify(path)
    return report.ok and report.id in identities


# --- kills


def kill_writers(times, start, look, *, most, seed=0):
    """Start a writer, kill it at a random instant, and look; again and again."""
    dice = random.Random(seed)
    for _ in range(times):
        child = forked(start)
        time.sleep(dice.uniform(0.0, most))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        look()


@pytest.mark.parametrize("times", [60, pytest.param(300, marks=pytest.mark.soak)])
def test_a_kill_leaves_the_old_bundle_or_the_new_one(make, generations, identities, tmp_path, renaming, times):
    path = tmp_path / "home" / "bundle"
    make.put(generations[0], path, overwrite=False)

    def write():
        for files in itertools.cycle(generations):
            make.put(files, path, overwrite=True)

    def look():
        assert is_whole(path, identities)
        assert len(beside(path)) <= 2  # one writer leaves one folder at the most
        make.put(generations[0], path, overwrite=True)
        assert beside(path) == ["bundle"]

    kill_writers(times, write, look, most=0.03)


@pytest.mark.parametrize("times", [60, pytest.param(300, marks=pytest.mark.soak)])
def test_a_kill_leaves_a_new_bundle_whole_or_nothing(make, generations, identities, tmp_path, times):
    home = tmp_path / "home"
    home.mkdir()

    def write():
        for number in itertools.count():
            make.put(generations[number % 2], home / str(number), overwrite=False)

    def look():
        made = sorted(home.glob("[!.]*"))
        assert all(is_whole(path, identities) for path in made)
        assert len(list(home.glob(".*"))) <= 1
        make.put(generations[0], home / str(len(made)), overwrite=True)  # the one that was being written
        assert not list(home.glob(".*"))
        for path in home.iterdir():
            publishing.remove(path)

    kill_writers(times, write, look, most=0.03)


def test_a_kill_leaves_the_old_ensemble_or_the_new_one(make, tmp_path):
    path = tmp_path / "home" / "bundle"
    two = [zoo.ensemble({"a": make.tiny(seed=seed), "b": make.tiny(seed=seed + 9)}) for seed in range(2)]
    weights = [model.members["b"].state_dict() for model in two]
    two[0].save(path)

    def write():
        for model in itertools.cycle(two):
            model.save(path, overwrite=True)

    def look():
        assert zoo.verify(path).ok
        found = zoo.load(path).members["b"].state_dict()
        assert any(all((found[key] == own[key]).all() for key in own) for own in weights)

    kill_writers(20, write, look, most=0.15)
    two[0].save(path, overwrite=True)
    assert beside(path) == ["bundle"]


# --- faults at every call


class Fault:
    """Make the Nth of all system calls by which a save writes fail."""

    def __init__(self, monkeypatch, error, at):
        self.error, self.at, self.calls = error, at, 0
        for name in ("open", "write", "fsync", "close", "mkdir", "rename", "rmdir", "unlink", "scandir"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name), after=name == "close"))
        monkeypatch.setattr(publishing, "rename2", self.wrap(publishing.rename2))
        monkeypatch.setattr(fcntl, "flock", self.wrap(fcntl.flock))

    def wrap(self, call, after=False):
        def counted(*arguments, **options):
            self.calls += 1
            if self.calls != self.at:
                return call(*arguments, **options)
            if after:  # a descriptor is closed even where close fails
                call(*arguments, **options)
            raise self.error

        return counted


FAULTS = [
    *(OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR)),
    KeyboardInterrupt(),
    SystemExit(143),
]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_fault_at_any_call_leaves_what_was_there(make, generations, identities, tmp_path, overwrite, error, renaming):
    path = tmp_path / "home" / "new" / "bundle"
    if overwrite:
        make.put(generations[0], path, overwrite=False)
    before = content(path)
    told = []

    for at in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, error, at)
            try:
                make.put(generations[1], path, overwrite=overwrite)
            except (BundleError, KeyboardInterrupt, SystemExit):
                told.append(at)
        if fault.calls < at:
            break
        if at in told and content(path) == before:
            assert not list(tmp_path.glob("home/**/.*")) or isinstance(error, (KeyboardInterrupt, SystemExit))
            assert overwrite or not path.exists()
            assert overwrite or not (tmp_path / "home").exists() or isinstance(error, (KeyboardInterrupt, SystemExit))
            continue
        # the new one was in place when what it replaced was cleared away, or the call did not matter
        assert is_whole(path, identities[1:])
        if overwrite:
            make.put(generations[0], path, overwrite=True)
        else:
            publishing.remove(tmp_path / "home")
        assert overwrite is False or beside(path) == ["bundle"]

    assert len(told) >= 40
    assert is_whole(path, identities[1:])
    assert beside(path) == ["bundle"]


def whole_saves(make):
    """Give saves as users call them: of a model, an ensemble, and what differs from a base; each of two states."""
    model = [make.tiny(seed=seed) for seed in range(2)]
    ensemble = [zoo.ensemble({"a": make.tiny(seed=seed), "b": make.tiny(seed=seed + 9)}) for seed in range(2)]
    return {
        "model": lambda number, path: model[number].save(path, overwrite=True),
        "ensemble": lambda number, path: ensemble[number].save(path, overwrite=True),
        "delta": lambda number, path: model[number].save(path, overwrite=True, kind="delta", base=model[0]),
    }


@pytest.mark.parametrize(
    "what", ["model", *(pytest.param(name, marks=pytest.mark.soak) for name in ("ensemble", "delta"))]
)
def test_a_fault_at_any_call_of_a_whole_save_leaves_what_was_there(make, tmp_path, what, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "home" / "bundle"
    save = whole_saves(make)[what]
    save(0, path)
    save(1, tmp_path / "warm")  # what is kept of bases and specs is there from now on
    before = content(path)
    faults = 0

    for at in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, OSError(errno.ENOSPC, "No space left on device"), at)
            try:
                save(1, path)
            except zoo.ZooError:
                faults += 1
        if fault.calls < at:
            break
        if content(path) != before:
            assert zoo.verify(path).ok
            save(0, path)
            before = content(path)
        assert beside(path) == ["bundle"], at

    assert faults >= 30
    assert zoo.verify(path).ok


# --- signals


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt inside os.scandir
@pytest.mark.parametrize("times", [40, pytest.param(400, marks=pytest.mark.soak)])
def test_an_interrupt_at_a_random_instant_leaves_a_whole_bundle_and_the_next_save_clears_up(
    make, generations, identities, tmp_path, renaming, times
):
    path = tmp_path / "home" / "bundle"
    make.put(generations[0], path, overwrite=False)
    dice = random.Random(0)
    interrupted = 0
    saving: list[int] = []

    def interrupt(*_):
        if saving:  # one that comes late is nobody's
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(times):
            try:
                try:
                    saving.append(number)
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0005, 0.012))
                    for files in itertools.islice(itertools.cycle(generations), 20):
                        make.put(files, path, overwrite=True)
                finally:
                    saving.clear()
            except KeyboardInterrupt:
                interrupted += 1
            assert is_whole(path, identities), number
            make.put(generations[0], path, overwrite=True)
            assert beside(path) == ["bundle"], number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert interrupted > times / 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_while_it_saves_leaves_nothing(bundle, make, tmp_path, monkeypatch, number, code):
    other = make.tiny(seed=1).save(tmp_path / "home" / "other")
    ready, told = os.pipe()

    def stop_here(self):
        os.write(told, b"x")
        signal.pause()

    def command():
        monkeypatch.setattr(staging.StagedFolder, "settle", stop_here)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(main(["ensemble", "build", str(bundle), str(other), "--out", str(tmp_path / "home" / "several")]))

    child = forked(command)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.kill(child, number)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert beside(bundle) == ["bundle", "other"]


# --- the script that anyone can run


@pytest.fixture(scope="module")
def script():
    file = Path(__file__).parents[3] / "benchmarks" / "faults.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_faults", file)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop(spec.name)


def test_the_script_of_faults_finds_nothing_of_ours_lost(script, capsys, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", "")  # it sets one of its own

    assert script.main(["--kills", "4", "--only", "overwrite", "--only", "torch.save"]) == 0

    ours, peer = capsys.readouterr().out.splitlines()[1:]
    assert ours.split()[:6] == ["overwrite", "4", "0", "0", "0", "0"]
    assert peer.split()[:2] == ["torch.save", "4"]


def test_the_script_of_faults_counts_what_is_broken(script, tmp_path):
    """A writer that is never caught whole: half a file while it sleeps, and a note beside it that stays."""

    def write(number, path):
        path.with_name(f"note-{os.getpid()}").touch()
        path.write_text("half")
        time.sleep(0 if os.getpid() == parent else 60)
        path.write_text(f"whole {number}")

    def read(path):
        return int(path.read_text().split()[1])

    parent = os.getpid()
    counts = script.kill(script.Case("half", write, read), 3, random.Random(0), tmp_path)

    assert (counts.kills, counts.mixed) == (3, 0)
    assert 0 < counts.unreadable == counts.lost <= counts.left  # one may be killed before it has begun

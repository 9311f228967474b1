"""Paths in a bundle: over forty hostile forms in each field that holds one, refused before anything is opened."""

import os
import socket
import sys
import threading

import pytest

import zoo
from zoo.bundle.paths import check_path, is_hint
from zoo.errors import BundleError

FORMS = {
    "parent": "../outside",
    "parent's parent": "../../outside",
    "parent inside": "heads/../../outside",
    "parent at the end": "heads/..",
    "only a parent": "..",
    "this folder": ".",
    "this folder first": "./x",
    "this folder inside": "heads/./x",
    "nothing": "",
    "a slash": "/",
    "absolute": "/etc/passwd",
    "absolute, two slashes": "//etc/passwd",
    "a device": "/dev/zero",
    "a process": "/proc/self/environ",
    "empty part": "heads//pet",
    "empty end": "heads/pet/",
    "backslash": "heads\\pet\\x",
    "backslash parent": "..\\outside",
    "mixed slashes": "heads/..\\..\\outside",
    "drive": "C:/x",
    "drive, relative": "C:x",
    "drive, backslash": "C:\\x",
    "share": "\\\\server\\share",
    "share, slashes": "//server/share",
    "device namespace": "\\\\?\\C:\\x",
    "verbatim": "//?/C:/x",
    "stream": "x.json::$DATA",
    "null byte": "a\0b",
    "null byte at the end": "x.json\0.safetensors",
    "new line": "a\nb",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "escape": "a\x1b[31mb",
    "bidirectional override": "a\u202etxt.exe",
    "zero width": "a\u200bb",
    "trailing dot": "trailing.",
    "trailing dot of a folder": "folder./x",
    "trailing space": "trailing ",
    "leading space": " leading",
    "trailing dots": "x/...",
    "reserved": "nul",
    "reserved with an ending": "heads/CON.txt",
    "reserved port": "com1",
    "reserved folder": "aux/x",
    "reserved, numbered": "lpt9.json",
    "home": "~/x",
    "another's home": "~root/x",
    "variable": "$HOME/x",
    "variable of another system": "%USERPROFILE%/x",
    "percent-encoded parent": "%2e%2e/outside",
    "percent-encoded slash": "..%2foutside",
    "doubly percent-encoded": "%252e%252e%252foutside",
    "overlong UTF-8": "..\u00c0\u00afoutside",
    "fullwidth parent": "\uff0e\uff0e/outside",
    "fullwidth slash": "..\uff0foutside",
    "division slash": "..\u2215outside",
    "not composed": "e\u0301",
    "URL": "file:///etc/passwd",
    "URL of a network": "https://example.org/x",
    "hub": "hf://evil/repo",
    "glob": "heads/*",
    "pipe": "|touch x",
    "command": "$(touch x)",
    "very long": "x" * 5000,
    "very long part": "a/" + "x" * 300,
    "very deep": "a/" * 3000 + "x",
}
LETTERS = {"letters": "ä", "hidden": ".hidden", "a hidden folder": "a/.git/x"}  # no harm in a folder elsewhere
CODE = {"code": "run.py", "pickle": "weights.bin", "torch": "model.pt", "library": "x.so", "site": "evil.pth"}

opens: list[tuple[str, int]] | None = None
"""What was opened while a test listens; a hook cannot be taken away again, so one serves all tests."""


def _hear(event, args):
    if opens is not None and event == "open" and isinstance(args[0], (str, bytes)):
        opens.append((os.fsdecode(args[0]), args[2] or 0))


sys.addaudithook(_hear)


@pytest.fixture
def opened():
    """Give the list of what is opened in a test from here on."""
    global opens
    opens = []
    yield opens
    opens = None


@pytest.fixture(scope="module")
def warm():
    """Have imported what reading needs, which opens files of Python's own."""
    import zoo.bundle.ensemble_loading
    import zoo.bundle.rebuilding
    import zoo.bundle.verifying  # noqa: F401


def outside(opened, *places):
    """List what was opened beside these folders and single steps inside them that follow no link."""
    python = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(zoo.__file__)), os.environ["ZOO_CACHE"])
    found = []
    for path, flags in opened:
        step = "/" not in path and path not in ("", ".", "..") and flags & os.O_NOFOLLOW
        known = os.path.isabs(path) and os.path.realpath(path).startswith((*map(str, places), *python))
        if not step and not known:
            found.append(path)
    return found


def refused(bundle, opened, *places):
    """Say that load and verify refuse a bundle, in an error of zoo, having opened nothing outside."""
    opened.clear()
    with pytest.raises(BundleError):
        zoo.load(bundle)
    assert not zoo.verify(bundle).ok
    assert outside(opened, bundle, *places) == []


def as_file(data, path):
    data["files"][path] = data["files"]["README.md"]


def as_only_file(data, path):
    data["files"] = {path: data["files"]["README.md"]}


def as_component(data, path):
    data["components"][0].update(path=path)


def as_moved_component(data, path):
    part = data["components"][0]
    data["files"] = {k.replace(part["path"], path, 1): v for k, v in data["files"].items()}
    part.update(path=path)


def as_tied(data, path):
    data.update(tied=[[f"{path}:weight", f"{path}:other"]])


def as_second_tied(data, path):
    data.update(tied=[["backbones/main/model.safetensors:0.weight", f"{path}:x"]])


def as_layout(data, path):
    data.update(memory_formats={"channels_last": [f"{path}:weight"]})


def as_head(data, path):
    data["model"]["heads"][0].update(name=path)
    data["components"][1].update(name=path, path=f"heads/{path}")


def as_stream(data, path):
    data["model"]["streams"] = {path: data["model"]["streams"]["main"]}
    data["streams"] = [path]
    data["components"][0].update(name=path, path=f"backbones/{path}")


def as_frozen(data, path):
    data.update(frozen={path: ["s1"]})


FIELDS = [as_file, as_only_file, as_component, as_moved_component, as_tied, as_second_tied, as_layout]
NAMES = [as_head, as_stream, as_frozen]


def test_there_are_forty_forms():
    assert len({**FORMS, **LETTERS, **CODE}) >= 70


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("field", [*FIELDS, *NAMES], ids=lambda field: field.__name__)
def test_no_form_gets_through_a_field(bundle, make, opened, field):
    (bundle.parent / "outside").write_bytes(b"x")
    good = (bundle / "zoo.json").read_bytes()
    for path in [*FORMS.values(), *LETTERS.values(), *(CODE.values() if field in FIELDS[:2] else ())]:
        make.rewrite(bundle, lambda data, path=path: field(data, path))
        refused(bundle, opened)
        (bundle / "zoo.json").write_bytes(good)
    zoo.load(bundle)


@pytest.fixture
def ensemble(make, tmp_path):
    """An ensemble with its members inside, alone in its folder."""
    return zoo.ensemble({"one": make.tiny(), "two": make.tiny(seed=1)}).save(tmp_path / "home" / "both")


def as_member(data, path):
    entry = data["members"][0]
    entry["path"] = path
    data["files"] = {k: v for k, v in data["files"].items() if not k.startswith("members/one/")}


def as_member_name(data, path):
    data["members"][0].update(name=path)
    data["ensemble"]["members"][0].update(name=path)


def as_ensemble_file(data, path):
    data["files"][path] = data["files"]["README.md"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("field", [as_member, as_member_name, as_ensemble_file], ids=lambda field: field.__name__)
def test_no_form_gets_through_a_field_of_an_ensemble(ensemble, make, opened, field):
    good = (ensemble / "zoo.json").read_bytes()
    upward = {"parent", "parent's parent"}  # of a member's path, the one that may lead out: see below
    for name, path in FORMS.items():
        if field is as_member and name in upward:
            continue
        make.rewrite(ensemble, lambda data, path=path: field(data, path))
        refused(ensemble, opened)
        (ensemble / "zoo.json").write_bytes(good)
    zoo.load(ensemble)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("what", ["nothing", "a file", "a pipe", "a device", "another bundle", "a folder of others"])
def test_a_member_elsewhere_is_looked_at_by_its_manifest_alone(ensemble, make, opened, what, tmp_path):
    """An ensemble may refer to bundles elsewhere; only the very bundle that it was saved with is read there."""
    place = tmp_path / "elsewhere"
    if what == "a file":
        place.write_text("secret")
    elif what == "a pipe":
        os.mkfifo(place)
    elif what == "a device":
        place.symlink_to("/dev/zero")
    elif what == "another bundle":
        make.tiny(seed=5).save(place)
    elif what == "a folder of others":
        place.mkdir()
        (place / "secret.txt").write_text("secret")
        os.mkfifo(place / "zoo.json")
    make.rewrite(ensemble, lambda data: as_member(data, "../../elsewhere"))

    opened.clear()
    with pytest.raises(BundleError):
        zoo.load(ensemble)
    assert not zoo.verify(ensemble).ok

    real = os.path.realpath(place)
    beyond = [path for path in outside(opened, ensemble) if path not in (str(place), real)]
    assert beyond == []
    steps = {path for path, _ in opened if "/" not in path}
    assert "secret.txt" not in steps


@pytest.mark.parametrize("path", [path for name, path in FORMS.items() if not name.startswith("parent")])
def test_a_hint_of_such_a_form_is_none(path):
    assert not is_hint(path)


@pytest.mark.parametrize("path", ["../one", "../../models/Größe 2/one", "members/one", "one", "../a.b/c-d_e"])
def test_a_plain_hint_is_one(path):
    assert is_hint(path)


@pytest.mark.parametrize("path", sorted({**FORMS, **LETTERS, **CODE}.values()))
def test_the_check_itself_refuses_each(path):
    with pytest.raises(BundleError, match=r"^zoo\.json names the file"):
        check_path(path, "zoo.json")


def put(file, kind, away):
    """Put something that is no regular file in a file's place."""
    if kind in ("a link outside", "a link inside", "a link to nothing", "a loop"):
        content = file.read_bytes()
        file.unlink()
        target = {"a link outside": away, "a link inside": file.with_name("copy"), "a loop": file}.get(kind, "/nothing")
        if target not in (file, "/nothing"):
            target.write_bytes(content)
        file.symlink_to(target)
        return
    file.unlink()
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a socket":
        bound = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(file.parent)  # a socket's path has few characters
        try:
            bound.bind(file.name)
        finally:
            os.chdir(here)
            bound.close()
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    elif kind == "a terminal":
        file.symlink_to("/dev/tty")
    else:
        file.mkdir()


KINDS = [
    "a link outside",
    "a link inside",
    "a link to nothing",
    "a loop",
    "a pipe",
    "a socket",
    "a device",
    "a terminal",
]


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("kind", [*KINDS, "a folder"])
@pytest.mark.parametrize("name", ["zoo.json", "README.md", "config.json", "backbones/main/model.safetensors"])
def test_what_is_no_regular_file_is_refused_and_nothing_waits_for_it(bundle, opened, tmp_path, name, kind):
    put(bundle / name, kind, tmp_path / "away")

    refused(bundle, opened)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("folder", ["backbones", "backbones/main", "heads/pet"])
@pytest.mark.parametrize("kind", ["a link outside", "a file", "a pipe"])
def test_what_is_no_folder_is_refused(bundle, opened, tmp_path, folder, kind):
    moved = (bundle / folder).rename(tmp_path / "away")
    if kind == "a link outside":
        (bundle / folder).symlink_to(moved)
    elif kind == "a file":
        (bundle / folder).write_bytes(b"x")
    else:
        os.mkfifo(bundle / folder)

    refused(bundle, opened)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_folder_that_is_swapped_for_a_link_while_it_is_read_leads_nowhere(bundle, tmp_path, opened):
    """The race of check and use: each step is opened from the folder before it, and follows no link."""
    folder, moved = bundle / "heads" / "pet", tmp_path / "moved"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    stop = threading.Event()
    opened.clear()

    def swap():
        while not stop.is_set():
            folder.rename(moved)
            folder.symlink_to(tmp_path / "elsewhere")
            folder.unlink()
            moved.rename(folder)

    thread = threading.Thread(target=swap)
    thread.start()
    ends = set()
    try:
        for _ in range(200):
            try:
                zoo.load(bundle)
                ends.add("read")
            except BundleError:
                ends.add("refused")
    finally:
        stop.set()
        thread.join()
    assert outside(opened, bundle, tmp_path / "zoo-cache") == []
    assert ends <= {"read", "refused"}

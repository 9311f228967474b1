"""Run in a process of its own: loads, verifies and shows bundles, and writes down what Python's audit hook hears.

The arguments are a folder that holds bundles and where to write the report. Bundles called ``honest-…`` come first; a
bundle called ``a+b`` is an attack on ``honest-a``. What the report has for each is what must be empty or equal.
"""

import contextlib
import io
import json
import os
import sys
import sysconfig
from pathlib import Path

root, told = Path(sys.argv[1]).resolve(), Path(sys.argv[2])

import peft  # noqa: E402, F401
import torch  # noqa: E402
import transformers  # noqa: E402, F401

import zoo  # noqa: E402
from zoo.cli import main  # noqa: E402
from zoo.errors import ZooError  # noqa: E402

FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "pty.",
    "pickle.",
)
FORBIDDEN += (
    "ctypes.dlopen",
    "urllib.",
    "http.client",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "os.kill",
)
CHANGING = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
)
LOOKING = ("os.listdir", "os.scandir")
STOPPED = (
    "socket.connect",
    "socket.get",
    "socket.send",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
)

INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
INSTALLED += [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(zoo.__file__).resolve().parents[1]]
OWN = [Path(os.environ[name]).resolve() for name in ("ZOO_CACHE", "ZOO_STORE", "TMPDIR")]
KEY = Path(os.environ["KEY"]).resolve()
SYSTEM = [Path(place) for place in ("/proc/self", "/dev/null", "/sys", "/proc/cpuinfo", "/proc/meminfo", "/dev/shm")]

heard: list[tuple[str, str]] = []
inside: Path | None = None
listening = False


def within(path: str, places: list[Path]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real == place or place in real.parents for place in places)


def allowed() -> list[Path]:
    """Give where the bundle at hand may look: a delta says which bundle beside it may have its base."""
    if inside is None:
        return []
    return [inside, root] if inside.name.startswith("delta+") else [inside]


def opened(path: object, flags: object) -> str | None:
    """Say what is wrong with an open; None if nothing is."""
    if isinstance(path, int):
        return None
    text = os.fsdecode(path)  # type: ignore[arg-type]
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not os.path.isabs(text):  # a step below an open folder
        step = "/" not in text and text not in ("", ".", "..")
        followed = not (isinstance(flags, int) and flags & os.O_NOFOLLOW)
        return f"{text!r}" if not step or followed or writes else None
    places = OWN if writes else [*INSTALLED, *OWN, *SYSTEM, KEY, *allowed()]
    return None if within(text, places) else f"{text!r}{' to write' if writes else ''}"


def placed(args: tuple[object, ...]) -> str:
    """Give the whole path of what an event changes, which may be named from an open folder."""
    path, folder = os.fsdecode(args[0]), args[-1]  # type: ignore[arg-type]
    if os.path.isabs(path) or not isinstance(folder, int) or folder < 0:
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


def hear(event: str, args: tuple[object, ...]) -> None:
    global listening
    if not listening:
        return
    listening = False
    try:
        if event == "import":
            heard.append(("import", str(args[0])))
        elif event == "open":
            if (wrong := opened(args[0], args[2])) is not None:
                heard.append(("open", wrong))
        elif event.startswith(FORBIDDEN):
            heard.append((event, repr(args)[:200]))
            if event.startswith(STOPPED):
                raise RuntimeError(f"{event} is not let through")
        elif event.startswith(CHANGING):
            if not within(placed(args), OWN):
                heard.append((event, repr(args)[:200]))
        elif event.startswith(LOOKING):
            if isinstance(args[0], str) and not within(args[0], [*INSTALLED, *OWN, *allowed()]):
                heard.append((event, repr(args)[:200]))
        elif event == "compile":
            if str(root) in str(args[1]):
                heard.append((event, repr(args)[:200]))
        elif event == "exec" and str(root) in getattr(args[0], "co_filename", ""):
            heard.append((event, args[0].co_filename))  # type: ignore[attr-defined]
    finally:
        listening = True


def loaded(path: Path) -> object:
    try:
        return zoo.load(path)
    except ZooError as error:
        return f"{type(error).__name__}: {error}"


def show(path: Path) -> dict[str, object]:
    """Run the commands that look at a bundle; what they print goes into the report."""
    found: dict[str, object] = {}
    for command in ("verify", "inspect", "info"):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([command, str(path)])
        found[command] = {"code": code, "printed": out.getvalue() + err.getvalue()}
    return found


def members(model: object) -> list[object]:
    return list(getattr(model, "members", {"": model}).values())


def same(model: object, other: object) -> bool:
    """Say whether two models are one in every tensor and in what they are."""
    pairs = list(zip(members(model), members(other), strict=False))
    if len(members(model)) != len(members(other)):
        return False
    for one, two in pairs:
        a, b = one.state_dict(), two.state_dict()  # type: ignore[attr-defined]
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
        if [type(m) for m in one.modules()] != [type(m) for m in two.modules()]:  # type: ignore[attr-defined]
            return False
    return True


sys.addaudithook(hear)
honest: dict[str, object] = {}
report: dict[str, object] = {}
names = sorted(path.name for path in root.iterdir() if path.name.startswith("honest-") or "+" in path.name)
first = [name for name in names if name.startswith("honest-")]
before = set(sys.modules)
listening = True
for name in first:  # what a library does once, when it is first used, such as asking whether the machine has IPv6
    inside = root / name
    loaded(inside), zoo.verify(inside, run=True), show(inside)
    if name == "honest-signed":
        zoo.verify(inside, key=KEY)
listening = False
report["first"] = [list(entry) for entry in heard]
report["modules"] = sorted(sys.modules.keys() - before)  # importlib.import_module tells the hook nothing
for name in [*first, *(name for name in names if name not in first)]:
    inside = root / name
    heard.clear()
    before = set(sys.modules)
    listening = True
    try:
        model = loaded(inside)
        verified = zoo.verify(inside).problems
        ran = zoo.verify(inside, run=True).problems if isinstance(model, str) or name.startswith("honest-") else []
        shown = show(inside)
        signature = zoo.verify(inside, key=KEY).problems if name.startswith("signed+") else []
        escaped = None
    except BaseException as error:
        model, verified, ran, shown, signature, escaped = "", [], [], {}, [], f"{type(error).__name__}: {error}"
    listening = False
    if name.startswith("honest-"):
        honest[name.removeprefix("honest-")] = model
    else:
        base = honest[name.partition("+")[0]]
    report[name] = {
        "error": model if isinstance(model, str) else None,
        "escaped": escaped,
        "same": not isinstance(model, str) and (name.startswith("honest-") or same(model, base)),
        "verified": verified,
        "ran": ran,
        "shown": shown,
        "signature": signature,
        "imports": sorted({what for event, what in heard if event == "import"} | (sys.modules.keys() - before)),
        "heard": [[event, what] for event, what in heard if event != "import"],
    }
told.write_text(json.dumps(report, indent=1))

"""What only a process of its own can show: imports, pipes, terminals, locales, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "timm", "torchvision", "transformers", "numpy", "PIL", "zoo_")


def spawn(*argv, shell=False, **environment):
    command = argv[0] if shell else [sys.executable, "-m", "zoo.cli", *argv]
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", **environment}
    env = {key: value for key, value in env.items() if value is not None}
    run = ["bash", "-c", command] if shell else command
    return subprocess.run(run, capture_output=True, env=env, timeout=120, check=False)


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["list", "--json"], ["fit", "--help"], ["resolve", "timm:vit"]])
def test_neither_torch_nor_a_plugin_is_imported(argv):
    script = (
        "import sys, io, json, zoo.cli\n"
        f"code = zoo.cli.main({argv!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)

    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert [name for name in modules if name.partition(".")[0] in HEAVY or name.startswith("zoo_")] == []


def test_a_closed_pipe_ends_quietly():
    done = spawn("set -o pipefail; python -m zoo.cli list | head -1; echo ${PIPESTATUS[0]}", shell=True)

    assert done.stdout.decode().split()[0] == "name"
    assert done.stdout.decode().splitlines()[1] == "0"
    assert done.stderr == b""


@pytest.mark.slow
def test_the_exit_code_survives_a_closed_pipe():
    done = spawn("python -m zoo.cli doctor | true; echo ${PIPESTATUS[0]}", shell=True, ZOO_CACHE="/dev/null/cache")

    assert done.stdout == b"1\n"
    assert done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told():
    done = spawn("python -m zoo.cli list > /dev/full; echo $?", shell=True)

    assert done.stdout == b"2\n"
    assert done.stderr == b"error: The output cannot be written: No space left on device.\n"


@pytest.mark.slow
def test_the_codes_are_0_1_2():
    assert spawn("resolve", "timm:vit").returncode == 0
    assert spawn("doctor", ZOO_CACHE="/dev/null/cache").returncode == 1
    assert spawn("resolve", "timm:no-such").returncode == 2


@pytest.mark.parametrize("argv", [["resolve", "timm:mobilenetv3"], ["list", "test_resnet"], ["--help"], ["list", "é→"]])
def test_a_locale_that_is_not_utf_8_gets_ascii(argv):
    done = spawn(*argv, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=None)

    assert done.returncode == 0
    assert (done.stdout + done.stderr).isascii()
    assert b"Traceback" not in done.stderr


def test_json_is_the_same_in_every_locale():
    here = spawn("resolve", "timm:mobilenetv3", "--json")
    there = spawn("resolve", "timm:mobilenetv3", "--json", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

    assert here.stdout == there.stdout
    assert json.loads(here.stdout)["how"] == "alias"


def on_terminal(*argv, **environment):
    """Run on a terminal and give what it shows."""
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    env.pop("NO_COLOR", None) if "NO_COLOR" not in environment else None
    child = subprocess.Popen([sys.executable, "-m", "zoo.cli", *argv], stdout=follower, stderr=follower, env=env)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    child.wait(timeout=60)
    os.close(leader)
    return shown


@pytest.mark.parametrize("argv", [["list", "test_resnet"], ["--help"], ["resolve", "timm:no-such"]])
def test_no_color_leaves_no_escape_on_a_terminal(argv):
    assert b"\x1b" not in on_terminal(*argv, NO_COLOR="1")


def test_a_terminal_gets_a_head_that_stands_out():
    assert b"\x1b[1m" in on_terminal("list", "test_resnet")


def test_a_long_table_on_a_terminal_does_not_wait_to_be_drawn():
    shown = on_terminal("list").decode().splitlines()

    assert len(shown) > 1_000
    assert shown[0].split()[0] == "name"


def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    home = {"HOME": str(tmp_path / "file"), "ZOO_CACHE": None, "XDG_CACHE_HOME": None}

    assert spawn("list", "test_resnet", **home).returncode == 0
    assert spawn("resolve", "timm:vit", **home).returncode == 0


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_line(pets, tmp_path):
    out = tmp_path / "model"
    argv = ["fit", str(pets), "--backbone", "timm:test_resnet", "--weights", "none", "--out", str(out)]
    command = [sys.executable, "-m", "zoo.cli", *argv, "--epochs", "100000"]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be there as well
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    assert child.stderr is not None
    first = child.stderr.readline()
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=60)

    assert "16 train, 4 validation" in first
    assert child.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "error: interrupted"
    assert not out.exists()

"""A hostile, damaged or endless checkpoint is one clean error, and nothing that it asks for happens."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import zoo
from zoo.converting import child
from zoo.converting.child import PROGRAM, check_torch, unpickle
from zoo.converting.reading import read_checkpoint
from zoo.errors import WeightsError


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def sentinel(tmp_path):
    return tmp_path / "sentinel"


def hostile(sentinel):
    touch = f"touch {sentinel}"
    return {
        "os.system": Runs(os.system, touch),
        "eval": Runs(eval, f"open({str(sentinel)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(sentinel)!r}, 'w').close()"),
        "subprocess": Runs(subprocess.call, ["touch", str(sentinel)]),
        "open": Runs(open, str(sentinel), "w"),
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "Path.touch": Runs(Path.touch, Path(sentinel)),
        "torch.load": Runs(torch.load, str(sentinel)),
    }


CASES = [*((kind, "zip") for kind in hostile("")), ("os.system", "legacy"), ("os.system", "bare"), ("getattr", "bare")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_pickle_that_would_run_code_is_refused_in_one_sentence_and_does_not(tmp_path, sentinel, kind, how):
    file = tmp_path / "evil.pth"
    held = {"state_dict": hostile(sentinel)[kind], "weight": torch.ones(2)}
    if how == "bare":
        file.write_bytes(pickle.dumps({"state_dict": held["state_dict"]}))
    else:
        torch.save(held, file, _use_new_zipfile_serialization=how == "zip")

    with pytest.raises(WeightsError, match="could run code") as raised:
        read_checkpoint(file)

    assert not sentinel.exists()
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [b"junk" * 40, b"", b"PK\x03\x04" + b"\0" * 60, b"\x80\x02."],
    ids=["junk", "empty", "zip", "pickle"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, data):
    (tmp_path / "x.pth").write_bytes(data)

    with pytest.raises(WeightsError, match=r"x\.pth cannot be converted"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.slow
@pytest.mark.parametrize("held", [{"epoch": 3}, [torch.ones(2)], {"state_dict": {}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "x.pth")

    with pytest.raises(WeightsError, match="no tensors"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.slow
def test_a_cut_checkpoint_is_refused(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(data[: len(data) // 2])

    with pytest.raises(WeightsError, match="cannot be converted"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_cut_safetensors_file_is_refused(tmp_path):
    import safetensors.torch

    data = safetensors.torch.save({"w": torch.ones(1000)})
    (tmp_path / "x.safetensors").write_bytes(data[:-1])

    with pytest.raises(WeightsError, match=r"tensors end at"):
        read_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.slow
def test_a_checkpoint_that_takes_too_long_is_one_error(tmp_path):
    with (tmp_path / "x.pth").open("wb") as file:  # torch's restricted reader takes seconds over so many numbers
        pickle.dump(list(range(6_000_000)), file, protocol=2)

    with pytest.raises(WeightsError, match="took longer than it may"):
        unpickle(tmp_path / "x.pth", tmp_path / "out.safetensors", seconds=0)

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.slow
def test_a_checkpoint_that_takes_too_much_memory_is_one_error(tmp_path):
    """A file of a few kilobytes whose storage unfolds to 256 MB."""
    torch.save({"w": torch.zeros(2**26)}, tmp_path / "big.pth")
    with zipfile.ZipFile(tmp_path / "big.pth") as big, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as small:
        for name in big.namelist():
            small.writestr(name, big.read(name))
    (tmp_path / "big.pth").unlink()

    with pytest.raises(WeightsError, match="memory"):
        unpickle(tmp_path / "x.pth", tmp_path / "out.safetensors", space=2**25)


@pytest.mark.slow
def test_a_small_file_whose_tensor_unfolds_without_end_is_one_error(tmp_path):
    torch.save({"w": torch.ones(1).expand(2**40)}, tmp_path / "x.pth")

    with pytest.raises(WeightsError, match="memory"):
        read_checkpoint(tmp_path / "x.pth")


PROGRAMS = {
    "killed": ("import os; os.kill(os.getpid(), 9)", "ran out of memory or was killed"),
    "crashed": ("import os; os.kill(os.getpid(), 11)", "crashed"),
    "failed": ("raise SystemExit(7)", "ended with 7"),
    "silent": ("", "gave no answer"),
    "no JSON": ("print('nonsense')", "gave no answer"),
    "a list": ("print('[1]')", "gave no answer"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_whatever_becomes_of_the_child_is_one_clean_error(tmp_path, monkeypatch, case):
    program, reason = PROGRAMS[case]
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "x.pth").write_bytes(b"x")
    monkeypatch.setattr(child, "PROGRAM", tmp_path / "program.py")

    with pytest.raises(WeightsError, match=reason):
        unpickle(tmp_path / "x.pth", tmp_path / "out.safetensors")


@pytest.mark.slow
def test_the_hook_stops_what_a_checkpoint_has_no_business_with(tmp_path, sentinel):
    code = f"""
import importlib.util, os, subprocess, socket, sys
spec = importlib.util.spec_from_file_location("program", {str(PROGRAM)!r})
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
sys.addaudithook(program._audit({str(tmp_path / "allowed" / "out")!r}))
attempts = [
    lambda: os.system("touch {sentinel}"),
    lambda: subprocess.run(["touch", "{sentinel}"]),
    lambda: os.posix_spawn("/usr/bin/touch", ["touch", "{sentinel}"], {{}}),
    lambda: os.fork(),
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: open("{sentinel}", "w"),
    lambda: os.open("{sentinel}", os.O_CREAT | os.O_WRONLY),
    lambda: os.remove("{tmp_path}/kept"),
]
told = []
for attempt in attempts:
    try:
        attempt()
        told.append("done")
    except PermissionError as error:
        told.append("stopped" if "stopped here" in str(error) else str(error))
os.write(1, " ".join(told).encode())
"""
    (tmp_path / "kept").touch()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.split() == ["stopped"] * 8
    assert not sentinel.exists()
    assert (tmp_path / "kept").exists()


@pytest.mark.slow
def test_this_process_never_unpickles(tmp_path, monkeypatch):
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pth")
    heard = []
    monkeypatch.setattr(torch, "load", lambda *a, **k: heard.append("torch.load"))
    monkeypatch.setattr(pickle, "load", lambda *a, **k: heard.append("pickle.load"))
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: heard.append("pickle.loads"))

    found = read_checkpoint(tmp_path / "x.pth")

    assert heard == []
    assert torch.equal(found.tensors["weight"], torch.ones(2))


@pytest.mark.slow
def test_tensors_come_back_as_they_were(tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": shared,
        "view": shared[1],
        "turned": shared.t(),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.empty(0, 3),
    }
    torch.save(state, tmp_path / "x.pth")

    found = read_checkpoint(tmp_path / "x.pth").tensors

    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype for key, tensor in state.items())


@pytest.mark.slow
def test_a_sparse_tensor_is_refused_by_name(tmp_path):
    torch.save({"layer.weight": torch.eye(3).to_sparse()}, tmp_path / "x.pth")

    with pytest.raises(WeightsError, match=r"layer\.weight.*sparse"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("version", ["2.9.1", "1.13", "2.6.0+cpu", "strange"])
def test_an_older_torch_is_refused(version):
    with pytest.raises(WeightsError, match="CVE-2026-24747"):
        check_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.15.0+cu132", "3.0"])
def test_a_newer_torch_is_not(version):
    check_torch(version)


@pytest.mark.slow
def test_convert_refuses_a_hostile_checkpoint(tmp_path, sentinel):
    torch.save({"state_dict": Runs(os.system, f"touch {sentinel}")}, tmp_path / "evil.pth")

    with pytest.raises(WeightsError, match="system"):
        zoo.convert(tmp_path / "evil.pth", tmp_path / "out", backbone="timm:test_resnet", classes=["a", "b"])

    assert not sentinel.exists()
    assert not (tmp_path / "out").exists()

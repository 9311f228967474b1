"""Looking things up imports nothing heavy and opens no connection."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from zoo.catalog import build_catalog, catalog_of, list_backbones, providers, resolve

LOOK = """
import json, socket, sys

tried = []
def refuse(*args, **kwargs):
    tried.append(repr(args[1:])[:200])
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse

import zoo
zoo.list()
zoo.list("mobilenet*", needs="maps", modality="image", license="apache*", tag="*in1k*", size=224, sort="parameters")
for name in ("timm:mobilenetv3", "torchvision:resnet", "hf:dinov2", "hf:openai/clip-vit-base-patch32#vision", "./a"):
    zoo.info(name)
for name in ("timm:resnet5O", "qqqq", "torchvision:raft_large"):
    try:
        zoo.resolve(name)
    except LookupError:
        pass
    else:
        raise AssertionError(name)
print(json.dumps([tried, sorted(sys.modules)]))
"""
HEAVY = {"torch", "timm", "torchvision", "transformers", "huggingface_hub", "numpy", "PIL", "typer", "rich", "pydantic"}


def look(script: str) -> tuple[list[str], set[str]]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tried, modules = json.loads(done.stdout.splitlines()[-1])
    return tried, {name.partition(".")[0] for name in modules}


def test_list_info_and_resolve_import_nothing_heavy_and_open_no_connection():
    tried, modules = look(LOOK)

    assert tried == []
    assert HEAVY & modules == set()
    assert [name for name in modules if name.startswith("zoo_")] == []


@pytest.mark.parametrize("argv", [["list"], ["list", "--json"], ["info", "timm:vit"], ["resolve", "hf:vit"]])
def test_the_commands_import_nothing_heavy_either(argv):
    script = (
        "import sys, io, json, contextlib, zoo.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert zoo.cli.main({argv!r}) == 0\n"
        "print(json.dumps([[], sorted(sys.modules)]))"
    )
    _, modules = look(script)

    assert HEAVY & modules == set()


@pytest.mark.slow
def test_every_provider_lists_its_library_without_a_connection(monkeypatch):
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for provider in providers():
        shipped = {entry.name: entry for entry in catalog_of(provider).entries}
        built = build_catalog(provider)

        assert set(shipped) <= {entry.name for entry in built.catalog.entries} | set(built.catalog.refused), provider
        for entry in built.catalog.entries:
            known = shipped.get(entry.name, entry)
            assert (entry.parameters, entry.capabilities) == (known.parameters, known.capabilities)
    assert list_backbones()
    assert resolve("timm:mobilenetv3").how == "alias"
    assert tried == []

"""A bundle of a few kilobytes, a web server on this machine that fails on demand, and no waiting between attempts."""

import http.server
import re
import socket
import struct
import sys
import threading
import time
import types

import pytest
import torch
from torch import nn

import zoo
from zoo.assembly import assemble
from zoo.bundle.hashing import digest_of
from zoo.contracts.features import Features
from zoo.registry import Plugin, registry
from zoo.remote import retrying, web
from zoo.remote.shelf import Shelf
from zoo.spec import BackboneSpec, InputSpec, StageSpec


class MiniBackbone(zoo.Backbone):
    def extract(self, inputs, want):
        return Features(pooled=self.native(inputs["image"]).mean(dim=(2, 3)))

    def native_files(self):
        return {"config.json": {"kind": "mini"}}


class MiniProvider(zoo.Provider):
    library = "torch"

    def catalog(self):
        raise NotImplementedError

    def spec(self, reference):
        return BackboneSpec(
            reference=str(reference),
            provider="mini",
            architecture="mini",
            library="torch",
            library_version=torch.__version__,
            modality="image",
            inputs=(InputSpec(name="image", kind="image", rank=4, channels=1, size=(8, 8)),),
            pooled_dim=16,
            stages=(StageSpec(name="stem"), StageSpec(name="s1", module="0"), StageSpec(name="post")),
            capabilities=("pooled",),
            parameters=160,
            pooling="mean",
            preprocessing=zoo.Preprocessing(size=(8, 8), resize=(8, 8), mean=(0.5,), std=(0.5,), channels=1),
            construction={"extra": str(reference.options.get("extra", ""))},
        )

    def build(self, spec, *, weights):
        native = nn.Sequential(nn.Conv2d(1, 16, 3))
        return MiniBackbone(spec, native, zoo.StageMap(native, {"s1": "0"}))


@pytest.fixture(autouse=True)
def mini_plugin():
    """Install the plugin ``mini`` for one test."""
    module = types.ModuleType("zoo_mini")
    module.zoo_provider = zoo.hookimpl(lambda: MiniProvider())
    sys.modules["zoo_mini"] = module
    registry().claims["mini"] = (Plugin("mini", "zoo_mini", "zoo-mini", "1.2.3"),)
    yield
    registry().claims.pop("mini", None)
    sys.modules.pop("zoo_mini")


def mini(seed=0, *heads):
    """Build a model; another seed is another model of the same files."""
    torch.manual_seed(seed)
    spec = zoo.ModelSpec(
        streams={"main": zoo.StreamSpec(backbone=MiniProvider().spec(zoo.Reference.parse("mini:mini")))},
        heads=heads or (zoo.head("classifier", name="pet", classes=["cat", "dog"]),),
    )
    return assemble(spec, weights=None)


def contents(folder):
    """Give every file of a folder: path to bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(one, other):
    """Say whether two models have equal tensors."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def are_whole(shelf):
    """Say whether every blob is what its name says."""
    for path in (shelf.root / "blobs").rglob("*"):
        if path.is_file() and path.parent.name + path.name != digest_of(path.read_bytes()):
            return False
    return True


@pytest.fixture
def make():
    """Give the functions of this file, which other files cannot import."""
    return types.SimpleNamespace(mini=mini, contents=contents, same=same, are_whole=are_whole)


@pytest.fixture
def bundle(tmp_path):
    """A bundle in a folder."""
    return mini().save(tmp_path / "home" / "bundle")


@pytest.fixture
def shelf(tmp_path):
    """The shelf that the public functions use in this test."""
    return Shelf(tmp_path / "zoo-cache" / "remote")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Wait next to nothing before another attempt, and not long for an answer; use no proxy."""
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.0005)
    monkeypatch.setattr(retrying, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(web, "PATIENCE", 2.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        place = self.path.partition("?")[0]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.log.append((place, start, dict(self.headers), self.path))
        data = self.server.files.get(place)
        fault = self.server.fault
        if fault is not None and fault(self, place, start, data):
            return None
        if data is None:
            return self.answer(404, b"")
        if asked and self.server.ranges:
            if start >= len(data):
                return self.answer(416, b"")
            return self.answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        return self.answer(200, data)

    def answer(self, status, body, headers=(), *, length=None, send=None):
        """Answer; with ``length`` another Content-Length than the body's, with ``send`` only so much of it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if send is None else body[:send])
        self.wfile.flush()
        time.sleep(self.server.lull)
        if send is not None or length is not None:
            self.close_connection = True

    def reset(self):
        """Break the connection off as a crash does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()
        self.wfile = self.rfile = open("/dev/null", "r+b", buffering=0)  # noqa: SIM115


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that goes away, or a connection that we broke off


@pytest.fixture
def server():
    """A web server: ``files``, ``fault`` (may answer instead), ``log``, ``ranges``, ``lull`` (seconds), ``url``."""
    running = Server(("127.0.0.1", 0), Handler)
    running.files, running.fault, running.log, running.ranges, running.lull = {}, None, [], True, 0
    running.url = f"http://127.0.0.1:{running.server_address[1]}"
    thread = threading.Thread(target=lambda: running.serve_forever(0.01), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def served(server, bundle):
    """The URL of the bundle on the web server."""
    server.files.update({f"/pets/{name}": data for name, data in contents(bundle).items()})
    return f"{server.url}/pets"

"""Object stores over the wire: s3fs against a small server that speaks as much of S3 as is used."""

import http.server
import re
import threading
import urllib.parse

import pytest

import zoo
from zoo.errors import BundleError

pytest.importorskip("s3fs")


class Store(http.server.BaseHTTPRequestHandler):
    """One bucket: put, get with ranges, head, delete, list."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def do_GET(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size) if size else b""
        path, _, query = self.path.partition("?")
        bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
        self.server.log.append((self.command, key))
        if self.server.faults:
            return self.fail(self.server.faults.pop(0), "SlowDown")
        if bucket != "bucket":
            return self.fail(404, "NoSuchBucket")
        if "list-type" in query:
            return self.answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        objects = self.server.objects
        if self.command == "PUT":
            objects[key] = body
            return self.answer(200, b"", {"ETag": '"x"'})
        if key not in objects:
            return self.fail(404, "NoSuchKey")
        if self.command == "DELETE":
            objects.pop(key)
            return self.answer(204)
        data, told = objects[key], {"ETag": '"x"', "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, data, told)
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        told["Content-Range"] = f"bytes {start}-{stop}/{len(data)}"
        return self.answer(206, data[start : stop + 1], told)

    do_PUT = do_HEAD = do_DELETE = do_GET


@pytest.fixture
def store(monkeypatch):
    """The server: ``objects`` (key to bytes), ``log`` (method, key), ``faults`` (statuses)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    running.daemon_threads = True
    running.objects, running.log, running.faults = {}, [], []
    thread = threading.Thread(target=lambda: running.serve_forever(0.01), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_address[1]}")
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


URL = "s3://bucket/models/pets"


@pytest.mark.slow
def test_a_model_goes_round_by_s3_with_the_manifest_written_last(store, make, bundle):
    model = make.mini()

    assert model.save(URL) == URL
    puts = [key for method, key in store.log if method == "PUT"]
    assert puts[-1] == "models/pets/zoo.json"
    assert len(puts) == len(set(puts))
    assert store.objects.keys() == {f"models/pets/{name}" for name in make.contents(bundle)}
    assert make.same(zoo.load(URL), model)
    assert zoo.verify(URL, run=True).ok


@pytest.mark.slow
def test_replacing_by_s3_removes_what_only_the_old_bundle_had_at_the_end(store, make):
    pet = zoo.head("classifier", name="pet", classes=["cat", "dog"])
    make.mini(0, pet, zoo.head("regression", name="age")).save(URL)
    with pytest.raises(BundleError, match="overwrite=True"):
        make.mini(1, pet).save(URL)
    zoo.load(URL)
    store.log.clear()

    make.mini(1, pet).save(URL, overwrite=True)

    changes = [(method, key.removeprefix("models/pets/")) for method, key in store.log if method in ("PUT", "DELETE")]
    stale = ["heads/age/model.safetensors", "model.sig"]
    assert changes[-3:] == [("PUT", "zoo.json"), *(("DELETE", name) for name in stale)]
    assert make.same(zoo.load(URL), make.mini(1))


@pytest.mark.slow
def test_a_spoilt_object_and_what_is_not_there_are_clean_errors(store, make):
    make.mini().save(URL)
    key = "models/pets/heads/pet/model.safetensors"
    store.objects[key] = store.objects[key][:-1] + bytes([store.objects[key][-1] ^ 1])

    with pytest.raises(BundleError, match=r"heads/pet/model\.safetensors is not what was saved"):
        zoo.load(URL)
    store.objects[key] = store.objects[key][:-9]
    with pytest.raises(BundleError, match=r"heads/pet/model\.safetensors cannot be read: it ends too early"):
        zoo.load(URL)
    with pytest.raises(BundleError, match="There is no bundle at s3://bucket/models/dogs"):
        zoo.load("s3://bucket/models/dogs")
    with pytest.raises(BundleError, match=r"s3://tekcub/pets/README\.md cannot be written: there is nothing there"):
        make.mini().save("s3://tekcub/pets")


@pytest.mark.slow
def test_a_store_that_is_busy_for_a_while_is_asked_again(store, make):
    make.mini().save(URL)
    store.faults[:] = [503, 500]

    assert make.same(zoo.load(URL), make.mini())

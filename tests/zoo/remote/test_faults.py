"""A web server that fails in every way it can: what is kept is whole, and every end is good or one clean error."""

import random
import time

import pytest

from zoo.errors import BundleError
from zoo.remote import retrying, streaming, web
from zoo.remote.address import Address
from zoo.remote.fetching import fetch

TENSORS = "/pets/backbones/main/model.safetensors"
TIMES = 50


class Faults:
    """Makes faults at random places; each stops after ``times`` requests, and says whether the end must be good."""

    def __init__(self, seed, tmp_path):
        self.dice = random.Random(seed)
        self.secret = tmp_path / "secret"
        self.secret.write_bytes(b"never read")

    def somewhere(self, data):
        return self.dice.randrange(1, len(data))

    def reset(self, times=2):
        """The connection is reset in the middle of a body."""

        def fault(handler, place, start, data):
            rest = data[start:]
            cut = self.somewhere(rest) if len(rest) > 1 else 0
            handler.answer(206 if start else 200, rest, self.range(start, data), send=cut)
            handler.reset()

        return self.first(times, fault)

    def truncated(self, times=2):
        """The body ends too early, and the connection is closed as if all were well."""
        return self.first(
            times,
            lambda handler, place, start, data: handler.answer(
                206 if start else 200, data[start:], self.range(start, data), send=len(data[start:]) // 2
            ),
        )

    def flipped(self, times=1):
        """One bit of the body is another, the size is right."""

        def fault(handler, place, start, data):
            spoilt = bytearray(data)
            spoilt[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
            handler.answer(200, bytes(spoilt))

        return self.first(times, fault)

    def longer(self, times=1):
        """The body is longer, and says so."""
        more = bytes(self.dice.randrange(1, 999))
        return self.first(times, lambda handler, place, start, data: handler.answer(200, data + more))

    def wrong_length(self, times=2):
        """Content-Length says more or less than there is."""

        def fault(handler, place, start, data):
            length = max(1, len(data) + self.dice.choice([-1, 1]) * self.dice.randrange(1, len(data)))
            handler.answer(200, data, length=length)

        return self.first(times, fault)

    def redirect(self):
        """The file is elsewhere."""

        def fault(handler, place, start, data):
            if place.startswith("/pets"):
                handler.server.files["/moved" + place] = data
                handler.answer(302, b"", {"Location": "/moved" + place})
                return True
            return False

        return fault, True

    def redirect_to_file(self):
        """The file is said to be on the reader's own disk."""

        def fault(handler, place, start, data):
            if place == TENSORS:
                handler.answer(302, b"", {"Location": self.secret.as_uri()})
            return place == TENSORS

        return fault, False

    def redirect_in_a_circle(self):
        def fault(handler, place, start, data):
            handler.answer(302, b"", {"Location": place})
            return True

        return fault, False

    def slow(self):
        """The body comes in small pieces."""

        def fault(handler, place, start, data):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            step = len(data) // 4 + 1
            for at in range(0, len(data), step):
                time.sleep(0.003)
                handler.wfile.write(data[at : at + step])
                handler.wfile.flush()
            return True

        return fault, True

    def failing(self, times=2):
        """500, then good."""
        return self.first(times, lambda handler, place, start, data: handler.answer(500, b"oh"))

    def unavailable(self):
        """503 for ever."""

        def fault(handler, place, start, data):
            handler.answer(503, b"")
            return True

        return fault, False

    def forbidden(self):
        """403, which no second attempt changes."""

        def fault(handler, place, start, data):
            if place == TENSORS:
                handler.answer(403, b"")
            return place == TENSORS

        return fault, False

    def range_of_another(self):
        """What comes after a break is from another file."""
        seen = []

        def fault(handler, place, start, data):
            seen.append(place)
            if seen.count(place) == 1 and len(data) > 1:
                handler.answer(200, data, send=len(data) // 2)
                return True
            if start:
                other = bytes(reversed(data))
                handler.answer(206, other[start:], self.range(start, data))
                return True
            return False

        return fault, True

    @staticmethod
    def range(start, data):
        return {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}

    @staticmethod
    def first(times, fault):
        """Let the first requests of every file fail."""
        seen = []

        def some(handler, place, start, data):
            seen.append(place)
            if data is None or seen.count(place) > times:
                return False
            fault(handler, place, start, data)
            return True

        return some, True


FAULTS = [name for name in vars(Faults) if not name.startswith("_") and name not in ("somewhere", "range", "first")]


def run(name, seed, server, served, shelf, bundle, make, tmp_path):
    server.fault, good = getattr(Faults(seed, tmp_path), name)()
    if good:
        found = fetch(Address.of(served), shelf)
        assert make.contents(found.folder) == make.contents(bundle), (name, seed)
    else:
        with pytest.raises(BundleError) as caught:
            fetch(Address.of(served), shelf)
        assert caught.value.__cause__ is None
        assert "\n" not in str(caught.value)
        assert not any(path.name == "zoo.json" for path in shelf.root.rglob("*")), (name, seed)
    assert make.are_whole(shelf), (name, seed)
    assert b"never read" not in b"".join(make.contents(shelf.root).values())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_good_or_in_one_clean_error(name, server, served, shelf, bundle, make, tmp_path):
    run(name, 0, server, served, shelf, bundle, make, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fifty_times_leaves_no_corrupted_blob(name, server, served, shelf, bundle, make, tmp_path):
    for seed in range(TIMES):
        cache = type(shelf)(tmp_path / f"cache{seed}")
        run(name, seed, server, served, cache, bundle, make, tmp_path)


@pytest.mark.parametrize("name", ["flipped", "longer", "truncated", "reset", "failing"])
def test_a_fault_that_never_ends_is_an_error_after_a_bounded_number_of_requests(
    name, server, served, shelf, tmp_path, make
):
    fault, _ = getattr(Faults(1, tmp_path), name)(times=10**6)
    server.fault = lambda handler, place, start, data: place == TENSORS and fault(handler, place, 0, data)
    server.ranges = False

    with pytest.raises(BundleError, match=r"backbones/main/model\.safetensors"):
        fetch(Address.of(served), shelf)

    assert sum(entry[0] == TENSORS for entry in server.log) <= 2 * retrying.ATTEMPTS
    assert make.are_whole(shelf)


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (401, 1), (503, retrying.ATTEMPTS), (429, 5)])
def test_what_cannot_pass_is_asked_for_once_and_what_may_pass_five_times(status, asked, server, served, shelf):
    def fault(handler, place, start, data):
        handler.answer(status, b"")
        return True

    server.fault = fault

    with pytest.raises(BundleError):
        fetch(Address.of(served), shelf)

    assert [entry[0] for entry in server.log] == ["/pets/zoo.json"] * asked


def test_a_server_that_comes_to_a_crawl_is_given_up(server, served, shelf, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 0.02)
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)

    def fault(handler, place, start, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for at in range(20):
            time.sleep(0.01)
            handler.wfile.write(data[at : at + 1])
        return True

    server.fault = fault

    with pytest.raises(BundleError, match=r"zoo\.json cannot be read: there was no answer in time"):
        fetch(Address.of(served), shelf)


def test_a_server_that_sends_without_end_is_not_read_to_its_end(server, served, shelf):
    sent = []

    def fault(handler, place, start, data):
        if place != TENSORS:
            return False
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while len(sent) < 1000:
                handler.wfile.write(bytes(2**16))
                sent.append(1)
        except OSError:
            pass
        return True

    server.fault = fault

    with pytest.raises(BundleError, match="has more"):
        fetch(Address.of(served), shelf)

    assert len(sent) < 1000
    assert not any((shelf.root / "parts").iterdir())


def test_a_server_that_says_nothing_is_given_up(server, served, shelf, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)
    server.fault = lambda handler, place, start, data: time.sleep(0.3) is None and place == "never"

    with pytest.raises(BundleError, match="no answer in time"):
        fetch(Address.of(served), shelf)


def test_a_redirect_from_https_to_http_is_refused(served):
    """The hook that aiohttp calls before it follows, on a redirect of an encrypted page."""
    import asyncio
    import types

    place = web.WebPlace(Address.of(served.replace("http:", "https:")))
    (tracing,) = place.system.client_kwargs["trace_configs"]
    (look,) = tracing.on_request_redirect
    closed = []

    def ask(source, target):
        url = types.SimpleNamespace(scheme=source)
        response = types.SimpleNamespace(url=url, headers={"Location": target}, close=lambda: closed.append(target))
        asyncio.run(look(None, None, types.SimpleNamespace(response=response)))

    ask("https", "https://example.org/x")
    ask("https", "/x")
    ask("http", "http://example.org/x")
    with pytest.raises(web.InvalidRedirect):
        ask("https", "http://example.org/x")
    assert closed == ["http://example.org/x"]

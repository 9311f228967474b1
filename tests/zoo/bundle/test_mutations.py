"""150,000 spoilt headers and manifests in one run: each is refused as a bundle's, or read as what it says; quickly."""

import contextlib
import copy
import json
import random
import resource
import time

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings

import zoo
from zoo.bundle import manifest
from zoo.bundle.header import read_header
from zoo.bundle.plain_json import canonical
from zoo.bundle.tensors import decode
from zoo.errors import BundleError, ZooError

pytestmark = pytest.mark.slow

HEADERS, MANIFESTS = 100_000, 50_000
MOST_SECONDS, MOST_MEMORY = 2.0, 64 * 2**20

SEEDS = [
    safetensors.torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}, {"format": "pt"}),
    safetensors.torch.save(
        {"w": torch.zeros(2, 2, dtype=torch.bfloat16), "e": torch.empty(0, 4), "m": torch.ones(3) > 0}
    ),
    safetensors.torch.save({f"layer.{i}.weight": torch.zeros(1, 2, dtype=torch.int8) for i in range(5)}),
    safetensors.torch.save({}, {"format": "pt"}),
]
EXTREMES = [
    *(b"-1", b"0", b"1", b"127", b"4294967296", b"281474976710656", b"9223372036854775807", b"9223372036854775808"),
    *(b"18446744073709551615", b"18446744073709551616", b"1e309", b"-1e309", b"1e-400", b"0.5", b"-0", b"00", b"1E2"),
    *(b"9" * 4000, b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b"[]", b"{}", b'"7"'),
]
TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\x00", b"\xff"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b" ", b'"__metadata__":', b'"checksum":', b"[" * 60, b'{"a":' * 60),
    *(b"F32", b"I64", b"F8_E8M0", b"..", b"/etc/passwd", b"\xe2\x80\xae", b"\x1b[31m"),
]


def spoil(data, dice):
    """Change some bytes in one of a dozen ways that have broken parsers."""
    text = bytearray(data)
    at = dice.randrange(len(text) + 1)
    to = min(len(text), at + dice.randint(1, 24))
    kind = dice.randrange(12)
    if kind == 0 and at < len(text):
        text[at] ^= 1 << dice.randrange(8)
    elif kind == 1 and at < len(text):
        text[at] = dice.randrange(256)
    elif kind == 2 and at < len(text):
        other = dice.randrange(len(text))
        text[at], text[other] = text[other], text[at]
    elif kind == 3:
        del text[at:to]
    elif kind == 4:
        text[at:at] = text[at:to]  # said twice
    elif kind == 5:
        source = dice.randrange(len(text) + 1)
        text[at:to] = text[source : source + dice.randint(1, 24)]
    elif kind == 6:
        text[at:at] = dice.choice(TOKENS)
    elif kind == 7:
        del text[at:]
    elif kind == 8:
        text += bytes(dice.randrange(256) for _ in range(dice.randint(1, 9)))
    else:
        _spoil_a_number(text, at, dice)
    return bytes(text)


def _spoil_a_number(text, at, dice):
    while at < len(text) and not 48 <= text[at] <= 57:
        at += 1
    end = at
    while end < len(text) and 48 <= text[end] <= 57:
        end += 1
    text[at:end] = dice.choice(EXTREMES)


def spoilt_header(dice):
    """Spoil a header; mostly with a length that is right again, so that the reader comes to what is in it."""
    seed = dice.choice(SEEDS)
    length = int.from_bytes(seed[:8], "little")
    if dice.random() < 0.1:
        return spoil(seed, dice)
    text = seed[8 : 8 + length]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        text = spoil(text, dice)
    payload = seed[8 + length :] if dice.random() < 0.9 else spoil(seed[8 + length :], dice)
    return len(text).to_bytes(8, "little") + text + payload


class Bounds:
    """The longest that one example took, in seconds of this process, and how much its memory grew, in bytes."""

    def __init__(self):
        self.longest = 0.0
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @contextlib.contextmanager
    def one(self):
        start = time.thread_time()
        try:
            yield
        finally:
            self.longest = max(self.longest, time.thread_time() - start)

    def check(self):
        assert self.longest <= MOST_SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before <= MOST_MEMORY


def test_a_hundred_thousand_spoilt_headers_are_refused_or_read_as_the_library_reads_them():
    dice = random.Random(20)
    refused = read = 0
    bounds = Bounds()
    for _ in range(HEADERS):
        data = spoilt_header(dice)
        with bounds.one():
            try:
                entries = read_header(data, "f")
            except BundleError:
                refused += 1
                continue
        tensors = safetensors.torch.load(data)
        assert {name: (str(t.dtype), tuple(t.shape)) for name, t in tensors.items()} == {
            name: (f"torch.{entry.dtype}", entry.shape) for name, entry in entries.items()
        }
        assert decode(data, "f").keys() == tensors.keys()
        read += 1

    assert refused + read == HEADERS
    assert refused > 0.8 * HEADERS
    assert read > 100, "the spoiling is so coarse that nothing is ever read"
    bounds.check()


def places(value, path=()):
    """List the path of everything in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:4]):
            found += places(item, (*path, i))
    return found


ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -0.0, 5e-324, 1e308),
    *("", "x", "..", "/", "../../x", "zoo.json", "a\x00b", "\x1b[31m", "\u202e", "é", "e\u0301", "A" * 5000),
    *("os:system", "timm:vit", "hf:a/b", "heads", "full", "delta", "ensemble", "1.0", "2.0", "channels_last"),
    *([], {}, [[]], [{}], [None], {"": {}}, {"x": 1}, {"__class__": "os.system"}, ["a", "a"], [1, "a", None]),
]


def spoilt_value(text, paths, dice):
    """Change a JSON value in one or two places: drop, add, rename, swap, repeat or replace."""
    value = json.loads(text)
    for _ in range(dice.choice((1, 1, 2))):
        path = dice.choice(paths)
        if not path:
            value[f"key{dice.randrange(3)}"] = dice.choice(ODD)
            continue
        holder = value
        try:
            for step in path[:-1]:
                holder = holder[step]
            last = path[-1]
            kind = dice.randrange(6)
            if kind == 0:
                del holder[last]
            elif kind == 1 and isinstance(holder, dict):
                holder[dice.choice((last.upper(), last + "_", "", " " + last, "\u202e" + last))] = holder.pop(last)
            elif kind == 2 and isinstance(holder, list):
                holder += holder
            elif kind == 3:
                other = value
                for step in dice.choice(paths):
                    other = other[step]
                holder[last] = copy.deepcopy(other)
            else:
                holder[last] = copy.deepcopy(dice.choice(ODD))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return value


def sealed(data):
    """Write a manifest with its checksum, as an attacker would."""
    return canonical({**data, "checksum": manifest._checksum(data)})


def lost(value, given, path=""):
    """Name what of a given value another does not hold; None if it holds all, and only defaults beside it."""
    if isinstance(given, dict) and isinstance(value, dict) and given.keys() <= value.keys():
        return next(filter(None, (lost(value[key], given[key], f"{path}.{key}") for key in given)), None)
    if isinstance(given, list) and isinstance(value, list) and len(value) == len(given):
        return next(
            filter(None, (lost(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(value, given, strict=True)))), None
        )
    said = float(given) if isinstance(value, float) and type(given) is int else given
    same = value == said and isinstance(value, bool) == isinstance(given, bool)
    return None if same else f"{path}: {given!r} became {value!r}"[:300]


@pytest.fixture
def written(make, tmp_path):
    """The manifests of a model with three heads and of an ensemble."""
    heads = [
        zoo.head("classifier", name="pet", classes=["cat", "dog"]),
        zoo.head("regression", name="age"),
        zoo.head("classifier", name="tags", classes=["a", "b"], multi_label=True),
    ]
    one = make.tiny(*heads, epochs=3, metrics={"pet": {"accuracy": 0.5}})
    two = zoo.ensemble({"one": make.tiny(), "two": make.tiny(seed=1)})
    return [model.save(tmp_path / name) / "zoo.json" for name, model in (("model", one), ("ensemble", two))]


def test_fifty_thousand_spoilt_manifests_are_refused_or_read_as_what_they_say(written):
    dice = random.Random(21)
    seeds = [path.read_bytes() for path in written]
    values = []
    for seed in seeds:
        value = json.loads(seed)
        value.pop("checksum")
        values.append((json.dumps(value), places(value)))
    refused = read = 0
    bounds = Bounds()
    for i in range(MANIFESTS):
        which = int(i % 5 == 0)
        data = spoil(seeds[which], dice) if i % 2 else sealed(spoilt_value(*values[which], dice))
        with bounds.one():
            try:
                found = manifest.read(data, "zoo.json")
            except ZooError:
                refused += 1
                continue
        given, back = json.loads(data), json.loads(manifest.dump(found))
        difference = lost(back, {**given, "checksum": back["checksum"]})
        assert difference is None
        read += 1

    assert refused + read == MANIFESTS
    assert refused > 0.6 * MANIFESTS
    assert read > 100
    bounds.check()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_any_place_of_a_manifest_is_refused_or_read(bundle, data):
    value = json.loads((bundle / "zoo.json").read_bytes())
    value.pop("checksum")
    *steps, last = data.draw(st.sampled_from([path for path in places(value) if path]))
    holder = value
    for step in steps:
        holder = holder[step]
    holder[last] = data.draw(json_values)
    try:
        text = sealed(value)
    except ValueError:  # half a character, or a number beyond JSON
        return
    with contextlib.suppress(BundleError):
        manifest.read(text, "zoo.json")

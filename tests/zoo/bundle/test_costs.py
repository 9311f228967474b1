"""Bundles made to cost much time or memory: each is refused, or read, within two seconds and 64 MB."""

import contextlib
import os
import resource
import time

import pytest

import zoo
from zoo.bundle import manifest
from zoo.bundle.hashing import digest_of
from zoo.bundle.header import read_header
from zoo.errors import BundleError

pytestmark = pytest.mark.slow

MOST_SECONDS, MOST_MEMORY = 2.0, 64 * 2**20


def bounded(act):
    """Fail if a call takes more seconds of this thread, or lets the process grow by more bytes, than it may.

    A machine that is busy makes a call slower and never quicker, so the best of three counts.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for _ in range(3):
        start = time.thread_time()
        act()
        taken = time.thread_time() - start
        if taken <= MOST_SECONDS:
            break
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert taken <= MOST_SECONDS, f"{taken:.2f} s"
    assert grown <= MOST_MEMORY, f"{grown / 2**20:.0f} MB"


def refused(act):
    """Give a call that fails unless the other raises a bundle's error."""

    def check():
        with pytest.raises(BundleError):
            act()

    return check


def either(act):
    """Give a call that lets the other return or raise a bundle's error."""

    def check():
        with contextlib.suppress(BundleError):
            act()

    return check


def a_header(text, size=None):
    return (len(text) if size is None else size).to_bytes(8, "little") + text


EMPTY = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
HANDMADE = {
    "300,000 empty tensors": lambda: a_header(b"{" + b",".join(EMPTY % i for i in range(300_000)) + b"}"),
    "150,000 tensors, their offsets spelt with escapes": lambda: a_header(
        b"{" + b",".join(EMPTY.replace(b"data_", b"data\\u005f") % i for i in range(150_000)) + b"}"
    ),
    "a header of 100 MB": lambda: a_header(b'{"a":"' + b" " * 100_000_000 + b'"}'),
    "a header said to have 2**64 - 1 bytes": lambda: a_header(b"{}", 2**64 - 1),
    "16 MiB of spaces": lambda: a_header(b"{}" + b" " * (2**24 - 2) + b"x"),
    "10,000 levels": lambda: a_header(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "5,000,000 levels": lambda: a_header(b'{"a":' + b"[" * 5_000_000),
    "one key 100,000 times": lambda: a_header(b"{" + b",".join([EMPTY % 1] * 100_000) + b"}"),
    "a number of 10 MB": lambda: a_header(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 10_000_000 + b'],"data_offsets":[0,0]}}'
    ),
    "2**63 of nothing": lambda: a_header(b'{"a":{"dtype":"U8","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'),
    "2**47 of nothing, often": lambda: a_header(
        b'{"a":{"dtype":"U8","shape":[0' + b",140737488355327" * 15 + b'],"data_offsets":[0,0]}}'
    ),
}


@pytest.mark.parametrize("case", sorted(HANDMADE))
def test_a_header_made_to_cost_much_is_refused_within_two_seconds(bundle, make, case):
    data = HANDMADE[case]()
    file = "heads/pet/model.safetensors"
    (bundle / file).write_bytes(data)
    entry = {"size": len(data), "blake3": digest_of(data)}
    make.rewrite(bundle, lambda manifest: manifest["files"].update({file: entry}))
    bounded(refused(lambda: zoo.load(bundle)))
    bounded(refused(lambda: read_header(data, file)))


MANIFEST_MADE = {
    "10,000 levels": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "1,000,000 levels": b"[" * 1_000_000,
    "4 MiB of keys": b"{" + b",".join(b'"%x":[]' % i for i in range(300_000)) + b"}",
    "one key 300,000 times": b"{" + b",".join([b'"a":1'] * 300_000) + b"}",
    "100,000 keys, the last one twice": b"{" + b",".join(b'"%x":1' % min(i, 99_999) for i in range(100_001)) + b"}",
    "a number of 4 MB": b'{"format":' + b"9" * 4_000_000 + b"}",
    "a fraction of 4 MB": b'{"format":0.' + b"9" * 4_000_000 + b"}",
}


@pytest.mark.parametrize("case", sorted(MANIFEST_MADE))
def test_a_manifest_made_to_cost_much_is_refused_within_two_seconds(case):
    bounded(refused(lambda: manifest.read(MANIFEST_MADE[case], "zoo.json")))


@pytest.mark.parametrize("file", ["zoo.json", "README.md", "heads/pet/model.safetensors"])
def test_a_file_of_a_gigabyte_without_content_is_refused_before_it_is_read(bundle, make, file):
    os.truncate(bundle / file, 2**30)
    if file != "zoo.json":
        make.rewrite(bundle, lambda manifest: manifest["files"][file].update(size=2**30 + 1))
    bounded(refused(lambda: zoo.load(bundle)))
    bounded(lambda: zoo.verify(bundle))
    assert not zoo.verify(bundle).ok


@pytest.mark.parametrize("place", ["/dev/null", "/dev/zero", "/etc"])
def test_a_device_or_a_folder_is_no_bundle_and_no_file_of_one(bundle, place):
    with pytest.raises(BundleError):
        zoo.load(place)
    for file in ("zoo.json", "heads/pet/model.safetensors"):
        (bundle / file).unlink()
        (bundle / file).symlink_to(place)
        with pytest.raises(BundleError, match="regular file"):
            zoo.load(bundle)


def many_heads(value):
    head = value["model"]["heads"][0]
    value["model"]["heads"] = [{**head, "config": {}, "name": f"h{i}"} for i in range(60_000)]


def many_streams(value):
    stream = value["model"]["streams"]["main"]
    value["model"]["streams"] = {f"s{i}": {**stream, "input": f"s{i}"} for i in range(4_000)}


def many_files(value):
    entry = value["files"]["README.md"]
    value["files"] = {"a/" * 97 + f"{i:x}": entry for i in range(13_000)}


def many_deep_files(value):
    entry = value["files"]["README.md"]
    value["files"] |= {"a/" * 96 + f"{i:x}": entry for i in range(9_900)}


CROWDED = {
    "heads": many_heads,
    "streams": many_streams,
    "files": many_files,
    "deep files": many_deep_files,
    "components": lambda value: value["components"].extend(value["components"] * 5_000),
    "tied": lambda value: value.update(tied=[[f"a:{i}", "b:c"] for i in range(200_000)]),
    "layouts": lambda value: value.update(memory_formats={"channels_last": [f"a:{i}" for i in range(300_000)]}),
    "frozen": lambda value: value.update(frozen={"main": [f"s{i}" for i in range(300_000)]}),
    "licences": lambda value: value.update(licenses={f"a{i}": "b" for i in range(200_000)}),
    "plugins": lambda value: value.update(
        requires=[{"name": f"p{i}", "distribution": "d", "version": "1"} for i in range(60_000)]
    ),
    "shape": lambda value: value["probe"]["inputs"].update(image=[1] * 1_000_000),
    "classes": lambda value: value["model"]["heads"][0]["config"].update(classes=[f"c{i}" for i in range(300_000)]),
    "stages": lambda value: value["model"]["streams"]["main"]["backbone"]["stages"].extend(
        {"name": f"s{i}", "module": "", "channels": None, "reduction": None} for i in range(50_000)
    ),
}


@pytest.mark.parametrize("what", sorted(CROWDED))
def test_a_manifest_that_is_full_of_one_thing_is_read_or_refused_in_bounded_time(bundle, make, what):
    make.rewrite(bundle, CROWDED[what])

    bounded(either(lambda: zoo.load(bundle)))

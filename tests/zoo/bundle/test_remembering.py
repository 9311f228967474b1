"""Reading in one pass: what is hashed, what need not be, and that what changed is always seen."""

import gc
import os
import time

import pytest
import safetensors.torch
import torch

import zoo
from zoo.bundle import reading, remembering
from zoo.bundle.folder import OpenFile
from zoo.bundle.tensors import encode
from zoo.errors import BundleError, ConfigError

FILE = "backbones/main/model.safetensors"


@pytest.fixture
def hashed(monkeypatch):
    """Count the bytes that loading hashes in tensor files."""
    counted = []
    true = reading.hasher

    class Counting:
        def __init__(self):
            self.inner = true()

        def update(self, data):
            counted.append(len(data))
            self.inner.update(data)

        def hexdigest(self):
            return self.inner.hexdigest()

    monkeypatch.setattr(reading, "hasher", Counting)
    return counted


@pytest.fixture
def settled(bundle, monkeypatch):
    """A bundle whose files count as old enough."""
    monkeypatch.setattr(remembering, "_SETTLED", 0)
    time.sleep(0.02)
    return bundle


def size(bundle):
    return sum(path.stat().st_size for path in bundle.rglob("*.safetensors"))


def test_every_byte_is_hashed_once_and_not_again_while_nothing_changes(settled, hashed):
    zoo.load(settled)
    assert sum(hashed) == size(settled)
    hashed.clear()
    zoo.load(settled)
    assert hashed == []


def test_a_file_that_was_just_written_is_hashed_each_time(bundle, hashed):
    zoo.load(bundle)
    zoo.load(bundle)
    assert sum(hashed) == 2 * size(bundle)


def test_a_change_is_seen_though_the_size_and_the_time_are_as_they_were(settled):
    zoo.load(settled)
    file = settled / FILE
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns

    with pytest.raises(BundleError, match="is not what was saved"):
        zoo.load(settled)


def test_another_file_in_its_place_is_hashed(settled, make, hashed):
    zoo.load(settled)
    other = make.copy(settled)
    data = bytearray((other / FILE).read_bytes())
    data[-1] ^= 1
    (other / "new").write_bytes(data)
    (other / "new").replace(settled / FILE)

    with pytest.raises(BundleError, match="is not what was saved"):
        zoo.load(settled)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stamp": []}', '{"stamp": null, "blake3": 3}'])
def test_a_damaged_memory_is_no_memory(settled, hashed, tmp_path, text):
    zoo.load(settled)
    kept = [path for path in (tmp_path / "zoo-cache" / "verified").rglob("*.json")]
    assert kept
    for path in kept:
        path.write_text(text)
    hashed.clear()
    zoo.load(settled)
    assert sum(hashed) == size(settled)


def test_a_memory_that_lies_is_no_way_around_the_manifest(settled, tmp_path):
    """What is remembered must be the digest that the manifest asks for."""
    zoo.load(settled)
    for path in (tmp_path / "zoo-cache" / "verified").rglob("*.json"):
        path.write_text(path.read_text().replace('"blake3": "', '"blake3": "0'))
    zoo.load(settled)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(settled, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    zoo.load(settled)
    zoo.load(settled)


def test_verifying_reads_every_byte_though_the_file_is_known(settled, monkeypatch):
    zoo.load(settled)
    monkeypatch.setattr(OpenFile, "is_known", lambda self: pytest.fail("verify must not ask"))
    assert zoo.verify(settled).ok


def test_a_file_that_is_cut_while_it_is_read_is_an_error(settled, monkeypatch):
    zoo.load(settled)
    true = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: true(fd, [views[0][: max(0, 100 - at)]], at))
    with pytest.raises(BundleError, match="was cut while it was read"):
        zoo.load(settled)


def test_loading_turns_the_collector_on_again(settled):
    zoo.load(settled)
    assert gc.isenabled()
    (settled / FILE).unlink()
    with pytest.raises(BundleError):
        zoo.load(settled)
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(BundleError):
            zoo.load(settled)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_written_is_read_by_the_library_and_aligned():
    given = {
        "f64": torch.randn(3, 5, dtype=torch.float64),
        "bool": torch.tensor([True, False, True]),
        "half": torch.randn(7).half(),
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 4),
        "Ü": torch.arange(3, dtype=torch.uint8),
        "f8": torch.randn(5).to(torch.float8_e4m3fn),
        "complex": torch.randn(2, dtype=torch.complex64),
    }
    data = encode(given)
    found = safetensors.torch.load(data)
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()
    assert data == encode(dict(reversed(given.items())))
    entries = reading.read_entries(data[8 : 8 + int.from_bytes(data[:8], "little")], len(data), "f")
    assert all(entry.start % given[name].element_size() == 0 for name, entry in entries.items())


def test_a_bundle_may_do_without_a_probe(make, tmp_path):
    bundle = make.tiny().save(tmp_path / "plain", probe=False)
    assert zoo.verify(bundle, run=True).probe is None
    assert zoo.verify(make.tiny().save(tmp_path / "probed"), run=True).probe is not None


def test_kinds_are_for_single_models(make, tmp_path):
    both = zoo.ensemble([make.tiny(), make.tiny(seed=1)])
    with pytest.raises(ConfigError, match="kind='delta' is for single models"):
        zoo.save(both, tmp_path / "both", kind="delta")
    assert not (tmp_path / "both").exists()

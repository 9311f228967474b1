"""Bit rot: each flipped bit of each file, each cut, each swap is found; nothing but a clean error comes of it."""

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

import zoo
from zoo.bundle import manifest
from zoo.errors import BundleError


@pytest.fixture
def quick(make):
    """A tiny bundle on a file system in memory, where there is one."""
    home = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"zoo-bits-{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    try:
        yield make.tiny(zoo.head("regression", name="age"), epochs=3).save(home / "bundle")
    finally:
        shutil.rmtree(home)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flips(data, step=1, start=0):
    """Give the data with each bit flipped in turn, or with every so many'th."""
    spoilt = bytearray(data)
    for bit in range(start, 8 * len(data), step):
        spoilt[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(spoilt)
        spoilt[bit // 8] ^= 1 << bit % 8


def overwrite(file, data):
    """Replace a file's bytes in place, as a bad disk would: same inode, same size."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def complains_of(bundle, file):
    """Say whether verifying finds something, and names the file."""
    report = zoo.verify(bundle)
    return not report.ok and file.name in report.problems[0]


@pytest.mark.slow
def test_every_single_flipped_bit_of_every_file_is_found(quick):
    flipped = found = 0
    for file in files_of(quick):
        good = file.read_bytes()
        for _, data in flips(good):
            flipped += 1
            if file.name == "zoo.json":
                try:
                    manifest.read(data, "zoo.json")
                except BundleError:
                    found += 1
            else:
                overwrite(file, data)
                found += complains_of(quick, file)
        overwrite(file, good)

    assert flipped > 25_000
    assert found == flipped
    assert zoo.verify(quick, run=True).ok


@pytest.mark.parametrize("start", range(2))
def test_loading_refuses_a_flipped_bit_too(quick, start):
    for file in files_of(quick):
        good = file.read_bytes()
        for _, data in flips(good, step=61, start=start):
            overwrite(file, data)
            with pytest.raises(BundleError, match=file.name):
                zoo.load(quick)
        overwrite(file, good)
    zoo.load(quick)


def test_a_flip_after_a_good_load_is_found_though_the_file_is_remembered(quick):
    """A load may remember which files it found to be well; a change of one is a change of its times."""
    for file in files_of(quick):
        good = file.read_bytes()
        old = 1_600_000_000_000_000_000
        os.utime(file, ns=(old, old))
        for _, data in itertools.islice(flips(good, step=97), 10):
            zoo.load(quick)
            overwrite(file, data)
            os.utime(file, ns=(old, old))
            with pytest.raises(BundleError, match=file.name):
                zoo.load(quick)
            overwrite(file, good)


@pytest.mark.soak
def test_loading_refuses_every_flipped_bit(quick):
    for file in files_of(quick):
        good = file.read_bytes()
        for _, data in flips(good):
            overwrite(file, data)
            with pytest.raises(BundleError, match=file.name):
                zoo.load(quick)
        overwrite(file, good)


@pytest.mark.soak
def test_a_thousand_random_flips_in_20_megabytes_are_found(make, tmp_path):
    bundle = zoo.build("timm:resnet14t", weights=None, seed=0).save(tmp_path / "bundle")
    file = max(files_of(bundle), key=lambda path: path.stat().st_size)
    assert file.stat().st_size > 20_000_000
    dice = random.Random(4)
    with open(file, "r+b") as handle:
        for _ in range(1_000):
            at, bit = dice.randrange(file.stat().st_size), 1 << dice.randrange(8)
            handle.seek(at)
            good = handle.read(1)
            handle.seek(at)
            handle.write(bytes([good[0] ^ bit]))
            handle.flush()
            assert complains_of(bundle, file)
            handle.seek(at)
            handle.write(good)
            handle.flush()
    assert zoo.verify(bundle).ok


def cuts(size, every):
    """Give lengths to cut a file to: all of them, or some with both ends."""
    return sorted({0, 1, 7, 8, 9, size - 1, *range(0, size, every)})


def check_every_cut(bundle, every, look):
    count = 0
    for file in files_of(bundle):
        good = file.read_bytes()
        for length in cuts(len(good), every):
            if 0 <= length < len(good):
                file.write_bytes(good[:length])
                look(bundle, file)
                count += 1
        for more in (b"\0", b" ", b"\n", good, b"\0" * 8192):
            file.write_bytes(good + more)
            look(bundle, file)
            count += 1
        file.write_bytes(good)
    assert zoo.verify(bundle).ok
    return count


def both_refuse(bundle, file):
    assert complains_of(bundle, file)
    with pytest.raises(BundleError, match=file.name):
        zoo.load(bundle)


def test_cuts_and_extensions_of_every_file_are_refused(quick):
    assert check_every_cut(quick, 23, both_refuse) > 150


@pytest.mark.soak
def test_every_length_that_a_file_can_be_cut_to_is_refused(quick):
    assert check_every_cut(quick, 1, both_refuse) > 3_000


def test_any_two_files_swapped_are_refused(quick):
    found = files_of(quick)
    for one, other in itertools.combinations(found, 2):
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second), other.write_bytes(first)
        assert not zoo.verify(quick).ok
        with pytest.raises(BundleError):
            zoo.load(quick)
        one.write_bytes(first), other.write_bytes(second)
    assert len(found) >= 7
    zoo.load(quick)


def test_any_one_file_of_another_bundle_is_refused(quick, make, tmp_path):
    other = make.tiny(zoo.head("regression", name="age"), seed=1, epochs=4).save(tmp_path / "other")
    changed = 0
    for file in files_of(quick):
        good = file.read_bytes()
        strange = (other / file.relative_to(quick)).read_bytes()
        if strange == good:
            continue
        file.write_bytes(strange)
        assert not zoo.verify(quick).ok
        with pytest.raises(BundleError):
            zoo.load(quick)
        file.write_bytes(good)
        changed += 1
    assert changed >= 3


def test_bytes_shifted_swapped_or_zeroed_in_a_file_of_the_same_size_are_found(quick):
    for file in files_of(quick):
        good = file.read_bytes()
        spoilt = [b"\0" * len(good), good[1:] + good[:1], good[::-1], good[: len(good) // 2] * 2 + good[-1:]]
        for data in (data[: len(good)] for data in spoilt):
            if data != good:
                overwrite(file, data)
                both_refuse(quick, file)
        overwrite(file, good)

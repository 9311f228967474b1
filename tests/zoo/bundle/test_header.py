"""Hostile safetensors files give a BundleError, and nothing else."""

import contextlib
import json
import random
import time

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings

from zoo.bundle.header import read_header
from zoo.bundle.tensors import decode
from zoo.errors import BundleError

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1), "c": torch.empty(0, 4)}
GOOD = safetensors.torch.save(STATE, {"format": "pt"})


def with_header(header, payload=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def test_the_check_and_the_library_agree_on_a_good_file():
    entries = read_header(GOOD, "f")
    tensors = decode(GOOD, "f")

    assert entries.keys() == tensors.keys() == STATE.keys()
    for name, entry in entries.items():
        assert torch.equal(tensors[name], STATE[name])
        assert entry.shape == tuple(STATE[name].shape)
        assert GOOD[entry.start : entry.stop] == STATE[name].numpy().tobytes()


def test_ten_thousand_random_mutations_give_bundle_errors_only():
    dice = random.Random(0)
    refused = 0
    for _ in range(10_000):
        data = bytearray(GOOD)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) if dice.random() < 0.2 else 8 + int.from_bytes(GOOD[:8], "little"))
            kind = dice.randrange(3)
            if kind == 0:
                data[at] = dice.randrange(256)
            elif kind == 1:
                del data[at]
            else:
                data.insert(at, dice.choice(b'0123456789{}[]",:-.eE \\u'))
        try:
            decode(bytes(data), "f")
        except BundleError:
            refused += 1

    assert refused > 8_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("F32"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "F4", "C64", "BOOL", ""]) | json_values,
        "shape": st.lists(st.integers(-1, 2**64), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), max_size=3) | json_values,
    }
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), fields | json_values, max_size=3),
    st.binary(max_size=40),
)
def test_any_json_as_a_header_gives_tensors_or_a_bundle_error(header, payload):
    with contextlib.suppress(BundleError):
        decode(with_header(header, payload), "f")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_give_tensors_or_a_bundle_error(data):
    with contextlib.suppress(BundleError):
        decode(data, "f")


ENTRY = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
HOSTILE = {
    "overflow": with_header({"a": {"dtype": "U8", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
    "a key twice": with_header(
        b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY).encode() + b"}", b"x"
    ),
    "a gap": with_header({"a": {**ENTRY, "data_offsets": [1, 2]}}, b"xx"),
    "an overlap": with_header({"a": ENTRY, "b": ENTRY}, b"x"),
    "too long a file": with_header({"a": ENTRY}, b"xx"),
    "too short a file": with_header({"a": ENTRY}),
    "bool for a number": with_header({"a": {**ENTRY, "shape": [True]}}, b"x"),
    "an extra field": with_header({"a": {**ENTRY, "x": 1}}, b"x"),
    "metadata that is no text": with_header({"__metadata__": {"a": 1}}),
    "metadata that is a list": with_header({"__metadata__": []}),
    "a control character": with_header({"a\x1b[31m": ENTRY}, b"x"),
    "a long name": with_header({"a" * 513: ENTRY}, b"x"),
    "rank 17": with_header({"a": {**ENTRY, "shape": [1] * 17}}, b"x"),
    "a length beyond the file": (2**63).to_bytes(8, "little") + b"{}",
    "a list": with_header(b"[]"),
    "a deep one": with_header(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_header_is_refused(case):
    with pytest.raises(BundleError, match=r"^f"):
        decode(HOSTILE[case], "f")


@pytest.mark.slow
def test_too_many_tensors_are_refused_quickly():
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    data = with_header({f"{i:x}": empty for i in range(100_001)})
    start = time.perf_counter()

    with pytest.raises(BundleError, match="more than 100000 tensors"):
        decode(data, "f")

    assert time.perf_counter() - start < 5

"""Reading what is on the disk: tensor files as safetensors reads them, however the system gives the bytes; JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import safetensors.torch
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.bundle import reading
from zoo.bundle.plain_json import parse
from zoo.bundle.reading import read_tensors
from zoo.errors import BundleError

LARGE, STEP = reading._LARGE, reading._STEP
SIZES = st.sampled_from(
    [0, 1, 3, 4096, LARGE // 4 - 1, LARGE // 4, LARGE // 4 + 1, STEP // 4 - 5, STEP // 4, STEP // 2]
)


def sliced(data: bytes, seed: int):
    """Fill as a system may: sometimes with less than was asked for."""
    dice = random.Random(seed)

    def fill(buffer: memoryview, at: int) -> int:
        count = min(len(buffer), len(data) - at)
        count = count if dice.random() < 0.7 else min(count, dice.randint(1, 5_000))
        buffer[:count] = data[at : at + count]
        return count

    return fill


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, max_size=12), seed=st.integers(0, 99))
def test_every_tensor_and_every_byte_once_whatever_the_sizes(sizes: list[int], seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    tensors = {f"t{number}": torch.randn(size, generator=drawn) for number, size in enumerate(sizes)}
    data = safetensors.torch.save(tensors)
    digest = blake3()

    found = read_tensors(sliced(data, seed), len(data), digest.update, "it")

    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert digest.digest() == blake3(data).digest()
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values() if tensor.numel()}) == sum(
        size > 0 for size in sizes
    )


@pytest.mark.parametrize("left", [0, 7, 100, 5_000, 300_000])
def test_a_file_that_becomes_shorter_while_it_is_read_is_told(left: int) -> None:
    data = safetensors.torch.save({"small": torch.ones(500), "large": torch.ones(100_000)})

    with pytest.raises(BundleError, match="it was cut while it was read"):
        read_tensors(sliced(data[:left], 0), len(data), None, "it")


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max((depth_of(one) for one in (value.values() if isinstance(value, dict) else value)), default=0)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
    most=st.integers(1, 5),
)
def test_json_is_refused_if_and_only_if_it_is_nested_more_deeply_than_it_may_be(value: Any, most: int) -> None:
    data = json.dumps(value, ensure_ascii=False).encode("utf-8")
    if depth_of(value) <= most:
        assert parse(data, "it", most=10**6, depth=most) == value
    else:
        with pytest.raises(BundleError, match=f"it must be nested {most} levels deep at the most"):
            parse(data, "it", most=10**6, depth=most)

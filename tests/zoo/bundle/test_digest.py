"""The state digest sees names, dtypes, shapes and bytes, and nothing else."""

import json

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from blake3 import blake3
from hypothesis import HealthCheck, given, settings

from zoo.bundle.digest import state_digest

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@st.composite
def tensors(draw):
    """Draw a tensor that has elements."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 3), max_size=3))
    seed = draw(st.integers(0, 2**31))
    numbers = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype)


states = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), tensors(), min_size=1
)


def test_it_is_what_its_description_says():
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    lines = [
        ["a", "int64", [], blake3((3).to_bytes(8, "little")).hexdigest()],
        ["b", "float32", [2], blake3(bytes.fromhex("0000803f00000040")).hexdigest()],
    ]
    expected = blake3("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode())

    assert state_digest(state) == f"zsd1:blake3:{expected.hexdigest()}"


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(states, st.randoms())
def test_order_container_and_strides_do_not_matter(state, dice):
    expected = state_digest(state)
    names = list(state)
    dice.shuffle(names)
    file = safetensors.torch.load(safetensors.torch.save(state))
    shards = [safetensors.torch.load(safetensors.torch.save({name: state[name]})) for name in names]
    apart = {name: torch.stack([tensor, tensor], dim=-1)[..., 0] for name, tensor in state.items()}

    assert state_digest({name: state[name] for name in names}) == expected
    assert state_digest(file) == expected
    assert state_digest({name: tensor for shard in shards for name, tensor in shard.items()}) == expected
    assert state_digest(apart) == expected


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(states, st.data())
def test_each_name_dtype_shape_and_byte_matters(state, data):
    name = data.draw(st.sampled_from(sorted(state)))
    tensor = state[name]
    flipped = tensor.clone().reshape(-1).view(torch.uint8)
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1
    others = {key: value for key, value in state.items() if key != name}
    changed = [
        {**others, name + "_": tensor},
        {**others, name: tensor.unsqueeze(0)},
        {
            **others,
            name: tensor.view(torch.int8) if tensor.dtype == torch.uint8 else tensor.reshape(-1).view(torch.uint8),
        },
        {**others, name: flipped.view(tensor.dtype).reshape(tensor.shape)},
        others,
    ]

    digests = [state_digest(state), *map(state_digest, changed)]

    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("view", [torch.conj, torch._neg_view])
def test_lazy_views_are_digested_by_value(view):
    tensor = torch.tensor([1 + 2j, 3 - 4j])

    assert state_digest({"a": view(tensor)}) == state_digest({"a": view(tensor).resolve_conj().resolve_neg().clone()})


def test_no_elements_and_no_tensors_have_digests_too():
    assert len({state_digest({}), state_digest({"a": torch.empty(0)}), state_digest({"a": torch.empty(0, 2)})}) == 3

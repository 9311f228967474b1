"""Tensors come back bit-equal, or are refused by name."""

import threading

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import zoo
from zoo.bundle.digest import state_digest
from zoo.bundle.header import DTYPES
from zoo.bundle.tensors import decode, encode, snapshot
from zoo.errors import BundleError

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
VIEWS = {
    "plain": lambda t: t,
    "transposed": lambda t: t.transpose(0, 1),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 1],
    "expanded": lambda t: t[:1].expand(3, *t.shape[1:]),
    "conjugate": lambda t: t.conj(),
    "negative": lambda t: torch._neg_view(t),
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "empty": lambda t: t[:0],
    "parameter": lambda t: nn.Parameter(t),
}


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(VIEWS)), st.sampled_from(FLOATS), st.integers(0, 999), st.integers(-1, 5)),
        max_size=6,
    )
)
def test_every_view_comes_back_bit_equal_and_ties_as_ties(recipes):
    state = {}
    for i, (view, dtype, seed, tie) in enumerate(recipes):
        source = torch.randn(2, 3, 2, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
        state[f"t{i}"] = VIEWS[view](source if dtype.is_complex else source.real.to(dtype).clone())
        if 0 <= tie < i:
            state[f"t{i}"] = state[f"t{tie}"]

    held = snapshot({"f": state})
    files = {file: decode(encode(tensors), file) for file, tensors in held.files.items()}
    back = type(held)(files, held.tied, held.memory_formats).of("f")

    assert back.keys() == state.keys()
    assert state_digest(back) == state_digest(state)
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor.detach())
        for other in state:
            one = tensor.numel() > 0 and state[other].data_ptr() == tensor.data_ptr() and state[other] is tensor
            assert not one or back[other] is back[key]


@pytest.mark.parametrize("dtype", [name for name, _ in DTYPES.values()])
def test_every_dtype_of_the_format_comes_back(dtype):
    tensor = torch.arange(64, dtype=torch.uint8).view(getattr(torch, dtype)) if dtype != "bool" else torch.ones(3) > 0

    back = decode(encode({"a": tensor}), "f")["a"]

    assert back.dtype == tensor.dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


class Subclass(torch.Tensor):
    pass


SHARED = torch.zeros(10)
REFUSED = {
    "sparse": ({"a": torch.eye(2).to_sparse()}, "sparse"),
    "meta": ({"a": torch.empty(2, device="meta")}, "meta device"),
    "subclass": ({"a": torch.zeros(2).as_subclass(Subclass)}, "Subclass"),
    "dtype": ({"a": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
    "not a tensor": ({"a": {"x": 1}}, "is a dict"),
    "overlap": ({"b": SHARED[:6], "a": SHARED[4:]}, "shares a part of its memory"),
    "transposed tie": ({"b": SHARED.view(2, 5), "a": SHARED.view(2, 5).t()}, "shares a part of its memory"),
    "metadata": ({"__metadata__": torch.zeros(2)}, "__metadata__"),
    "empty name": ({"": torch.zeros(2)}, "printable"),
    "control character": ({"a\n": torch.zeros(2)}, "printable"),
    "long name": ({"a" * 513: torch.zeros(2)}, "printable"),
}


@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz")
def test_quantised_tensors_are_refused_by_name():
    with pytest.raises(BundleError, match=r"'f:a' cannot be saved: it is a Tensor \(torch\.qint8"):
        snapshot({"f": {"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}})


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_kept_is_refused_by_name(case):
    state, reason = REFUSED[case]

    with pytest.raises(BundleError, match=reason):
        snapshot({"f": state})


def test_parts_of_one_storage_that_do_not_overlap_are_two_tensors():
    held = snapshot({"f": {"a": SHARED[:5], "b": SHARED[5:]}})

    assert held.tied == ()
    assert held.files["f"].keys() == {"a", "b"}


def test_a_thread_that_trains_on_does_no_harm(make, tmp_path):
    model = make.tiny()
    stop = threading.Event()

    def train():
        with torch.no_grad():
            while not stop.is_set():
                for parameter in model.parameters():
                    parameter.add_(1.0)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(5):
            assert zoo.verify(model.save(tmp_path / "bundle", overwrite=True), run=True).ok
    finally:
        stop.set()
        thread.join()


def test_tensors_outside_backbones_and_heads_are_refused(make, tmp_path):
    model = make.tiny()
    model.register_buffer("extra", torch.zeros(2))

    with pytest.raises(BundleError, match="also has 'extra'"):
        model.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_its_spec_does_not_describe_is_refused_before_it_is_written(make, tmp_path):
    model = make.tiny()
    model.heads["pet"].layers = nn.Linear(4, 3)

    with pytest.raises(BundleError, match=r"cannot be rebuilt.*heads/pet"):
        model.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {"b": [1, object()]}}, r"provenance\.a\.b\[1\]"),
        ({"a": float("nan")}, r"provenance\.a "),
        ({"a": torch.zeros(2)}, r"provenance\.a "),
        ({1: "a"}, "provenance must"),
        ({"a": 2**70}, r"provenance\.a "),
        ({"a": "\ud800"}, r"provenance\.a "),
        ({"a": {1, 2}}, r"provenance\.a "),
    ],
)
def test_what_is_not_json_is_refused_with_its_path(make, tmp_path, value, path):
    model = make.tiny()
    model.provenance = value

    with pytest.raises(BundleError, match=path):
        model.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_endless_nesting_is_refused(make, tmp_path):
    endless = {}
    endless["a"] = endless

    with pytest.raises(BundleError, match="nested too deeply"):
        make.tiny(loop=endless).save(tmp_path / "bundle")


def test_settings_that_are_not_json_are_refused_with_their_path(make, tmp_path):
    model = make.tiny()
    model.spec.streams["main"].backbone.construction["when"] = {1.5}

    with pytest.raises(BundleError, match=r"spec\.streams\.main\.backbone\.construction\.when"):
        model.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "../x.json", "/etc/x", "a\\b", "run.py", "weights.bin", "con.json"]
)
def test_a_provider_s_unsafe_file_names_are_refused(make, tmp_path, monkeypatch, name):
    model = make.tiny()
    monkeypatch.setattr(model.backbones["main"], "native_files", lambda: {name: b"x"})

    with pytest.raises(BundleError, match="stream 'main'"):
        model.save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []

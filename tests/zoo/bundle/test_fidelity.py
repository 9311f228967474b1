"""A tensor of any kind comes back bit for bit, tied and laid out as it was, or is refused with the reason."""

import os
import stat
import threading

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import zoo
from zoo.bundle.digest import state_digest
from zoo.bundle.header import DTYPES
from zoo.bundle.tensors import FORMATS, TensorSet, decode, encode, snapshot, with_layout
from zoo.errors import BundleError

pytestmark = pytest.mark.slow

KEPT = [getattr(torch, name) for name, _ in DTYPES.values()]
LACKING = [
    name for name in ("complex128", "complex32", "float8_e8m0fnu", "bits8", "uint4", "int4") if hasattr(torch, name)
]


def random_bits(dtype, shape, seed):
    """Make a tensor of any bits: infinities, payloads of NaN, negative zeros, subnormals."""
    dice = torch.Generator().manual_seed(seed)
    size = torch.empty((), dtype=dtype).element_size()
    count = int(torch.Size(shape).numel())
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=dice).bool()
    data = torch.randint(0, 256, (count * size,), dtype=torch.uint8, generator=dice)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def bits(tensor):
    """Give a tensor's elements as bytes, in the order of its indices."""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def spread(tensor):
    wide = torch.empty((*tensor.shape, 3), dtype=tensor.dtype)
    wide[..., 1] = tensor
    return wide[..., 1]


def laid(layout, rank):
    return lambda tensor: with_layout(tensor, layout) if tensor.ndim == rank else tensor


VIEWS = {
    "plain": lambda t: t,
    "parameter": lambda t: nn.Parameter(t, requires_grad=t.is_floating_point() or t.is_complex()),
    "transposed": lambda t: t.transpose(0, -1) if t.ndim else t,
    "strided": spread,
    "sliced": lambda t: t[:, 1:] if t.ndim > 1 else t,
    "expanded": lambda t: t[..., None].expand(*t.shape, 4),
    "channels_last": laid("channels_last", 4),
    "channels_last_3d": laid("channels_last_3d", 5),
    "conjugate": lambda t: t.conj() if t.is_complex() else t,
    "imaginary of a conjugate": lambda t: t.conj().imag if t.is_complex() else t,
    "negative": lambda t: torch._neg_view(t) if t.dtype in (torch.float32, torch.float64, torch.complex64) else t,
    "of a larger storage": lambda t: torch.cat([t.reshape(-1), t.reshape(-1)])[: t.numel()].view(t.shape),
    "without a gradient": lambda t: t.detach(),
}
names = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"]), min_size=1, max_size=20
).filter("__metadata__".__ne__)  # the one word that is refused
odd_names = st.sampled_from(
    ["__metadata__ ", "a.b.c", "weight", "'", '"', "\\", "{}", "é", "e\u0301", "字", "a" * 512, "..", "/"]
)
recipe = st.tuples(
    st.sampled_from(KEPT),
    st.lists(st.integers(0, 3), max_size=5),
    st.sampled_from(sorted(VIEWS)),
    st.integers(0, 2**31),
)


def made(dtype, shape, view, seed):
    return VIEWS[view](random_bits(dtype, tuple(shape), seed))


def back_of(held, states):
    """Read what was held by way of bytes: by zoo's reader, and by the library's."""
    files = {}
    for file, tensors in held.files.items():
        data = encode(tensors)
        files[file] = decode(data, file)
        theirs = safetensors.torch.load(data)
        assert {key: bits(tensor) for key, tensor in theirs.items()} == {k: bits(t) for k, t in files[file].items()}
    for layout, listed in held.memory_formats.items():
        for name in listed:
            file, _, key = name.partition(":")
            source = next((first for first, *others in held.tied if name in others), name)
            if source == name:
                files[file][key] = with_layout(files[file][key], layout)
    whole = TensorSet(files, held.tied, held.memory_formats)
    return {file: whole.of(file) for file in states}


def is_one(one, other):
    return one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one is other


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.dictionaries(names | odd_names, recipe, max_size=5),
    st.dictionaries(names, recipe, max_size=2),
    st.lists(st.tuples(st.integers(0, 9), names), max_size=3),
)
def test_any_state_comes_back_bit_for_bit_and_tied(first, second, ties):
    states = {"one": {k: made(*r) for k, r in first.items()}, "two": {k: made(*r) for k, r in second.items()}}
    for which, name in ties:
        known = [tensor for state in states.values() for tensor in state.values()]
        if known:
            states["two"].setdefault(name, known[which % len(known)])
    before = {file: {key: bits(tensor) for key, tensor in state.items()} for file, state in states.items()}

    held = snapshot(states)
    back = back_of(held, states)

    assert {file: {key: bits(tensor) for key, tensor in state.items()} for file, state in back.items()} == before
    every = [(file, key) for file, state in states.items() for key in state]
    for file, key in every:
        given, got = states[file][key], back[file][key]
        assert (got.dtype, got.shape) == (given.dtype, given.shape)
        for layout in FORMATS:
            if given.ndim == int(layout == "channels_last_3d") + 4 and given.numel():
                usual = with_layout(given.detach().resolve_conj().resolve_neg(), layout).stride()
                assert given.stride() != usual or got.stride() == usual
        for file_2, key_2 in every:
            if is_one(given, states[file_2][key_2]):
                assert got is back[file_2][key_2]
    for file, state in states.items():
        assert state_digest(back[file]) == state_digest(state)


class Subclass(torch.Tensor):
    pass


def quantised():
    with torch.no_grad():
        return torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)


REFUSED = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
    "meta": (lambda: torch.empty(2, device="meta"), "meta device"),
    "subclass": (lambda: torch.zeros(2).as_subclass(Subclass), "Subclass"),
    "a subclass as parameter": (lambda: nn.Parameter(torch.zeros(2).as_subclass(Subclass)), "Subclass"),
    "lazy": (lambda: nn.LazyLinear(2).weight, "UninitializedParameter"),
    "quantised": (quantised, "qint8"),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
    "array": (lambda: torch.zeros(2).numpy(), "ndarray"),
    "number": (lambda: 3, "int"),
    "none": (lambda: None, "NoneType"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_no_file_can_hold_is_refused_with_the_reason(kind):
    make_it, reason = REFUSED[kind]

    with pytest.raises(BundleError, match=f"(?s)'f:a' cannot be saved.*{reason}"):
        snapshot({"f": {"b": torch.zeros(1), "a": make_it()}})


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", LACKING)
def test_a_dtype_that_the_format_lacks_is_refused_by_name(dtype):
    with pytest.raises(BundleError, match=f"has the dtype torch.{dtype}"):
        snapshot({"f": {"a": torch.empty(2, dtype=getattr(torch, dtype))}})


@pytest.mark.parametrize(
    "key",
    ["__metadata__", "", 3, None, b"a", ("a",), "a\nb", "a\0", "\x1b[31m", "\u202e", "\ud800", "a" * 513, "\u2028"],
)
def test_a_name_that_a_file_cannot_hold_safely_is_refused(key):
    with pytest.raises(BundleError, match="tensor"):
        snapshot({"f": {key: torch.zeros(2)}})


class Holder(nn.Module):
    """What a user wraps: one weight with two names, a view, buffers that are saved and one that is not."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("none", torch.empty(0, 4))
        self.register_buffer("scratch", torch.full((2,), 7.0), persistent=False)

    def forward(self, x):
        return self.two(self.one(self.conv(x).mean(dim=(2, 3)))) * self.scalar.to(x.dtype)


def wrapped():
    torch.manual_seed(1)
    backbone = zoo.wrap(Holder().eval(), inputs=torch.zeros(1, 3, 8, 8), name="holder")
    return zoo.build(backbone, zoo.head("classifier", name="pet", classes=["a", "b"]), seed=2)


def test_a_module_of_the_user_s_comes_back_tied_laid_out_and_with_its_buffers(tmp_path):
    model = wrapped()
    native = model.backbones["main"].native
    native.counts.add_(5)

    back = zoo.load(model.save(tmp_path / "bundle"), modules={"main": Holder}).backbones["main"].native

    assert back.one.weight is back.two.weight
    assert back.conv.weight.stride() == native.conv.weight.stride()
    assert {k: bits(t) for k, t in back.state_dict().items()} == {k: bits(t) for k, t in native.state_dict().items()}
    assert {k: t.dtype for k, t in back.state_dict().items()} == {k: t.dtype for k, t in native.state_dict().items()}
    assert "scratch" not in back.state_dict()
    assert torch.equal(back.scratch, torch.full((2,), 7.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_any_floating_dtype_comes_back_with_infinities_and_nan(make, tmp_path, dtype):
    """NaN is a value like any other: what was saved is what is loaded."""
    model = make.tiny().to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(random_bits(dtype, tuple(parameter.shape), i))
            parameter.view(-1)[0] = [float("nan"), float("inf"), -0.0][i % 3]

    back = zoo.load(model.save(tmp_path / "bundle"))

    assert {k: bits(t) for k, t in back.state_dict().items()} == {k: bits(t) for k, t in model.state_dict().items()}
    assert zoo.verify(tmp_path / "bundle", run=True).ok


def test_a_thread_that_changes_every_tensor_leaves_a_bundle_that_agrees_with_itself(make, tmp_path):
    """Files, digests and probe are of one copy, whatever instant of each tensor that copy has caught."""
    torch.manual_seed(0)
    model = make.tiny(*(zoo.head("classifier", name=f"h{i}", classes=[str(n) for n in range(500)]) for i in range(4)))
    stop, turns = threading.Event(), [0]

    def train():
        with torch.no_grad():
            while not stop.is_set():
                turns[0] += 1
                for parameter in model.parameters():
                    parameter.fill_(turns[0] % 1000)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0)
    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(10):
            path = model.save(tmp_path / "bundle", overwrite=True)
            assert zoo.verify(path, run=True).ok
            back = zoo.load(path)
            for tensor in back.state_dict().values():
                assert set(tensor.flatten().tolist()) <= set(range(1000))
    finally:
        stop.set()
        thread.join()
    assert turns[0] > 10


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_files_get_the_permissions_that_the_umask_leaves(make, tmp_path, mask):
    before = os.umask(mask)
    try:
        path = make.tiny().save(tmp_path / "bundle")
    finally:
        os.umask(before)

    for file in path.rglob("*"):
        whole = 0o777 if file.is_dir() else 0o666
        assert stat.S_IMODE(file.stat().st_mode) == whole & ~mask


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_a_file_a_pipe_and_a_folder_of_others_at_the_target_stay(make, tmp_path, overwrite):
    good = make.tiny().save(tmp_path / "good")
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    for name in ("link", "dangling", "file", "pipe", "folder"):
        with pytest.raises(BundleError):
            make.tiny(seed=1).save(tmp_path / name, overwrite=overwrite)

    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "mine"
    assert zoo.verify(good).ok

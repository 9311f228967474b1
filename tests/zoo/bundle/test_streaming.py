"""A tensor file made a chunk at a time: the bytes and digests are those of the whole, and nothing is copied twice."""

import threading

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load as read_safetensors

from zoo.bundle import saving, streaming
from zoo.bundle.digest import digest_records, records_of, state_digest
from zoo.bundle.streaming import Stream
from zoo.bundle.tensors import decode, encode, snapshot, survey


def tensors():
    torch.manual_seed(0)
    return {
        "wide": torch.randn(70, 90, dtype=torch.float64),
        "turned": torch.randn(30, 50).t(),
        "step": torch.arange(100)[::3],
        "spread": torch.randn(5, 1).expand(5, 7),
        "conj": torch.randn(6, dtype=torch.complex64).conj(),
        "neg": torch.randn(6, dtype=torch.complex64).conj().imag,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(33).to(torch.bfloat16),
        "flag": torch.tensor(True),
        "none": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("chunk", [1, 7, 4096, 2**20])
def test_the_chunks_are_the_file_whatever_their_size(monkeypatch, chunk):
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    given = tensors()

    stream = Stream(given)
    data = b"".join(bytes(part) for part in stream)

    assert data == encode({name: tensor.resolve_conj().resolve_neg().contiguous() for name, tensor in given.items()})
    found = read_safetensors(data)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_the_records_are_those_of_the_tensors():
    given = tensors()
    stream = Stream(given)
    for _ in stream:
        pass

    assert stream.records == records_of(given)
    assert digest_records(stream.records) == state_digest(given)


def test_a_tensor_that_changes_in_mid_file_is_digested_as_it_was_written(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", 1000)
    given = {"a": torch.zeros(5000, dtype=torch.uint8), "b": torch.zeros(5000, dtype=torch.uint8)}
    stream, data = Stream(given), b""
    for number, part in enumerate(stream):
        data += bytes(part)
        for tensor in given.values():
            tensor.fill_(number)

    written = decode(data, "file")
    assert {int(value) for value in written["a"]} > {0}
    assert stream.records == records_of(written)
    assert stream.records != records_of(given)


def test_a_survey_finds_what_a_snapshot_does_and_copies_nothing():
    weight = torch.randn(3, 4)
    states = {"f": {"a": weight, "b": weight, "c": torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)}}

    found, copied = survey(states), snapshot(states)

    assert (found.tied, found.memory_formats) == (copied.tied, copied.memory_formats)
    assert found.tied == (("f:a", "f:b"),)
    assert found.files["f"]["a"].data_ptr() == weight.data_ptr()
    assert copied.files["f"]["a"].data_ptr() != weight.data_ptr()
    half = snapshot({**states, "g": {"d": torch.ones(3)}}, of={"g"})
    assert half.files["f"]["a"].data_ptr() == weight.data_ptr()


def test_a_save_rebuilds_from_what_was_written_and_keeps_no_copy_of_the_model(make, tmp_path, monkeypatch):
    """The model is changed as soon as its files are written; files, digests and probe stay those of that moment."""
    model = make.tiny()
    fields, before = saving._fields, {}

    def change(*args, **options):
        with torch.no_grad():
            before.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
            for parameter in model.parameters():
                parameter.fill_(7)
        return fields(*args, **options)

    monkeypatch.setattr(saving, "_fields", change)
    path = model.save(tmp_path / "bundle")

    import zoo

    assert zoo.verify(path, run=True).ok
    found = zoo.load(path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_digests_are_of_blake3_as_ever():
    given = {"a": torch.arange(4, dtype=torch.int32)}
    stream = Stream(given)
    data = b"".join(bytes(part) for part in stream)

    assert stream.records["a"].blake3 == blake3(data[-16:]).hexdigest()


def test_two_threads_may_save_one_model(make, tmp_path):
    model, found = make.tiny(), []

    def save(number):
        found.append(model.save(tmp_path / str(number)))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 2

import hashlib
import io
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import BytesSample, DatasetSample, FileSample, PictureSample, TensorSample, UnreadableSample
from zoo.errors import DataError


def test_a_file_is_opened_decoded_and_named_by_its_path(draw):
    path = draw("a.jpg")
    sample = FileSample(path)

    assert sample.open().size == (8, 6)
    assert sample.name == str(path)


def test_exif_orientation_is_applied(draw):
    assert FileSample(draw("turned.jpg", orientation=6)).open().size == (6, 8)


def test_an_upright_picture_is_not_turned_again_by_a_second_reader(draw):
    picture = FileSample(draw("turned.jpg", orientation=6)).open()

    assert PictureSample("again", picture).open().size == (6, 8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_the_mode_stays_as_it_is_stored(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (4, 4)).save(path)

    assert FileSample(path).open().mode == mode


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_make_a_picture_unreadable():
    stream = io.BytesIO()
    Image.new("RGB", (8, 6)).save(stream, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f garbage")

    assert BytesSample("odd", stream.getvalue()).open().size == (8, 6)


def test_digests_of_a_file_and_of_its_bytes_are_the_sha256_of_the_bytes(draw):
    path = draw("a.jpg")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()

    assert FileSample(path).digest() == expected
    assert BytesSample("row 0", path.read_bytes()).digest() == expected


def test_digests_of_pictures_tell_pixels_modes_sizes_and_palettes_apart():
    palette = Image.new("P", (4, 4))
    other = palette.copy()
    palette.putpalette([0, 0, 0, 255, 0, 0])
    other.putpalette([9, 9, 9, 255, 0, 0])
    pictures = [
        Image.new("RGB", (4, 4)),
        Image.new("RGB", (4, 4), "red"),
        Image.new("RGB", (2, 8)),
        Image.new("L", (4, 4)),
        palette,
        other,
    ]
    digests = [PictureSample("p", picture).digest() for picture in pictures]

    assert len(set(digests)) == len(pictures)
    assert PictureSample("other name", pictures[0].copy()).digest() == digests[0]


def test_digests_of_tensors_tell_values_shapes_and_dtypes_apart():
    tensors = [torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.zeros(2, 1, 2), torch.zeros(1, 2, 2).half()]
    tensors.append(torch.zeros(1, 2, 2, dtype=torch.bfloat16))
    digests = [TensorSample("t", tensor).digest() for tensor in tensors]

    assert len(set(digests)) == len(tensors)
    assert TensorSample("t", torch.zeros(1, 2, 4)[..., ::2]).digest() == digests[0]


def test_a_row_of_a_data_set_is_indexed_only_when_opened():
    asked = []

    class Rows:
        def __getitem__(self, index):
            asked.append(index)
            return {"x": torch.full((1, 2, 2), index)}

    sample = DatasetSample("row 3", Rows(), 3, pick_x)

    assert asked == []
    assert torch.equal(sample.open(), torch.full((1, 2, 2), 3))
    assert sample.digest() == TensorSample("", torch.full((1, 2, 2), 3)).digest()
    assert asked == [3, 3]


def pick_x(item):
    return item["x"]


def test_a_row_of_a_data_set_may_be_a_text_or_another_sample(jpeg):
    texts = DatasetSample("row 0", ["a cat"], 0, str)
    nested = DatasetSample("row 0", [BytesSample("b", jpeg)], 0, same)

    assert texts.open() == "a cat"
    assert texts.digest() == hashlib.sha256(b"a cat").hexdigest()
    assert nested.open().size == (8, 6)
    assert nested.digest() == hashlib.sha256(jpeg).hexdigest()


def same(item):
    return item


def test_a_row_that_is_no_input_is_refused_with_what_came():
    with pytest.raises(DataError, match="'row 0' must be a PIL picture, a text or a tensor, got ndarray"):
        DatasetSample("row 0", [np.zeros(3)], 0, same).open()


def test_a_row_whose_data_set_fails_is_unreadable_with_the_reason():
    with pytest.raises(UnreadableSample, match=r"'row 5' cannot be read: cannot be decoded \(IndexError"):
        DatasetSample("row 5", [], 5, same).open()


def test_samples_and_their_errors_survive_a_trip_to_another_process(draw):
    samples = [FileSample(draw("a.jpg")), TensorSample("t", torch.zeros(1, 1, 1)), DatasetSample("d", ["x"], 0, str)]
    with pytest.raises(UnreadableSample) as caught:
        FileSample("nowhere.jpg").open()
    copy = pickle.loads(pickle.dumps(caught.value))

    assert [pickle.loads(pickle.dumps(sample)).digest() for sample in samples] == [s.digest() for s in samples]
    assert (str(copy), copy.reason) == (str(caught.value), "no such file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\xff\xd8\xff\xe0 and then nothing", "truncated file"),
    ],
)
def test_what_is_no_picture_is_unreadable_with_the_reason(content, reason):
    with pytest.raises(UnreadableSample) as caught:
        BytesSample("x.jpg", content).open()

    assert caught.value.reason == reason
    assert str(caught.value) == f"'x.jpg' cannot be read: {reason}."


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_picture_cut_anywhere_is_unreadable_or_whole_but_nothing_else(form):
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(stream, form)
    data = stream.getvalue()
    reasons = []
    for end in range(0, len(data), max(1, len(data) // 40)):
        try:
            BytesSample("cut", data[:end]).open()
        except UnreadableSample as error:
            reasons.append(error.reason)

    assert len(reasons) >= 20
    assert all(0 < len(reason) < 200 for reason in reasons)


def test_a_picture_of_too_many_pixels_is_unreadable_in_any_thread(monkeypatch, jpeg):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # the picture has 48: Pillow would only warn
    reasons = []

    def look():
        try:
            BytesSample("big", jpeg).open()
        except UnreadableSample as error:
            reasons.append(error.reason)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # now Pillow raises
    look()

    assert [reason.split(" (")[0] for reason in reasons] == [
        "more pixels than the limit of 40",
        "more pixels than the limit of 10",
    ]

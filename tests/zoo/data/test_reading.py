import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import zoo.data
from zoo.data import FileSample, PictureSample, Skipped, Table, read
from zoo.errors import ConfigError, DataError, UnknownName

EVERYTHING = r"a folder of class folders, a \.csv, \.tsv or \.parquet file, a Hugging Face Dataset or DatasetDict"


def test_the_face_is_complete_and_sorted():
    assert zoo.data.__all__ == sorted(zoo.data.__all__)
    assert all(hasattr(zoo.data, name) for name in zoo.data.__all__)


def test_importing_the_room_imports_no_library():
    code = "import sys, zoo.data; print({'torch', 'numpy', 'pandas', 'pyarrow', 'datasets', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "set()"


def test_a_truncated_jpeg_is_skipped_with_its_reason(pets):
    path = pets / "cat" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-20])

    table = read(pets)

    assert table.skipped == (Skipped(str(path), "truncated file"),)
    assert table.column("label").values == ("cat", "dog", "dog")
    assert len(table.inputs["image"]) == 3


def test_every_unreadable_picture_is_listed_in_order_with_its_reason(pets, draw):
    (pets / "cat" / "0.jpg").write_text("a text that is called a picture")
    (pets / "cat" / "3.jpg").write_bytes(b"")
    (pets / "dog" / "3.jpg").symlink_to(pets / "gone.jpg")

    table = read(pets)

    assert [skipped.reason for skipped in table.skipped] == ["not a picture", "empty file", "no such file"]
    assert len(table) == 4


def test_a_decompression_bomb_is_skipped_with_its_reason(pets, draw, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    draw("pets/cat/big.png", size=(10, 10))
    draw("pets/cat/huge.png", size=(100, 10))

    table = read(pets)

    assert len(table) == 4
    assert [skipped.reason.split(" (")[0] for skipped in table.skipped] == ["more pixels than the limit of 60"] * 2


def test_strict_refuses_with_the_first_five_reasons(pets):
    for number in range(7):
        (pets / "cat" / f"bad{number}.jpg").write_bytes(b"")

    with pytest.raises(
        DataError, match=r"7 of 11 pictures cannot be used: .*bad4\.jpg \(empty file\); and 2 more"
    ) as caught:
        read(pets, strict=True)
    assert "bad5" not in str(caught.value)


def test_strict_accepts_clean_data(pets):
    assert len(read(pets, strict=True)) == 4


def test_without_a_check_nothing_is_opened(pets):
    (pets / "cat" / "1.jpg").write_bytes(b"")

    assert len(read(pets, check=False)) == 4


def test_data_without_one_readable_picture_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")

    with pytest.raises(DataError, match=r"must have one readable picture or more, got none: .*a\.jpg \(empty file\)"):
        read(tmp_path)


def test_many_pictures_are_checked_in_order(tmp_path, draw, jpeg):
    for number in range(150):
        (tmp_path / f"{number:03}.jpg").write_bytes(b"" if number % 7 == 0 else jpeg)

    table = read(tmp_path)

    assert [sample.path.name for sample in table.inputs["image"]] == [f"{n:03}.jpg" for n in range(150) if n % 7]
    assert len(table.skipped) == 22


def test_a_missing_source_is_refused_with_what_is_accepted(tmp_path):
    with pytest.raises(DataError, match=f"There is no file or folder .*nowhere'; data must be {EVERYTHING}"):
        read(tmp_path / "nowhere")


def test_a_file_of_another_sort_is_refused_with_what_is_accepted(tmp_path):
    (tmp_path / "data.xlsx").write_bytes(b"x")

    with pytest.raises(DataError, match=rf"Data must be {EVERYTHING}.* got the file .*data\.xlsx"):
        read(tmp_path / "data.xlsx")


def test_a_source_that_may_not_be_read_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_text("image\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"data\.csv' cannot be read: Permission denied\."):
        read(tmp_path / "data.csv")


@pytest.mark.parametrize("source", [3, None, [1, 2], {"a": 1}])
def test_an_object_of_another_sort_is_refused_with_its_type(source):
    with pytest.raises(DataError, match=f"Data must be {EVERYTHING}.* got {type(source).__name__}"):
        read(source)


def test_label_columns_given_as_one_text_are_refused_with_the_cure(pets):
    with pytest.raises(
        ConfigError, match=r"labels must be a list of column names, got 'label'. Write labels=\['label'\]"
    ):
        read(pets, labels="label")


def test_a_table_passes_as_it_is(pets):
    table = read(pets)

    assert read(table) is table
    assert read(table, labels=[]).columns == {}
    with pytest.raises(UnknownName, match="no column 'species'"):
        read(table, labels=["species"])
    with pytest.raises(ConfigError, match="Leave image out"):
        read(table, image="x")


def test_strict_refuses_a_table_with_skipped_rows():
    picture = PictureSample("p", Image.new("RGB", (2, 2)))
    table = Table("mine", {"image": (picture,)}, {}, skipped=(Skipped("q", "empty file"),))

    assert read(table) is table
    with pytest.raises(DataError, match="mine: 1 rows were skipped"):
        read(table, strict=True)


def test_samples_open_after_reading(pets):
    sample = read(pets).inputs["image"][0]

    assert isinstance(sample, FileSample)
    assert sample.open().size == (8, 6)

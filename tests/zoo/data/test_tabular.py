import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.data import BytesSample, Skipped, read
from zoo.errors import ConfigError, DataError, UnknownName


@pytest.fixture
def write(tmp_path, draw):
    """Write a table beside three pictures."""
    for number in (1, 2, 3):
        draw(f"pictures/{number}.jpg")

    def write(content, name="data.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content.encode(encoding))
        return path

    return write


@pytest.fixture
def write_parquet(tmp_path, draw):
    for number in (1, 2, 3):
        draw(f"pictures/{number}.jpg")

    def write(columns):
        pq.write_table(pa.table(columns), tmp_path / "data.parquet")
        return tmp_path / "data.parquet"

    return write


PATHS = ["pictures/1.jpg", "pictures/2.jpg", "pictures/3.jpg"]


def test_a_csv_table_gives_pictures_and_typed_columns_with_gaps(write):
    table = read(
        write(
            "image,species,age,weight,alive,tags\n"
            "pictures/1.jpg,cat,3,4.5,true,a|b\n"
            "pictures/2.jpg,,,,,\n"
            "pictures/3.jpg,dog,5,30,false,a\n"
        )
    )

    assert {name: (column.kind, column.values) for name, column in table.columns.items()} == {
        "species": ("text", ("cat", None, "dog")),
        "age": ("integer", (3, None, 5)),
        "weight": ("number", (4.5, None, 30.0)),
        "alive": ("boolean", (True, None, False)),
        "tags": ("list", (("a", "b"), None, ("a",))),
    }
    assert [sample.path.name for sample in table.inputs["image"]] == ["1.jpg", "2.jpg", "3.jpg"]
    assert table.split is None


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiter_byte_order_mark_and_line_ends_are_recognised(write, delimiter, encoding, end):
    content = f"image{delimiter}label{end}pictures/1.jpg{delimiter}crème, brûlée; x{end}"
    content = content.replace("crème, brûlée; x", '"crème, brûlée; x"')

    table = read(write(content, encoding=encoding))

    assert table.column("label").values == ("crème, brûlée; x",)


def test_a_tsv_file_and_one_without_labels_are_read(write):
    assert read(write("image\tlabel\npictures/1.jpg\tcat\n", "data.TSV")).column("label").values == ("cat",)
    assert read(write("image\npictures/1.jpg\n")).columns == {}


def test_blank_lines_and_blanks_around_cells_do_not_matter(write):
    table = read(write("image , label\n\npictures/1.jpg , cat\n\npictures/2.jpg,cat \n"))

    assert table.column("label").values == ("cat", "cat")


def test_absolute_paths_are_taken_as_they_are(write, draw):
    path = draw("elsewhere/a.jpg")

    assert read(write(f"image\n{path}\n")).inputs["image"][0].name == str(path)


def test_the_picture_column_is_the_first_usual_name_in_any_case(write):
    table = read(write("file,Image,label\nx,pictures/1.jpg,cat\n"))

    assert list(table.columns) == ["file", "label"]


def test_a_table_without_a_usual_picture_column_asks_for_its_name(write):
    path = write("photo,label\npictures/1.jpg,cat\n")

    with pytest.raises(UnknownName, match=r"must have a picture column, called image, .* its columns: photo, label"):
        read(path)
    assert len(read(path, image="photo")) == 1
    with pytest.raises(UnknownName, match=r"no column 'foto'.*Did you mean 'photo'"):
        read(path, image="foto")


def test_label_columns_are_those_named(write):
    path = write("image,a,b,c\npictures/1.jpg,1,x,3.5\npictures/2.jpg,2,y,cat\n")

    assert list(read(path, labels=["b", "a"]).columns) == ["b", "a"]
    assert read(path, labels=[]).columns == {}
    with pytest.raises(UnknownName, match=r"no column 'd'"):
        read(path, labels=["d"])
    with pytest.raises(ConfigError, match="'image' is an input column and cannot be a label column as well"):
        read(path, labels=["image"])


def test_mixed_cells_are_refused_with_their_lines(write):
    path = write("image,a\npictures/1.jpg,cat\n\npictures/2.jpg,3.5\n")

    with pytest.raises(DataError, match=r"Column 'a' .* got text in line 2 \('cat'\) and number in line 4 \(3\.5\)"):
        read(path)


def test_a_split_column_is_recognised_by_its_values(write):
    path = write("image,split\npictures/1.jpg,train\npictures/2.jpg,Val\npictures/3.jpg,\n")
    table = read(path)

    assert table.split == ("train", "validation", None)
    assert table.columns == {}


def test_a_column_called_split_that_holds_something_else_is_a_label(write):
    table = read(write("image,split\npictures/1.jpg,banana\npictures/2.jpg,train\n"))

    assert table.split is None
    assert table.column("split").values == ("banana", "train")


def test_a_split_column_may_be_named(write):
    path = write("image,part,label\npictures/1.jpg,train,a\npictures/2.jpg,dev,b\n")

    assert read(path, split="part").split == ("train", "validation")
    assert list(read(path, split="part").columns) == ["label"]
    with pytest.raises(DataError, match=r"split column 'label' must hold train, validation, test, got 'a' in line 2"):
        read(path, split="label")
    with pytest.raises(UnknownName, match="no column 'parts'"):
        read(path, split="parts")
    with pytest.raises(ConfigError, match="'image' is an input column"):
        read(path, split="image")
    with pytest.raises(ConfigError, match="'part' is the split column and cannot be a label column"):
        read(path, split="part", labels=["part"])


def test_a_missing_or_unreadable_or_unnamed_picture_is_skipped_with_its_reason(write, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    path = write("image,label\npictures/1.jpg,a\ngone.jpg,b\nempty.jpg,c\n,d\n")

    table = read(path)

    assert table.column("label").values == ("a",)
    assert table.skipped == (
        Skipped(str(tmp_path / "gone.jpg"), "no such file"),
        Skipped(str(tmp_path / "empty.jpg"), "empty file"),
        Skipped(f"line 5 of {path}", "no picture given"),
    )
    assert len(read(path, check=False)) == 2
    with pytest.raises(DataError, match=r"3 of 4 pictures cannot be used"):
        read(path, strict=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,a,a\nx,1,2\n", "column names must be different, got 'a' twice in line 1"),
        ("image,a\nx,1\ny,2,3\n", "every row must have 2 cells as the header has, got 3 in line 3"),
        ("image,a\nx,1\ny\n", "got 1 in line 3"),
        ("", "must have a header line and one row or more, got an empty file"),
        ("image,a\n", "must have one row or more, got none"),
        ('image,a\nx,"unclosed\n', "must be a CSV table, got line 2"),
    ],
)
def test_a_broken_csv_file_is_refused_with_the_line(write, content, said):
    with pytest.raises(DataError, match=said):
        read(write(content))


def test_a_csv_file_that_is_not_utf8_is_refused(write):
    with pytest.raises(DataError, match="must be UTF-8 text"):
        read(write("image,label\npictures/1.jpg,crème\n", encoding="latin-1"))


def test_a_parquet_table_gives_pictures_and_typed_columns_with_gaps(write_parquet):
    table = read(
        write_parquet(
            {
                "path": PATHS,
                "species": pa.array(["cat", None, "dog"]).dictionary_encode(),
                "age": [3.0, None, 5.0],
                "score": [0.5, float("nan"), 1.0],
                "tags": [["a", "b"], [], None],
                "when": pa.array([0, 1, 2], pa.timestamp("s")),
                "split": ["train", "train", "test"],
            }
        )
    )

    assert {name: (column.kind, column.values) for name, column in table.columns.items()} == {
        "species": ("text", ("cat", None, "dog")),
        "age": ("integer", (3, None, 5)),
        "score": ("number", (0.5, None, 1.0)),
        "tags": ("list", (("a", "b"), (), None)),
    }
    assert table.split == ("train", "train", "test")


def test_a_parquet_column_that_can_be_no_label_is_refused_if_named(write_parquet):
    path = write_parquet({"path": PATHS, "box": [[0.1, 0.2]] * 3, "label": ["a", "b", "c"]})

    assert list(read(path).columns) == ["label"]
    with pytest.raises(DataError, match=r"'box' must hold texts, .* got list of float in row 0"):
        read(path, labels=["box"])


def test_parquet_pictures_may_be_encoded_bytes(write_parquet, jpeg, tmp_path):
    bare = read(write_parquet({"image": [jpeg, b"no picture", None]}))
    stored = [{"bytes": jpeg, "path": "x.jpg"}, {"bytes": None, "path": "pictures/2.jpg"}]
    both = read(write_parquet({"image": stored}))

    assert isinstance(bare.inputs["image"][0], BytesSample)
    path = tmp_path / "data.parquet"
    assert bare.skipped == (
        Skipped(f"row 1 of {path}", "not a picture"),
        Skipped(f"row 2 of {path}", "no picture given"),
    )
    assert [sample.name for sample in both.inputs["image"]] == [f"row 0 of {path}", str(tmp_path / "pictures/2.jpg")]


def test_a_broken_parquet_file_and_equal_names_are_refused(tmp_path):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match="must be a Parquet file, got one that cannot be read"):
        read(path)
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    with pytest.raises(DataError, match="column names must be different, got 'a' twice"):
        read(path)


def test_without_pyarrow_the_line_to_install_it_is_given(write_parquet, monkeypatch):
    path = write_parquet({"path": PATHS})
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(DataError, match=r"reading Parquet needs pyarrow: pip install 'headzoo\[table\]'"):
        read(path)

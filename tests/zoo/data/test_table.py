import pickle
from pathlib import Path

import pytest

from zoo.data import Column, FileSample, Skipped, Table
from zoo.errors import DataError, UnknownName


@pytest.fixture
def table():
    files = tuple(FileSample(Path(f"{n}.png")) for n in range(3))
    columns = {"kind": Column("kind", "text", ("a", "b", None)), "age": Column("age", "integer", (1, 2, 3))}
    return Table("three", {"image": files}, columns, ("train", None, "test"), (Skipped("x.png", "empty file"),))


def test_selected_rows_keep_inputs_labels_and_split_together(table):
    picked = table.select([2, 0, 0])

    assert [sample.name for sample in picked.inputs["image"]] == ["2.png", "0.png", "0.png"]
    assert picked.column("kind").values == (None, "a", "a")
    assert picked.split == ("test", "train", "train")
    assert (picked.source, picked.skipped, picked.column("age").kind) == ("three", table.skipped, "integer")
    assert len(table.select([])) == 0


def test_an_unknown_column_is_named_with_the_nearest(table):
    with pytest.raises(UnknownName, match=r"three has no column 'Kinds'; its columns: kind, age. Did you mean 'kind'"):
        table.column("Kinds")


def test_split_names_are_understood_and_others_refused(table):
    assert table.with_split(["dev", "Train", None]).split == ("validation", "train", None)
    assert table.with_split(None).split is None
    with pytest.raises(DataError, match="split must be one of train, validation, test, got 'holdout' in row 1"):
        table.with_split(["train", "holdout", "test"])
    with pytest.raises(DataError, match=r"as many rows as one another, got .* split 1"):
        table.with_split(["train"])


def test_a_table_needs_an_input_and_equal_lengths():
    with pytest.raises(DataError, match="mine: a table must have one input or more"):
        Table("mine", {}, {})
    with pytest.raises(DataError, match="got input 'image' 1, column 'x' 2"):
        Table("mine", {"image": (FileSample(Path("a.png")),)}, {"x": Column("x", "integer", (1, 2))})


def test_a_table_survives_a_trip_to_another_process(table):
    assert pickle.loads(pickle.dumps(table)) == table

from pathlib import Path

import pytest

from zoo.data import Column, FileSample, Table, check_labels
from zoo.errors import ConfigError, DataError, UnknownName


def table(kind, values, split=None):
    files = tuple(FileSample(Path(f"{n}.png")) for n in range(len(values)))
    return Table("pets", {"image": files}, {"y": Column("y", kind, tuple(values))}, split)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", ["cat", "dog", None]),
        ("text", ["cat", "cat", "cat", "dog"]),
        ("number", [0.5, 0.25]),
        ("list", [("a",), ()]),
        ("boolean", [True, False]),
    ],
)
def test_two_classes_are_enough_and_one_example_each(kind, values):
    check_labels(table(kind, values), ["y"])


def test_one_class_only_is_refused_by_name():
    with pytest.raises(DataError, match="pets: column 'y' must have two classes or more, got one only: 'cat'"):
        check_labels(table("text", ["cat", None, "cat"]), ["y"])


def test_one_value_or_one_set_of_labels_only_is_refused():
    with pytest.raises(DataError, match=r"two values or more, got one only: 0.5"):
        check_labels(table("number", [0.5, 0.5]), ["y"])
    with pytest.raises(DataError, match="got one only: a, b"):
        check_labels(table("list", [("a", "b"), ("b", "a")]), ["y"])
    with pytest.raises(DataError, match="got one only: no label"):
        check_labels(table("list", [(), ()]), ["y"])


def test_a_column_of_empty_cells_is_refused():
    with pytest.raises(DataError, match="'y' must have a value in one row or more, got empty cells only"):
        check_labels(table("text", [None, None]), ["y"])


def test_an_unknown_column_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match=r"pets has no column 'Y '; its columns: y. Did you mean 'y'"):
        check_labels(table("text", ["a", "b"]), ["Y "])


def test_columns_given_as_one_text_are_refused():
    with pytest.raises(ConfigError, match="columns must be a list of column names"):
        check_labels(table("text", ["a", "b"]), "y")


def test_only_rows_for_training_count_where_a_split_is_given():
    split = ("train", "train", "test")
    with pytest.raises(DataError, match="two classes or more in train, got one only: 'a'"):
        check_labels(table("text", ["a", "a", "b"], split), ["y"])
    with pytest.raises(DataError, match="in one row or more in train, got empty cells only"):
        check_labels(table("number", [None, None, 1.5], split), ["y"])


def test_a_class_that_is_held_out_entirely_is_refused_by_name():
    split = ("train", None, "validation", "test")
    with pytest.raises(
        DataError, match="classes of column 'y' must have one row or more in train, but 'c' is in other parts"
    ):
        check_labels(table("text", ["a", "b", "c", "a"], split), ["y"])
    with pytest.raises(DataError, match="but 'c', 'd' are in other parts only"):
        check_labels(table("list", [("a",), ("b",), ("c", "d"), ()], split), ["y"])


def test_numbers_and_integers_may_be_held_out():
    split = ("train", "train", "test")

    check_labels(table("number", [0.5, 1.5, 2.5], split), ["y"])
    check_labels(table("integer", [1, 2, 3], split), ["y"])

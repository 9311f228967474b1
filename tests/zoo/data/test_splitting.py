import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zoo.data import Column, FileSample, Table, split_table
from zoo.errors import ConfigError, DataError, UnknownName

TWO = {"train": 0.8, "validation": 0.2}
THREE = {"train": 0.7, "validation": 0.15, "test": 0.15}


def make(columns=(), *, rows=None, split=None):
    rows = len(columns[0].values) if rows is None else rows
    files = tuple(FileSample(Path(f"{n}.png")) for n in range(rows))
    return Table("rows", {"image": files}, {column.name: column for column in columns}, split)


def text(name, values):
    return Column(name, "text", tuple(values))


def rows_of(part):
    return [int(sample.path.stem) for sample in part.inputs["image"]]


def test_the_shares_are_met_and_rows_keep_their_order():
    parts = split_table(make(rows=100), fractions=THREE)

    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "validation": 15, "test": 15}
    assert list(parts) == ["train", "validation", "test"]
    assert all(rows_of(part) == sorted(rows_of(part)) for part in parts.values())
    assert all(set(part.split) == {name} for name, part in parts.items())


def test_another_seed_draws_other_rows():
    draws = {tuple(rows_of(split_table(make(rows=50), seed=seed)["validation"])) for seed in range(5)}

    assert len(draws) == 5


def test_a_draw_never_changes_between_versions():
    column = text("y", "abcab" * 4)

    assert rows_of(split_table(make([column]), seed=7, stratify=["y"])["validation"]) == [1, 7, 9, 18]


def test_a_given_split_wins():
    split = ("test", "train", "validation", "train")
    parts = split_table(make(rows=4, split=split), seed=3)

    assert {name: rows_of(part) for name, part in parts.items()} == {"train": [1, 3], "validation": [2], "test": [0]}


def test_validation_is_carved_out_of_train_where_the_source_gives_none():
    split = ("train",) * 50 + ("test",) * 10
    parts = split_table(make(rows=60, split=split))

    assert {name: len(part) for name, part in parts.items()} == {"train": 40, "validation": 10, "test": 10}
    assert rows_of(parts["test"]) == list(range(50, 60))


def test_rows_without_a_part_are_rows_for_training():
    parts = split_table(make(rows=12, split=(None,) * 10 + ("test", "test")))

    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "validation": 2, "test": 2}


def test_a_source_without_rows_for_training_is_refused():
    with pytest.raises(DataError, match="must have a row or more for train, got none of 2"):
        split_table(make(rows=2, split=("test", "test")))


def test_all_rows_may_be_for_training():
    assert list(split_table(make(rows=3), fractions={"train": 1})) == ["train"]


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ({"train": 0.8, "val": 0.2}, "must name train, and validation and test if wanted, got train, val"),
        ({"validation": 1.0}, "must name train"),
        ({}, "got none"),
        ({"train": 0.8, "validation": 0.1}, "add up to 1, got 0.9"),
        ({"train": 1.0, "validation": 0.0}, r"fraction of validation must be in \(0, 1\], got 0.0. Leave out"),
        ({"train": 1.2, "validation": -0.2}, r"in \(0, 1\]"),
        ({"train": math.nan}, r"in \(0, 1\]"),
        ({"train": "all"}, r"in \(0, 1\], got 'all'"),
    ],
)
def test_fractions_that_are_no_shares_are_refused(fractions, said):
    with pytest.raises(ConfigError, match=said):
        split_table(make(rows=10), fractions=fractions)


@pytest.mark.parametrize("seed", [None, 0.5, "x", True])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(ConfigError, match="seed must be an integer"):
        split_table(make(rows=10), seed=seed)


def test_an_unknown_column_to_stratify_is_refused():
    with pytest.raises(UnknownName, match="no column 'z'"):
        split_table(make([text("y", "ab")]), stratify=["z"])


def test_too_few_rows_for_the_parts_are_refused():
    with pytest.raises(DataError, match="validation would be empty; 1 rows are too few"):
        split_table(make(rows=1))
    with pytest.raises(DataError, match="rows are too few once train has one of every class"):
        split_table(make([text("y", "abcd")]), stratify=["y"])


def test_two_rows_are_enough_for_two_parts():
    assert {name: len(part) for name, part in split_table(make(rows=2)).items()} == {"train": 1, "validation": 1}
    tiny = {"train": 0.01, "validation": 0.99}
    assert {name: len(part) for name, part in split_table(make(rows=9), fractions=tiny).items()} == {
        "train": 1,
        "validation": 8,
    }


def test_two_examples_a_class_still_give_a_validation_part_of_its_size():
    column = text("y", [f"class {n // 2}" for n in range(200)])
    parts = split_table(make([column]), stratify=["y"])

    assert len(parts["validation"]) == 40
    assert set(parts["train"].column("y").values) == set(column.values)


def test_the_only_example_of_a_class_is_for_training():
    column = text("y", ["rare", *"ab" * 30])
    for seed in range(20):
        assert 0 in rows_of(split_table(make([column]), seed=seed, stratify=["y"])["train"])


def test_every_label_of_a_list_is_in_train():
    column = Column("tags", "list", tuple((f"t{n % 9}", f"u{n % 7}") for n in range(40)))
    for seed in range(20):
        train = split_table(make([column]), seed=seed, stratify=["tags"])["train"].column("tags").values
        assert {tag for tags in train for tag in tags} == {tag for tags in column.values for tag in tags}


def test_numbers_are_stratified_by_quartile():
    column = Column("age", "number", tuple(n / 7 for n in range(100)))
    for seed in range(10):
        ages = split_table(make([column]), seed=seed, stratify=["age"])["validation"].column("age").values
        assert Counter(int(age * 7) // 25 for age in ages) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_integers_of_few_values_are_classes_and_of_many_are_numbers():
    few = Column("few", "integer", tuple(n % 4 for n in range(40)))
    many = Column("many", "integer", tuple(range(40)))
    parts = split_table(make([few, many]), stratify=["few"])
    split_table(make([few, many]), stratify=["many"])

    assert Counter(parts["validation"].column("few").values) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_missing_cells_are_a_stratum_of_their_own():
    column = text("y", ["a", "a", None, None, None] * 10)
    parts = split_table(make([column]), stratify=["y"])

    assert Counter(parts["validation"].column("y").values) == {"a": 4, None: 6}


shares = st.sampled_from([TWO, THREE, {"train": 0.5, "validation": 0.5}, {"train": 0.6, "test": 0.4}, {"train": 1.0}])
cells = st.none() | st.sampled_from("abcde")


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.tuples(cells, st.booleans(), st.lists(st.sampled_from("xyz"), unique=True)), min_size=1, max_size=60),
    shares,
    st.integers(0, 5),
    st.lists(st.sampled_from(["y", "b", "tags"]), unique=True),
    st.none() | st.lists(st.sampled_from(["train", None, "test"]), min_size=60, max_size=60),
)
def test_parts_are_disjoint_cover_all_rows_and_depend_on_the_seed_alone(drawn, fractions, seed, stratify, split):
    y, b, tags = zip(*drawn, strict=True)
    columns = [text("y", y), Column("b", "boolean", b), Column("tags", "list", tuple(map(tuple, tags)))]
    table = make(columns, split=None if split is None else tuple(split[: len(drawn)]))
    try:
        parts = split_table(table, fractions=fractions, seed=seed, stratify=stratify)
    except DataError:
        return
    again = split_table(table, fractions=fractions, seed=seed, stratify=stratify)

    assert sorted(row for part in parts.values() for row in rows_of(part)) == list(range(len(drawn)))
    assert all(len(part) for part in parts.values())
    assert {name: rows_of(part) for name, part in again.items()} == {
        name: rows_of(part) for name, part in parts.items()
    }
    for name in stratify:
        if split is None:
            assert labels(parts["train"], name) == labels(table, name)


def labels(table, name):
    values = table.column(name).values
    return {
        label for value in values if value is not None for label in (value if isinstance(value, tuple) else (value,))
    }


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abcdef"), min_size=12, max_size=200),
    st.floats(0.5, 0.95),
    st.integers(0, 3),
)
def test_two_parts_cut_each_stratum_within_one_row_of_its_share(values, train, seed):
    counts = Counter(values)
    assume(len(counts) < len(values) and min(counts.values()) >= 2)
    table = make([text("y", values)])
    parts = split_table(table, fractions={"train": train, "validation": 1 - train}, seed=seed, stratify=["y"])
    got = Counter(parts["train"].column("y").values)

    assume(len(parts["validation"]) > 1)
    assert all(abs(got[value] - count * train) <= 1 + 1e-9 for value, count in counts.items())
    assert abs(len(parts["train"]) - len(values) * train) <= 1


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=20, max_size=200), st.integers(0, 3))
def test_three_parts_cut_each_stratum_within_two_rows_of_its_share(values, seed):
    table = make([text("y", values)])
    parts = split_table(table, fractions=THREE, seed=seed, stratify=["y"])

    for name, share in THREE.items():
        got = Counter(parts[name].column("y").values)
        assert all(abs(got[value] - count * share) <= 2 for value, count in Counter(values).items())


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(cells, st.integers(0, 3)), min_size=8, max_size=80), st.integers(0, 3))
def test_joint_strata_that_are_rare_are_pooled_and_nothing_is_lost(drawn, seed):
    y, n = zip(*drawn, strict=True)
    table = make([text("y", y), Column("n", "integer", n)])
    try:
        parts = split_table(table, seed=seed, stratify=["y", "n"])
    except DataError:
        return

    assert len(parts["train"]) + len(parts["validation"]) == len(drawn)
    assert labels(parts["train"], "y") == labels(table, "y")

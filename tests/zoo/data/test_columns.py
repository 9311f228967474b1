import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.columns import infer_column
from zoo.data.tabular import parse_cells
from zoo.errors import DataError


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["cat", None, "dog"], "text", ("cat", None, "dog")),
        ([1, 2], "integer", (1, 2)),
        ([1, 2.5], "number", (1.0, 2.5)),
        ([2.0, 3.0], "number", (2.0, 3.0)),
        ([True, None], "boolean", (True, None)),
        ([["a", "b", "a"], [], None], "list", (("a", "b"), (), None)),
        ([(3, 1)], "list", (("3", "1"),)),
        ([None, ""], "text", (None, None)),
        ([float("nan"), 0.5], "number", (None, 0.5)),
        ([np.float32(0.5), np.int64(2)], "number", (0.5, 2.0)),
        ([np.bool_(True), np.str_("")], "boolean", (True, None)),
        ([np.array(["a", "b"])], "list", (("a", "b"),)),
        ([torch.tensor(3), torch.tensor(4)], "integer", (3, 4)),
    ],
)
def test_a_kind_is_inferred_and_the_values_are_plain(cells, kind, values):
    column = infer_column("c", cells)

    assert (column.kind, column.values) == (kind, values)
    assert [type(value) for value in column.values] == [type(value) for value in values]


def test_integers_that_gaps_turned_into_floats_are_integers_again():
    assert infer_column("c", [1.0, None, 0.0]).values == (1, None, 0)


def test_mixed_kinds_are_refused_with_the_column_both_kinds_and_a_row_of_each():
    with pytest.raises(DataError, match=r"Column 'kind' .* got text in row 1 \('cat'\) and number in row 3 \(3\.5\)"):
        infer_column("kind", [None, "cat", "dog", 3.5])


@pytest.mark.parametrize("cells", [[True, 1], [1, "a"], [["a"], "a"], [False, 0.5]])
def test_any_two_kinds_but_integer_and_number_are_mixed(cells):
    with pytest.raises(DataError, match="must hold one kind of value"):
        infer_column("c", cells)


def test_an_infinite_number_is_refused_with_its_row():
    with pytest.raises(DataError, match="'c' must hold finite numbers, got -inf in row 1"):
        infer_column("c", [0.5, -math.inf])


@pytest.mark.parametrize(
    ("cell", "held"),
    [
        (b"x", "bytes"),
        ({"a": 1}, "dict"),
        ((0.1, 0.2), "tuple of float"),
        (torch.zeros(3), r"Tensor of shape \(3,\)"),
        (np.zeros((2, 2)), r"ndarray of shape \(2, 2\)"),
        ([None], "list of NoneType"),
    ],
)
def test_a_cell_that_can_be_no_label_is_refused_with_its_type(cell, held):
    with pytest.raises(DataError, match=f"got {held} in line 7"):
        infer_column("c", [cell], lambda row: "line 7")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "", "-2"], [1, None, -2]),
        (["1", "2.5", "1e3", "nan", "NaN"], [1, 2.5, 1000.0, None, None]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["cat", "404", "true"], ["cat", "404", "true"]),
        (["007", "123"], ["007", "123"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["a|b", "c", ""], [("a", "b"), ("c",), None]),
        (["a | b |", "1"], [("a", "b"), ("1",)]),
        (["inf", "finite"], ["inf", "finite"]),
        (["1_000", "0x1"], ["1_000", "0x1"]),
        (["0.0", "00.5"], [0.0, 0.5]),
    ],
)
def test_csv_cells_are_judged_together(cells, values):
    assert parse_cells(cells) == values


@pytest.mark.parametrize("cells", [["cat", "3.5"], ["true", "1"], ["true", "0.5"]])
def test_csv_cells_of_two_kinds_are_refused(cells):
    with pytest.raises(DataError, match="must hold one kind of value"):
        infer_column("c", parse_cells(cells))


def test_an_infinite_csv_cell_among_numbers_is_refused():
    with pytest.raises(DataError, match="finite"):
        infer_column("c", parse_cells(["1", "inf"]))


TYPES = {
    "text": st.text(min_size=1),
    "integer": st.integers(),
    "number": st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer()),
    "boolean": st.booleans(),
    "list": st.lists(st.text()),
}


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(sorted(TYPES)).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.none() | TYPES[k]))))
def test_cells_of_one_kind_keep_their_kind_count_and_gaps(drawn):
    kind, cells = drawn
    column = infer_column("c", cells)

    assert column.kind == (kind if any(cell is not None for cell in cells) else "text")
    assert [value is None for value in column.values] == [cell is None for cell in cells]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), *TYPES.values())))
def test_any_cells_give_a_column_or_a_data_error(cells):
    try:
        column = infer_column("c", cells)
    except DataError:
        return

    assert len(column.values) == len(cells)
    assert infer_column("c", column.values) == column


@settings(deadline=None)
@given(st.lists(st.text(max_size=6) | st.sampled_from(["1", "2.5", "true", "nan", "inf", "1e999", "a|b", ""])))
def test_any_csv_cells_give_a_column_or_a_data_error(cells):
    cells = [cell.strip() for cell in cells]
    try:
        column = infer_column("c", parse_cells(cells))
    except DataError:
        return

    assert len(column.values) == len(cells)
    assert column.kind == "text" or all(
        value is not None or cell.casefold() in ("", "nan") for value, cell in zip(column.values, cells, strict=True)
    )


@settings(deadline=None)
@given(st.lists(st.integers(-(10**17), 10**17)))
def test_integers_written_as_csv_come_back(numbers):
    assert parse_cells([str(number) for number in numbers]) == numbers


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_written_as_csv_come_back(numbers):
    assert parse_cells([repr(number) for number in numbers]) == numbers

"""Which heads a data set's label columns call for."""

import pytest

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.errors import DataError, UnknownName


def data(**columns):
    rows = len(next(iter(columns.values()))[1]) if columns else 2
    samples = tuple(TensorSample(str(row), None) for row in range(rows))
    made = {name: Column(name, kind, tuple(values)) for name, (kind, values) in columns.items()}
    return Table("things", {"image": samples}, made)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("text", ["dog", "cat", None], {"type": "classifier", "classes": ["cat", "dog"]}),
        ("boolean", [True, False, None], {"type": "classifier", "classes": ["false", "true"]}),
        ("integer", [3, 10, 3], {"type": "classifier", "classes": ["3", "10"]}),
        ("integer", list(range(20)), {"type": "classifier", "classes": [str(n) for n in range(20)]}),
        ("integer", [*range(21), None], {"type": "regression"}),
        ("number", [0.5, 1.5, None], {"type": "regression"}),
        ("list", [("b", "a"), (), None], {"type": "classifier", "classes": ["a", "b"], "multi_label": True}),
    ],
)
def test_a_columns_kind_decides_its_head(kind, values, expected):
    (head,) = zoo.infer_heads(data(label=(kind, values)))

    assert head.flat() == {"name": "label", **expected}


def test_every_column_gets_a_head_or_those_that_are_named():
    table = data(kind=("text", ["a", "b"]), size=("number", [1.5, 2.5]), other=("text", ["x", "y"]))

    assert [head.name for head in zoo.infer_heads(table)] == ["kind", "size", "other"]
    assert [head.name for head in zoo.infer_heads(table, targets=["size", "kind"])] == ["size", "kind"]


def test_heads_that_are_given_are_completed():
    table = data(kind=("text", ["b", "a"]), size=("number", [1.5, 2.5]))
    inner = [{"type": "classifier", "name": "kind"}, {"type": "regression", "name": "size"}]

    (head,) = zoo.infer_heads(table, heads=[zoo.head("multi_task", name="all", heads=inner)])

    assert head.config["heads"][0]["classes"] == ["a", "b"]


def test_the_only_head_reads_the_only_column_whatever_both_are_called():
    (head,) = zoo.infer_heads(data(label=("text", ["b", "a"])), heads=["classifier"])

    assert head.flat() == {"type": "classifier", "name": "classifier", "classes": ["a", "b"]}


def test_a_columns_name_that_cannot_be_a_heads_is_made_plain_and_remembered():
    (head,) = zoo.infer_heads(data(**{"Cell type (µm)": ("text", ["a", "b"])}))

    assert (head.name, head.config["target"]) == ("Cell_type_m", "Cell type (µm)")


def test_columns_whose_plain_names_agree_get_heads_of_different_names():
    kinds = ("text", ["a", "b"])
    table = data(**{"a b": kinds, "a/b": kinds, "a_b": kinds, "種類": kinds, "大小": kinds})

    heads = zoo.infer_heads(table)

    assert [(head.name, head.config.get("target", head.name)) for head in heads] == [
        ("a_b_2", "a b"),
        ("a_b_3", "a/b"),
        ("a_b", "a_b"),
        ("label", "種類"),
        ("label_2", "大小"),
    ]


@pytest.mark.slow
def test_inferred_heads_can_be_built_and_trained(table, draw):
    kinds = ["ab"[n % 2] for n in range(16)]
    rows = table(rows=16, **{"the kind": ("text", kinds), "size": ("number", [n % 2 + 0.5 for n in range(16)])})
    model = zoo.build("timm:test_resnet", zoo.infer_heads(rows), weights=None, seed=0)

    history = zoo.fit(model, rows, method="feature_extraction", epochs=1, device="cpu")

    assert set(history.validation) == {"the_kind", "size"}


def test_data_without_labels_is_refused():
    with pytest.raises(DataError, match="things has no labels"):
        zoo.infer_heads(data())


def test_a_column_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"has no column 'kidn'.*Did you mean 'kind'"):
        zoo.infer_heads(data(kind=("text", ["a", "b"])), targets=["kidn"])


def test_one_text_is_no_list_of_columns():
    with pytest.raises(zoo.ConfigError, match=r"Write targets=\['kind'\]"):
        zoo.infer_heads(data(kind=("text", ["a", "b"])), targets="kind")


def test_a_column_of_one_class_is_refused():
    with pytest.raises(DataError, match="has 1 class; a classifier needs 2 or more"):
        zoo.infer_heads(data(kind=("text", ["a", "a"])))

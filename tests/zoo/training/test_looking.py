"""Some of the rows, evenly spread: of what is asked for no more, none twice, and each batch over all of them."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.training.rows.looking import look_at, spread


@given(total=st.integers(0, 400), most=st.integers(1, 300), size=st.integers(1, 40))
def test_rows_are_evenly_spread_and_so_is_each_batch(total, most, size):
    batches = spread(total, most, size)
    chosen = sorted(row for batch in batches for row in batch)

    assert len(chosen) == len(set(chosen)) == min(total, most)
    assert all(0 <= row < total for row in chosen)
    assert all(0 < len(batch) <= size for batch in batches)
    assert max(map(len, batches), default=0) - min(map(len, batches), default=0) <= 1
    assert len({right - left for left, right in itertools.pairwise(chosen)}) <= 2
    for batch in batches:  # of any stretch of the data a batch has its part, to one row
        first_half = sum(row < chosen[len(chosen) // 2] for row in batch)
        assert abs(first_half - len(batch) / 2) <= 1


def test_training_rows_come_as_the_model_takes_them_with_targets_where_they_are_asked_for():
    model = zoo.build("timm:test_resnet", zoo.head("classifier", name="kind", classes=["a", "b"]), weights=None, seed=0)
    pictures = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = Table(
        "made up",
        {"image": tuple(TensorSample(f"{n}", one) for n, one in enumerate(pictures))},
        {"kind": Column("kind", "text", tuple("a" * 20 + "b" * 20))},
        split=tuple("train" if n % 2 else "test" for n in range(40)),
    )
    plain = list(look_at(model, data, most=7, size=4))
    labelled = list(look_at(model, data, most=7, size=4, labelled=True))
    expected = [[2 * row + 1 for row in batch] for batch in spread(20, 7, 4)]

    assert [len(rows) for rows in expected] == [4, 3]
    for batch, told, rows in zip(plain, labelled, expected, strict=True):
        truth = model.preprocess([{"image": data.samples("image")[row]} for row in rows])
        assert torch.equal(batch["inputs"]["image"], truth["image"] if isinstance(truth, dict) else truth)
        assert batch["targets"] == {}
        assert told["targets"]["kind"].tolist() == [int(row >= 20) for row in rows]

"""The table of stages, epochs and rates, beside what the optimizer gets."""

import json
import logging

import pytest
import torch

import zoo
from zoo.errors import ConfigError, UnknownName


def cells(table, name):
    return [str(cell) for row in table.rows if row.name == name for cell in row.cells]


def test_epochs_that_are_alike_are_one_column(model):
    table = zoo.plan(model(), method="gradual_unfreezing", epochs=9, epochs_per_step=2, lr=0.026)

    assert [str(phase) for phase in table.phases] == ["epochs 1-2", "epochs 3-4", "epochs 5-6", "epochs 7-8", "epoch 9"]
    assert cells(table, "main.s4") == ["-", "0.01", "0.01", "0.01", "0.01"]
    assert cells(table, "main.s3") == ["-", "-", "0.00385", "0.00385", "0.00385"]
    assert cells(table, "main.stem") == ["-"] * 5
    assert cells(table, "heads") == ["0.026"] * 5


def test_a_restart_begins_a_column_and_steps_by_plateau_are_numbered(model):
    probed = zoo.plan(model(), method="linear_probe_then_finetune", epochs=4)
    waiting = zoo.plan(model(), method="gradual_unfreezing", epochs=4, on_plateau=3)

    assert [str(phase) for phase in probed.phases] == ["epochs 1-2", "epochs 3-4, anew"]
    assert [str(phase) for phase in waiting.phases] == [f"step {at}" for at in range(1, 7)]
    assert "Each further step begins after 3 epochs without a better validation value." in waiting.caption()


def test_parameters_are_counted_by_stage_and_by_what_trains(model):
    one = model()
    native = one.backbones["main"].native
    biases = sum(p.numel() for name, p in native.named_parameters() if name.endswith(".bias"))
    heads = sum(p.numel() for p in one.heads.parameters())

    table = zoo.plan(one, method="bitfit", epochs=2)

    assert table.trained() == (biases + heads,)
    assert sum(row.parameters for row in table.rows) == sum(p.numel() for p in one.parameters())
    assert cells(table, "main.s2") == ["0.001 (biases)"]
    assert cells(table, "main.post") == ["-"]


def test_rates_by_block_are_told_from_the_lowest_to_the_highest(model):
    table = zoo.plan(model(backbone="timm:test_vit"), method="discriminative", decay=0.5, lr=1.0)

    assert cells(table, "main.s4") == ["0.25 to 0.5"]
    assert cells(table, "main.s3") == ["0.125"]


def test_it_is_text_of_even_columns_and_plain_json(model):
    table = zoo.plan(model(), method="partial", epochs=3)

    caption, *lines = str(table).split("\n")
    assert caption == "partial, 3 epochs, adamw: highest learning rates; the schedule is cosine."
    assert lines[0].split() == ["stage", "parameters", "epochs", "1-3"]
    assert lines[-1].split() == ["trains", "373,074", "268,226"]
    assert len({line.index("  ") > 0 for line in lines}) == 1
    told = json.loads(json.dumps(table.as_json()))
    assert told["trained"] == [268226]
    assert told["rows"][4]["cells"] == [{"parameters": 267840, "lr": 1e-4, "lowest": 1e-4, "train": "all"}]


def test_the_model_stays_as_it_is(model, state, same):
    one = model()
    one.freeze("s2")
    before, frozen = state(one), one.frozen()
    learning = [p.requires_grad for p in one.parameters()]

    for method in ("gradual_unfreezing", "bitfit", "fine_tuning"):
        zoo.plan(one, method=method)

    assert same(before, state(one))
    assert one.frozen() == frozen
    assert [p.requires_grad for p in one.parameters()] == learning


def test_what_a_user_freezes_rests_in_the_table(model):
    two = model(*[{"type": "classifier", "name": n, "classes": ["a", "b"]} for n in ("one", "two")])

    table = zoo.plan(two, freeze=["s3", "heads.two"])

    assert cells(table, "main.s3") == ["-"]
    assert cells(table, "main.s4") == ["0.0001"]
    assert table.trained()[0] == table.rows[4].parameters + sum(p.numel() for p in two.heads["one"].parameters())


def test_fit_tells_the_table_before_it_trains(model, table, caplog):
    one = model()
    with caplog.at_level(logging.INFO, logger="zoo"):
        zoo.fit(one, table(rows=16), method="partial", epochs=1, batch_size=8, device="cpu")

    told = [record.getMessage() for record in caplog.records]
    at = told.index(str(zoo.plan(one, method="partial", epochs=1)))
    assert any(text.startswith("epoch   1") for text in told[at + 1 :])
    assert not any(text.startswith("epoch ") for text in told[:at])


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"method": "partail"}, UnknownName, "No method is called 'partail'.*Did you mean 'partial'"),
        ({"method": "partial", "stage": 2}, UnknownName, "zoo.plan with the method 'partial' has no option 'stage'"),
        ({"method": "partial", "since": "s9"}, UnknownName, "There is no stage 's9'; the stages are stem, s1"),
        ({"epochs": 0}, ConfigError, "epochs must be a whole number, 1 or more, got 0"),
        ({"lr": 0}, ConfigError, "lr must be above 0, got 0"),
        ({"lr": float("nan")}, ConfigError, "lr must be a finite number, got nan"),
        ({"optimizer": "muon"}, ConfigError, "Muon cannot train here"),
        ({"freeze": ["heads", "post"]}, ConfigError, "Nothing is left to train"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(model, settings, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        zoo.plan(model(), **settings)

    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_table_of_adapters_is_made_on_a_copy(model):
    pytest.importorskip("peft")
    one = model(backbone="timm:test_vit")
    names = set(one.state_dict())

    table = zoo.plan(one, method="lora", epochs=1)

    assert set(one.state_dict()) == names
    assert cells(table, "main.s2") == ["0.001 (adapters)"]
    assert table.trained()[0] < sum(p.numel() for p in one.parameters()) / 5


def test_a_function_is_told_by_its_name(model):
    table = zoo.plan(model(), optimizer=torch.optim.SGD)

    assert table.optimizer == "torch.optim.sgd.SGD"

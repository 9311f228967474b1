"""Pruning as a method: once before the run, and what is left trains; zeros stay zeros."""

import pytest
import torch
from torch import nn

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError

HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "norm": True}
RUN = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "device": "cpu", "progress": False, "workers": 0, "validation": 0.25}


@pytest.fixture(autouse=True)
def one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(rows=32):
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = tuple(TensorSample(f"picture {n}", one + 1.5 * (n % 2)) for n, one in enumerate(noise))
    labels = {
        "kind": Column("kind", "text", tuple("ab"[n % 2] for n in range(rows))),
        "age": Column("age", "number", tuple(float(n % 2) for n in range(rows))),
    }
    return Table("made-up pictures", {"image": pictures}, labels)


def build(reference="timm:test_resnet", *heads):
    return zoo.build(reference, list(heads) or HEAD, weights=None, seed=0)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
def test_a_model_is_pruned_to_the_share_that_is_said_or_to_six_tenths_and_learns_all_tasks(tmp_path):
    model = build("timm:test_resnet", HEAD, {"type": "regression", "name": "age"})
    history = zoo.fit(model, table(), method="pruning", multiple_of=1, **RUN | {"epochs": 3})

    assert history.settings["macs"] == 0.6
    assert model.spec.streams["main"].backbone.widths
    assert zoo.prune(model, macs=0.6).macs_before == zoo.prune(model, macs=0.6).macs_after  # it meets the target
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    model.save(tmp_path / "bundle")
    inputs = torch.randn(2, 3, 32, 32)
    loaded = zoo.load(tmp_path / "bundle")
    model.eval()
    assert all(torch.equal(loaded(inputs)[task], model(inputs)[task]) for task in ("kind", "age"))


@pytest.mark.slow
def test_another_share_and_importance_give_other_widths():
    found = []
    for settings in (
        {"macs": 0.8},
        {"macs": 0.5},
        {"macs": 0.5, "ranking": "global"},
        {"macs": 0.5, "ranking": "global", "importance": "random"},
        {"macs": 0.5, "multiple_of": 8},
    ):
        model = build("timm:test_efficientnet")
        zoo.fit(
            model, table(8), method="pruning", **{"multiple_of": 1, **RUN, "epochs": 1, "validation": 0, **settings}
        )
        found.append(str(model.spec.streams["main"].backbone.widths))
    assert len(set(found)) == 5


@pytest.mark.slow
def test_the_backbone_learns_at_its_own_rate():
    moved = []
    for scale in (1e-6, 1.0):
        model = build()
        zoo.prune(model, macs=0.6, multiple_of=1)
        before = state(model.backbones["main"])
        zoo.fit(model, table(16), method="pruning", multiple_of=1, backbone_lr_scale=scale, **RUN | {"validation": 0})
        after = model.backbones["main"].state_dict()
        moved.append(float((after["native.conv1.0.weight"] - before["native.conv1.0.weight"]).abs().max()))
    assert moved[0] < 1e-5 < 1e-3 < moved[1]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_stay_zeros_through_training_and_the_rest_learns(optimizer):
    model = build()
    twin = build()
    zoo.prune(twin, sparsity=0.75)
    zero = {name: weight == 0 for name, weight in twin.backbones["main"].native.named_parameters() if weight.ndim > 1}
    history = zoo.fit(
        model, table(), method="pruning", sparsity=0.75, backbone_lr_scale=1.0, optimizer=optimizer,
        **RUN | {"epochs": 3, "validation": 0},
    )  # fmt: skip
    weights = dict(model.backbones["main"].native.named_parameters())

    assert history.settings["sparsity"] == 0.75
    assert history.settings["macs"] is None
    assert all(torch.equal(weights[name] == 0, mask) for name, mask in zero.items())
    layers = [m for m in model.backbones["main"].native.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    total = sum(layer.weight.numel() for layer in layers)
    assert sum(int((layer.weight == 0).sum()) for layer in layers) == round(0.75 * total)
    kept = {name: weights[name] for name in zero}
    before = dict(twin.backbones["main"].native.named_parameters())
    assert any(not torch.equal(kept[name], before[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"macs": 0.6, "multiple_of": 1}, {"sparsity": 0.6}])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(settings, tmp_path):
    run = {**RUN, "epochs": 3, "method": "pruning", **settings}
    whole, stopped, resumed = build(), build(), build()
    zoo.fit(whole, table(), **run)
    zoo.fit(stopped, table(), checkpoint=tmp_path / "run", keep_checkpoints=9, **run)
    for path in sorted((tmp_path / "run").glob("checkpoint-*"))[1:]:
        path.rename(tmp_path / path.name)
    zoo.fit(resumed, table(), checkpoint=tmp_path / "run", keep_checkpoints=9, resume=True, **run)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


WRONG = {
    "two targets": ({"macs": 0.5, "latency": 3}, "one target of macs, latency and sparsity, got macs and latency"),
    "a share of all": ({"macs": 1}, "macs must be a number above 0 and below 1"),
    "no time": ({"latency": 0}, "latency must be a number above 0"),
    "an importance with data": ({"importance": "taylor"}, "needs data before the run"),
    "an importance of widths": (
        {"sparsity": 0.5, "importance": "l2"},
        "importance must be one of l1, random, got 'l2'",
    ),
    "another importance": ({"importance": "best"}, "one of l1, l2, random"),
    "half a channel": ({"multiple_of": 0.5}, "multiple_of must be a whole number"),
    "widths of weights": ({"sparsity": 0.5, "multiple_of": 8}, "multiple_of is of widths, and sparsity changes none"),
    "no rate": ({"backbone_lr_scale": 0}, "backbone_lr_scale must be a number above 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_pruned(kind):
    settings, told = WRONG[kind]
    with pytest.raises(ConfigError, match=told):
        zoo.fit(build(), "nowhere", method="pruning", **settings)

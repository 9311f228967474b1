"""A compiled run is the run that it is without: losses, names, checkpoints, what rests and what is predicted."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

import zoo
from zoo.data import Column, Table
from zoo.errors import ConfigError
from zoo.training import compiling
from zoo.training.compiling import compiled

PLAIN = {"epochs": 2, "batch_size": 8, "device": "cpu", "lr": 0.01}
HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"], "dropout": 0.3}


@pytest.fixture
def graphs(monkeypatch):
    """Compile without a compiler of C, and keep the graphs that were met."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


@pytest.fixture
def rows(table):
    return lambda **more: table(rows=23, kind=("text", ["ab"[n % 2] for n in range(23)]), **more)


def losses(history):
    return [value for row in history.epochs for value in (row.train_loss, row.validation_loss)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "partial", "epochs": 1, "ema": 0.8},
        pytest.param({"method": "gradual_unfreezing", "epochs": 3, "ema": 0.8}, marks=pytest.mark.slow),
        pytest.param({"method": "lora"}, marks=[pytest.mark.slow, pytest.mark.soak]),
        pytest.param(
            {"method": "feature_extraction", "augmentation": "light"}, marks=[pytest.mark.slow, pytest.mark.soak]
        ),
    ],
    ids=lambda settings: settings["method"],
)
def test_a_compiled_run_has_the_losses_the_names_and_the_predictions_of_one_that_is_not(
    settings, graphs, model, rows, state
):
    data = rows()
    if "augmentation" in settings:
        data = pictures(23)
    plain, fast = model(HEAD), model(HEAD)
    before = zoo.fit(plain, data, **{**PLAIN, **settings})
    assert graphs == []

    after = zoo.fit(fast, data, compile=True, **{**PLAIN, **settings})

    assert graphs
    assert losses(after) == pytest.approx(losses(before), rel=1e-5, abs=1e-5)
    assert list(state(plain)) == list(state(fast))
    assert plain.frozen() == fast.frozen()
    assert not any("extract" in vars(backbone) for backbone in fast.backbones.values())
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    met = len(graphs)
    with torch.no_grad():
        torch.testing.assert_close(fast(images)["kind"], plain(images)["kind"], rtol=1e-4, atol=1e-4)
    assert len(graphs) == met  # what predicts is not compiled


def pictures(count):
    from PIL import Image

    from zoo.data import PictureSample

    noise = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    samples = tuple(PictureSample(f"picture {n}", Image.fromarray(one)) for n, one in enumerate(noise))
    kinds = Column("kind", "text", tuple("ab"[n % 2] for n in range(count)))
    return Table("made-up pictures", {"image": samples}, {"kind": kinds}, None)


@pytest.mark.slow
def test_a_compiled_run_that_goes_on_ends_as_the_one_that_never_stopped(graphs, model, rows, state, same, tmp_path):
    settings = {**PLAIN, "method": "fine_tuning", "compile": True}
    whole = model(HEAD)
    zoo.fit(whole, rows(), checkpoint=tmp_path / "run", **settings)
    first = sorted((tmp_path / "run").glob("checkpoint-*"))[0]
    shutil.copytree(first, tmp_path / "again" / first.name)
    resumed = model(HEAD)

    zoo.fit(resumed, rows(), checkpoint=tmp_path / "again", resume=True, **settings)

    assert zoo.verify(first).ok
    assert same(state(whole), state(resumed))
    with pytest.raises(ConfigError, match="compile True, and this one has False"):
        zoo.fit(model(HEAD), rows(), checkpoint=tmp_path / "run", resume=True, **{**settings, "compile": False})


SMALL = "d_model=32&encoder_layers=4&decoder_layers=1&vocab_size=99&encoder_attention_heads=2&decoder_attention_heads=2"
SPANNING = {
    "vit, dropout between stages": "timm:test_vit?drop_rate=0.3&drop_path_rate=0.3",
    "t5, a dropout that runs twice": "hf:t5?d_model=32&num_layers=4&num_heads=2&d_kv=16&d_ff=64&vocab_size=99"
    "&dropout_rate=0.4",
    "whisper, dropout of the parent, and layers that it drops": f"hf:whisper?{SMALL}&encoder_ffn_dim=64"
    "&decoder_ffn_dim=64&max_source_positions=50&num_mel_bins=16&dropout=0.4&encoder_layerdrop=0.4&pad_token_id=1"
    "&bos_token_id=0&eos_token_id=2",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch hides it, but not from who makes errors of warnings
@pytest.mark.parametrize("reference", SPANNING.values(), ids=SPANNING)
def test_what_is_frozen_rests_in_compiled_code_also_where_a_parent_spans_it_and_others(reference, graphs):
    from types import SimpleNamespace

    from zoo.testing.backbones import example_inputs

    def run(compile):
        model = zoo.build(reference, HEAD, weights=None, seed=0)
        backbone = model.backbones["main"]
        names = [stage.name for stage in backbone.spec.stages]
        inputs = example_inputs(backbone.spec, batch=2)
        told = []
        with compiled(model, SimpleNamespace(compile=compile)):
            for count in (len(names) - 1, len(names) // 2, 0):
                model.set_frozen("main", frozenset(names[:count]))
                for step in range(2):
                    torch.manual_seed(step), random.seed(step), np.random.seed(step)
                    model.train()
                    loss = model(inputs)["kind"].square().sum()
                    loss.backward()
                    model.zero_grad()
                    told += [loss.item(), sum(module.training for module in backbone.modules())]
        return told

    before = run(False)

    assert run(True) == pytest.approx(before, rel=1e-5)
    assert graphs


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with a C++ compiler")
def test_the_compiler_of_torch_gives_the_losses_of_a_run_that_is_not_compiled(rows):
    def small():  # each layer costs the compiler seconds
        layers = nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)
        size = zoo.Preprocessing(size=(160, 160), resize=(160,))
        net = zoo.wrap(nn.Sequential(*layers), inputs={"channels": 3, "size": (160, 160)}, preprocessing=size)
        return zoo.build(net, {**HEAD, "dropout": 0.0}, seed=0)

    settings = {**PLAIN, "method": "fine_tuning", "lr": 1e-3, "batch_size": 9}  # equal batches: compiled once

    plain, fast = small(), small()
    fast.load_state_dict(plain.state_dict())

    before = zoo.fit(plain, rows(), **settings)
    after = zoo.fit(fast, rows(), compile=True, **settings)

    assert losses(after) == pytest.approx(losses(before), rel=1e-5, abs=1e-5)


# --- what is refused


@pytest.mark.slow
def test_without_a_compiler_it_is_said_before_the_data_is_read(model, monkeypatch, tmp_path):
    def backend(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(compiling, "BACKEND", backend)

    with pytest.raises(ConfigError, match=r"needs what torch\.compile needs") as refused:
        zoo.fit(model(), tmp_path / "no such data", compile=True, **PLAIN)
    assert "No working C++ compiler found. Install that, or leave it out." in str(refused.value)


def test_where_no_backbone_runs_in_the_steps_compiling_is_refused(model, tmp_path, graphs):
    with pytest.raises(ConfigError, match="here they run once a picture"):
        zoo.fit(model(), tmp_path / "no such data", method="feature_extraction", compile=True, **PLAIN)
    assert graphs == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"compile": "yes"}, "compile must be True or False, got 'yes'"),
        ({"augmentation": "light", "cached_views": 2}, "leave cached_views out"),
        ({"feature_precision": "bf16", "solver": "lbfgs"}, "leave feature_precision and solver out"),
    ],
)
def test_what_compiling_does_not_go_with_is_named(settings, says, model, tmp_path):
    with pytest.raises(ConfigError, match=says):
        zoo.fit(model(), tmp_path / "no such data", **{**PLAIN, "compile": True, **settings})

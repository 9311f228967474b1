"""Searches: the same by the seed and after a kill, within their limits, and refused in a sentence."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import BundleError, ConfigError, PluginError, TrainingError, UnknownName
from zoo.searching import trying
from zoo.searching.costs import Limits, cost_of
from zoo.searching.record import TRIALS
from zoo.searching.spaces import BlockSpace, ZooSpace, read_space

QUICK = {"epochs": 1, "final_epochs": 1, "batch_size": 8, "device": "cpu", "precision": "fp32"}


def told(folder):
    """Give what a study wrote down, without what clocks said."""
    return [{**json.loads(line), "seconds": 0} for line in (folder / TRIALS).read_text().splitlines()]


def search(space, table, folder, **how):
    return zoo.search(space, table, folder, **{**QUICK, **how})


@pytest.mark.slow
def test_a_search_ends_with_its_best_candidate_as_a_bundle_that_holds_the_genotype(space, table, tmp_path):
    found = search(space, table, tmp_path / "study", trials=3, sampler="random", final_epochs=2)

    assert [one.state for one in found.trials].count("trained") == 3
    assert found.best.score == max(one.score for one in found.trained)
    loaded = zoo.load(tmp_path / "study" / "best")
    backbone = loaded.spec.streams["main"].backbone
    assert backbone.construction["blocks"]["blocks"] in found.best.reference
    assert loaded.provenance["search"]["trial"] == found.best.number
    assert loaded.provenance["settings"]["epochs"] == 2
    assert loaded.provenance["settings"]["backbone_lr_scale"] == 1.0
    picture = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(picture)["kind"], found.model(picture)["kind"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        ("random", {}),
        ("tpe", {"sampler_settings": {"n_startup_trials": 2}, "screened": 4, "cut": 2}),
        ("tpe", {"sampler_settings": {"n_startup_trials": 2}, "minimize": "macs", "max_macs": 150_000}),
        ("evolutionary", {"sampler_settings": {"population_size": 2}, "minimize": "parameters"}),
    ],
)
def test_a_search_that_stopped_after_any_trial_ends_as_one_that_did_not(sampler, more, space, table, tmp_path):
    how = {"sampler": sampler, **more}
    whole = search(space, table, tmp_path / "whole", trials=6, **how)
    for trials in (1, 3, 6):
        parts = search(space, table, tmp_path / "parts", trials=trials, **how)
    again = search(space, table, tmp_path / "parts", trials=6, **how)

    assert told(tmp_path / "whole") == told(tmp_path / "parts")
    assert parts.best.number == whole.best.number == again.best.number
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())


@pytest.mark.slow
def test_a_search_that_was_killed_inside_a_trial_ends_as_one_that_never_was(space, table, tmp_path):
    torch.save([sample.tensor for sample in table.samples("image")], tmp_path / "pictures.pt")
    script = tmp_path / "run.py"
    script.write_text(
        "import json, os, signal, sys, torch, zoo\n"
        "from zoo.data import Column, Table, TensorSample\n"
        "from zoo.searching import trying\n"
        "torch.set_num_threads(1)\n"
        "tensors = torch.load('pictures.pt')\n"
        "made = tuple(TensorSample(f'picture {n}', one) for n, one in enumerate(tensors))\n"
        "kinds = tuple('ab'[n % 2] for n in range(len(made)))\n"
        "table = Table('made-up pictures', {'image': made}, {'kind': Column('kind', 'text', kinds)})\n"
        "count, last, inner = 0, int(sys.argv[1]), trying.fit\n"
        "def fit(*given, **how):\n"
        "    global count\n"
        "    count += 1\n"
        "    history = inner(*given, **how)\n"
        "    if count == last:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return history\n"
        "trying.fit = fit\n"
        "fit.__signature__ = __import__('inspect').signature(inner)\n"
        "space = json.loads(open('space.json').read())\n"
        "zoo.search(space, table, 'killed', trials=4, sampler='tpe', sampler_settings={'n_startup_trials': 2},\n"
        "    screened=3, cut=1, **json.loads(open('quick.json').read()))\n"
    )
    (tmp_path / "space.json").write_text(json.dumps(space.as_json()))
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    ends = []
    for last in (3, 3, 0):  # in the third trial, in the final training, and not at all
        ends.append(
            subprocess.run([sys.executable, str(script), str(last)], cwd=tmp_path, env={**os.environ}).returncode
        )
    whole = search(
        space, table, tmp_path / "whole", trials=4, sampler="tpe", sampler_settings={"n_startup_trials": 2}, screened=3,
        cut=1,
    )  # fmt: skip

    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert told(tmp_path / "killed") == told(tmp_path / "whole")
    state = whole.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in zoo.load(tmp_path / "killed" / "best").state_dict().items())


@pytest.mark.slow
def test_a_line_that_a_kill_cut_off_is_taken_away(space, table, tmp_path):
    search(space, table, tmp_path / "study", trials=2, sampler="random")
    lines = (tmp_path / "study" / TRIALS).read_bytes()
    (tmp_path / "study" / TRIALS).write_bytes(lines[:-20])
    search(space, table, tmp_path / "study", trials=2, sampler="random")

    assert len(told(tmp_path / "study")) == len(lines.splitlines())


@pytest.mark.slow
def test_the_seed_decides_what_is_tried(space, table, tmp_path):
    first, second = (search(space, table, tmp_path / f"{n}", trials=2, sampler="random", seed=n) for n in (0, 1))

    assert [one.reference for one in first.trials] != [one.reference for one in second.trials]


@pytest.mark.slow
def test_what_was_screened_highest_is_tried_first(space, table, tmp_path):
    found = search(space, table, tmp_path / "study", trials=3, screened=8, cut=2, scores="synflow", sampler="random")

    screened = [one for one in found.trials if one.state == "screened"]
    ranked = sorted(screened, key=lambda one: -one.scores["synflow"])
    assert len(screened) == 8
    assert len({one.reference for one in screened}) == 8
    assert [one.reference for one in found.trained][:2] == [one.reference for one in ranked[:2]]


@pytest.mark.slow
def test_no_limit_is_ever_broken(space, table, tmp_path):
    free = search(space, table, tmp_path / "free", trials=8, sampler="random", max_latency=1e6)
    parameters, macs, latency = (
        sorted(asdict(one.cost)[name] for one in free.trained)[4] for name in ("parameters", "macs", "latency")
    )
    for name, limit in (("parameters", parameters), ("macs", macs), ("latency", latency)):
        held = search(space, table, tmp_path / name, trials=3, sampler="random", **{f"max_{name}": limit})

        assert all(asdict(one.cost)[name] <= limit for one in held.trained)
        assert all(asdict(one.cost)[name] > limit for one in held.trials if one.state == "over")
    assert any(one.state == "over" for one in zoo.search(
        space, table, tmp_path / "macs", trials=3, sampler="random", max_macs=macs, **QUICK).trials)  # fmt: skip


def test_costs_are_those_of_the_layers_counted_one_by_one():
    head = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}
    reference = "timm:mnasnet_100?blocks=ds_r1_k3_s2_c16/ir_r2_k5_s2_e3_c24_se0.25&img_size=48"
    model = zoo.build(reference, head, weights=None, seed=0)
    counted = 0

    def count(layer, _, given):
        nonlocal counted
        fan_in = math.prod(layer.weight.shape[1:])
        counted += given.numel() * fan_in

    for layer in model.backbones["main"].modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    cost = cost_of(model.spec, lambda: model, limits=Limits(), timed=False)
    model.backbones["main"](torch.zeros(1, 3, 48, 48))

    assert cost.macs == counted
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.latency is None
    assert cost_of(model.spec, lambda: model, limits=Limits(), timed=True).latency > 0
    assert cost_of(model.spec, lambda: model, limits=Limits(parameters=1, latency=9), timed=True).latency is None


@pytest.mark.slow
def test_the_front_has_what_no_other_beats(space, table, tmp_path):
    found = search(space, table, tmp_path / "study", trials=8, sampler="evolutionary", minimize="macs")

    front = found.front("macs")
    beaten = [
        one for one in found.trained for other in found.trained
        if other.score >= one.score and other.cost.macs <= one.cost.macs
        and (other.score > one.score or other.cost.macs < one.cost.macs)
    ]  # fmt: skip
    assert {(one.score, one.cost.macs) for one in front} == {
        (one.score, one.cost.macs) for one in found.trained if one not in beaten
    }
    assert found.plot(tmp_path / "front.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="cost must be one of"):
        found.front("price")


@pytest.mark.slow
def test_a_search_over_the_zoo_tries_backbones_heads_methods_and_rates(table, tmp_path):
    space = ZooSpace(
        backbones=("timm:test_resnet", "timm:test_efficientnet"),
        heads=({"type": "classifier", "name": "kind"}, {"type": "classifier", "name": "kind", "dropout": 0.5}),
        methods={"feature_extraction": {}, "fine_tuning": {"backbone_lr_scale": [0.1, 1.0]}},
        lr=(1e-3, 1e-1),
        settings={"batch_size": [4, 8]},
        weights=None,
    )
    how = {name: value for name, value in QUICK.items() if name != "batch_size"}
    found = zoo.search(space, table, tmp_path / "study", trials=6, sampler="random", **how)

    assert read_space(json.loads(json.dumps(space.as_json()))) == read_space(space.as_json())
    assert len({one.reference for one in found.trained}) == 2
    assert {one.fit["method"] for one in found.trained} == {"feature_extraction", "fine_tuning"}
    assert all(("backbone_lr_scale" in one.fit) == (one.fit["method"] == "fine_tuning") for one in found.trained)
    assert {one.fit["batch_size"] for one in found.trained} == {4, 8}
    assert all(1e-3 <= one.fit["lr"] <= 1e-1 for one in found.trained)
    assert {one.heads[0].get("dropout") for one in found.trained} == {None, 0.5}
    assert found.model.provenance["method"] == found.best.fit["method"]


def test_a_pattern_stands_for_the_backbones_with_weights_that_fit_it():
    assert set(ZooSpace(backbones=("timm:test_vit*",)).backbones) >= {"timm:test_vit", "timm:test_vit2"}
    with pytest.raises(UnknownName, match="fits 'timm:nothing"):
        ZooSpace(backbones=("timm:nothing*",))


@pytest.mark.slow
def test_a_space_that_is_exhausted_ends_the_search(table, tmp_path, monkeypatch):
    monkeypatch.setattr(trying, "PATIENCE", 30)
    space = BlockSpace(base="timm:mnasnet_100?img_size=32", stages=(
        {"width": [8], "kernel": [3], "depth": [1], "expansion": [1], "se": [0], "activation": ["re", "hs"]},
    ), last_width=(16,))  # fmt: skip
    found = search(space, table, tmp_path / "study", trials=9, sampler="random")

    assert len(found.trained) == 2
    assert {one.state for one in found.trials} == {"trained", "repeated"}


@pytest.mark.slow
def test_a_trial_whose_loss_is_no_number_is_written_down_and_the_search_goes_on(space, table, tmp_path, monkeypatch):
    inner, count = trying.fit, 0

    def fit(model, data, **how):
        nonlocal count
        count += 1
        if count == 1:
            raise TrainingError("The loss became NaN.")
        return inner(model, data, **how)

    fit.__signature__ = __import__("inspect").signature(inner)
    monkeypatch.setattr(trying, "fit", fit)
    found = search(space, table, tmp_path / "study", trials=2)

    assert [one.state for one in found.trials][:2] == ["failed", "trained"]


@pytest.mark.slow
def test_a_second_search_at_the_same_time_is_refused_and_the_first_goes_on(space, table, tmp_path, monkeypatch):
    inner, refused = trying.fit, []

    def fit(model, data, **how):
        with pytest.raises(BundleError, match=r"Another search runs in .*study"):
            search(space, table, tmp_path / "study", trials=1)
        refused.append(how)
        return inner(model, data, **how)

    fit.__signature__ = __import__("inspect").signature(inner)
    monkeypatch.setattr(trying, "fit", fit)
    found = search(space, table, tmp_path / "study", trials=1)

    assert refused
    assert [one.state for one in found.trials] == ["trained"]
    assert len(told(tmp_path / "study")) == 1


@pytest.mark.slow
def test_limits_that_nothing_keeps_are_told_with_the_least_that_was_seen(space, table, tmp_path, monkeypatch):
    monkeypatch.setattr(trying, "PATIENCE", 9)
    with pytest.raises(ConfigError, match=r"none kept the limits max_parameters=10; the least seen were [\d,]+ param"):
        search(space, table, tmp_path / "study", max_parameters=10, sampler="random")


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"sampler": "tep"}, UnknownName, "No sampler is called 'tep'; there are tpe"),
        ({"sampler_settings": {"n_startup": 3}}, UnknownName, "has no option 'n_startup'; it takes n_startup_trials"),
        ({"sampler": "evolutionary", "sampler_settings": {"population_size": 0}}, ConfigError, "cannot have"),
        ({"minimize": "flops"}, ConfigError, "minimize must be one of parameters, macs, latency"),
        ({"max_macs": -1}, ConfigError, "max_macs must be a number above 0"),
        ({"trials": 0}, ConfigError, "trials must be a whole number"),
        ({"screened": -1}, ConfigError, "screened must be"),
        ({"validation": 0}, ConfigError, "needs rows to judge by"),
        ({"seed": -1}, ConfigError, "seed must be"),
        ({"scores": "flow"}, UnknownName, "No training-free score is called 'flow'"),
        ({"batchsize": 3}, UnknownName, "has no option 'batchsize'; it takes batch_size"),
        ({"method": "fine_tunning"}, UnknownName, "fine_tuning"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(how, error, said, space, table, tmp_path):
    with pytest.raises(error, match=said):
        search(space, table, tmp_path / "study", **how)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"base": "timm:mnasnet_100", "stages": []}, ConfigError, "a stage or more"),
        ({"base": "timm:mnasnet_100", "stages": [{"width": []}]}, ConfigError, "width has nothing to choose from"),
        ({"base": "timm:mnasnet_100", "stages": [{"width": [8, 8]}]}, ConfigError, "a value twice"),
        ({"base": "timm:mnasnet_100", "stages": [{"width": [8], "kernel": [4]}]}, ConfigError, "an odd number"),
        (
            {"base": "timm:mnasnet_100", "stages": [{"width": [8], "wdith": [4]}]},
            UnknownName,
            "'wdith'; it takes width",
        ),
        ({"base": "timm:mnasnet_100", "stages": [{"kernel": [3]}]}, ConfigError, "must say its width"),
        ({"base": "timm:mnasnet_100?stem_width=8&blocks=ds_r1_k3_s1_c8"}, ConfigError, "leave them out of the base"),
        ({"base": "timm:mnasnt_100"}, UnknownName, "mnasnet_100"),
        ({"backbones": []}, ConfigError, "nothing to choose from"),
        ({"backbones": ["timm:test_vit"], "lr": [1, 0]}, ConfigError, "lr must be a range"),
        ({"backbones": ["timm:test_vit"], "settings": {"lr": [1]}}, ConfigError, "give it there"),
        ({"backbones": ["timm:test_vit"], "base": "timm:mnasnet_100"}, ConfigError, "or with 'backbones'"),
        ({"backbone": ["timm:test_vit"]}, ConfigError, "A space must be"),
    ],
)
def test_a_space_that_is_none_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        read_space(given)


def test_scores_are_for_spaces_of_blocks(table, tmp_path):
    with pytest.raises(ConfigError, match="screen a space of blocks"):
        search({"backbones": ["timm:test_vit"]}, table, tmp_path / "study", screened=3)


@pytest.mark.slow
def test_a_folder_of_another_study_is_refused(space, table, tmp_path):
    search(space, table, tmp_path / "study", trials=1)
    with pytest.raises(ConfigError, match="begun with another seed: 0 there, 1 now"):
        search(space, table, tmp_path / "study", trials=1, seed=1)
    with pytest.raises(ConfigError, match="begun with another data"):
        search(space, table.select(range(20)), tmp_path / "study", trials=1)
    with pytest.raises(ConfigError, match="begun with another space"):
        search("timm:mnasnet_100?img_size=32", table, tmp_path / "study", trials=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear …")
    with pytest.raises(BundleError, match="holds something that is no study"):
        search(space, table, tmp_path / "other", trials=1)
    with pytest.raises(BundleError, match="cannot be a folder: Not a directory; give another one"):
        search(space, table, tmp_path / "other" / "letter.txt" / "study", trials=1)


def test_without_optuna_the_extra_is_named(space, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PluginError, match=r"pip install 'headzoo\[search\]'"):
        search(space, table, tmp_path / "study", trials=1)

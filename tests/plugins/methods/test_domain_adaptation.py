"""Domain adaptation: the parts of a step, the statistics of norms, what a run needs, and runs that go on."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError, UnknownName
from zoo_methods.adapting.losses import coral_loss, mmd_loss
from zoo_methods.adapting.objective import Adapting
from zoo_methods.domain_adaptation import DomainAdaptation

RUN = {
    "method": "domain_adaptation", "epochs": 2, "batch_size": 4, "lr": 0.01, "validation": 0.0, "device": "cpu",
    "backbone_lr_scale": 1.0,
}  # fmt: skip
HEAD = {"type": "classifier", "name": "kind", "classes": ["a", "b"]}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(seed, shift=0.0, count=8, labels=True):
    noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    samples = [TensorSample(f"{seed}/{n}", one + n % 2 + shift) for n, one in enumerate(noise)]
    kinds = {"kind": Column("kind", "text", tuple("ab" * count)[:count])} if labels else {}
    return Table("made up", {"image": tuple(samples)}, kinds)


SOURCE, TARGET = rows(0), rows(1, 2.0, labels=False)


def build(backbone="timm:test_resnet", heads=HEAD, seed=0):
    return zoo.build(backbone, heads, weights=None, seed=seed)


def fitted(how, model=None, **more):
    model = model or build()
    history = zoo.fit(model, SOURCE, **{**RUN, "how": how, "unlabelled": TARGET, **more})
    return model, history


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# --- a step


def step_of(how, monkeypatch, **more):
    """Give the model, the batch and the parts of the first step of a run."""
    seen = []
    losses = Adapting.losses

    def spy(self, model, batch):
        parts = losses(self, model, batch)
        seen.append((self, batch, {name: part.detach().clone() for name, part in parts.items()}))
        if self.how != "adabn":
            with torch.no_grad():
                target = model.features(batch.unlabelled[0])["main"].pooled
            seen[-1] += (batch.features["main"].pooled.detach().clone(), target.clone())
        return parts

    monkeypatch.setattr(Adapting, "losses", spy)
    fitted(how, epochs=1, **more)
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "more", "loss"),
    [
        ("coral", {"weight": 3.0}, lambda a, b: 3 * coral_loss(a, b)),
        ("coral", {}, coral_loss),
        ("mmd", {"kernels": 2}, lambda a, b: mmd_loss(a, b, 2)),
        ("mmd", {}, lambda a, b: mmd_loss(a, b, 5)),
    ],
)
def test_a_step_adds_the_distance_of_the_pooled_vectors_each_domain_by_its_own_statistics(how, more, loss, monkeypatch):
    _, batch, parts, source, target = step_of(how, monkeypatch, **more)

    torch.testing.assert_close(parts["domains"], loss(source, target))
    torch.testing.assert_close(parts["kind"], batch.losses["kind"].detach())


@pytest.mark.slow
def test_the_domain_head_is_an_ordinary_head_and_sees_both_domains(monkeypatch):
    objective, _, parts, _, _ = step_of("dann", monkeypatch, domain_head={"type": "classifier", "hidden": 7})

    assert type(objective.head).__module__.startswith("zoo_heads")
    assert objective.head.tasks()["domain"].config.classes == ("source", "target")
    assert next(objective.head.parameters()).shape[0] == 7
    assert parts["domains"].item() == pytest.approx(2 * 0.693, abs=0.4)


def test_the_domain_head_learns_to_tell_domains_apart_and_the_backbone_to_mislead_it(monkeypatch):
    model = build()
    objective = DomainAdaptation(how="dann").objective(model)
    model.train()
    pictures = [torch.stack([one.tensor for one in table.samples("image")]) for table in (SOURCE, TARGET)]

    def gradients(progress):
        source, target = (model.features(one)["main"].pooled for one in pictures)
        part = objective._apart(source, target, progress)
        weights = [next(objective.head.parameters()), next(model.backbones["main"].parameters())]
        return torch.autograd.grad(part, weights)

    early, late = gradients(0.0), gradients(0.9)
    assert early[1].abs().max() == 0
    assert late[1].abs().max() > 0
    torch.testing.assert_close(early[0], late[0])


# --- the statistics of norms


def norms(model):
    return {name: value for name, value in model.state_dict().items() if "running" in name}


@pytest.mark.slow
def test_adabn_trains_as_fine_tuning_does_and_gives_norms_the_statistics_of_the_other_domain():
    plain, (model, history) = build(), fitted("adabn")
    zoo.fit(plain, SOURCE, **RUN | {"method": "fine_tuning"})
    changed = {name for name, value in plain.state_dict().items() if not torch.equal(model.state_dict()[name], value)}
    first = next(name for name in norms(model) if name.endswith("mean"))
    conv = next(one for one in model.backbones["main"].modules() if isinstance(one, torch.nn.Conv2d))
    seen = conv(torch.stack([one.tensor for one in TARGET.samples("image")]))

    assert changed == set(norms(model))
    torch.testing.assert_close(model.state_dict()[first], seen.mean(dim=(0, 2, 3)).detach())
    assert history.epochs[0].measures == {}


@pytest.mark.slow
def test_norms_says_whose_statistics_stay():
    (target, _), (both, _) = fitted("coral", norms="target"), fitted("coral", norms="both")
    changed = {name for name, value in both.state_dict().items() if not torch.equal(target.state_dict()[name], value)}

    assert changed == set(norms(both))


@pytest.mark.slow
def test_norms_of_frozen_stages_keep_their_statistics():
    before = build()
    stage = before.stages()[0].name
    model, _ = fitted("adabn", freeze=stage)
    same = [name for name, value in norms(before).items() if torch.equal(norms(model)[name], value)]

    assert same
    assert len(same) < len(norms(model))


# --- whole runs


@pytest.mark.slow
def test_adaptation_makes_domains_alike_and_measures_how_far_apart_they_are():
    _, history = fitted("mmd", epochs=6, weight=5.0)
    apart = [row.measures["domains"] for row in history.epochs]

    assert apart[-1] < apart[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dann", "adabn"])
def test_a_run_is_the_same_again_and_goes_on_bit_for_bit(how, tmp_path):
    (one, _), (again, _) = fitted(how), fitted(how)
    kept = {"checkpoint_every": 1, "keep_checkpoints": 9}
    fitted(how, checkpoint=tmp_path / "half", **kept)
    for path in sorted((tmp_path / "half").glob("checkpoint-*"))[1:]:
        path.rename(tmp_path / path.name)
    resumed, _ = fitted(how, checkpoint=tmp_path / "half", resume=True, **kept)

    assert equal(one, again)
    assert equal(one, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"how": "coral"}, {"weight": 2.0}, {"domain_head": {"type": "classifier"}}])
def test_a_setting_changes_what_is_learnt(more):
    (plain, _), (other, _) = fitted("dann"), fitted(**{"how": "dann", **more})

    assert not equal(plain, other)


@pytest.mark.slow
def test_several_tasks_and_a_chosen_stream_work():
    heads = [HEAD | {"stream": "one"}, {"type": "classifier", "name": "same", "target": "kind", "classes": ["a", "b"],
                                        "stream": "two"}]  # fmt: skip
    two = zoo.build(
        {"one": "timm:test_resnet", "two": "timm:test_efficientnet"}, heads, inputs="image", weights=None, seed=0
    )
    history = zoo.fit(two, SOURCE, **RUN, unlabelled=rows(1, 2.0, labels=False), how="mmd", stream="two", views=None)
    assert history.epochs[0].measures["domains"] > 0


def test_views_vary_the_pictures_without_labels():
    with pytest.raises(zoo.ZooError, match=r"Pillow"):
        fitted("coral", views="light")


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"how": "gan"}, ConfigError, "how must be one of dann, coral, mmd, adabn"),
        ({"how": "coral", "kernels": 3}, ConfigError, "kernels is a setting of mmd, and how is 'coral'"),
        ({"how": "mmd", "domain_head": {}}, ConfigError, "domain_head is a setting of dann"),
        ({"how": "adabn", "norms": "both"}, ConfigError, "norms is a setting of dann and coral and mmd"),
        ({"how": "adabn", "weight": 1.0}, ConfigError, "weight is a setting of"),
        ({"weight": 0}, ConfigError, "weight must be a number above 0"),
        ({"how": "mmd", "kernels": 0}, ConfigError, "kernels must be a whole number"),
        ({"norms": "source"}, ConfigError, "norms must be both or target"),
        ({"views": "lihgt"}, UnknownName, "no augmentation 'lihgt'"),
        ({"domain_head": {"hidden": 3}}, ConfigError, "must be a dict with the type of a head"),
        ({"domain_head": {"type": "classifier", "classes": ["a", "b"]}}, ConfigError, "classes is the method's own"),
        ({"domain_head": {"type": "classifier", "hiden": 3}}, UnknownName, "hiden"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        DomainAdaptation(**settings)


@pytest.mark.parametrize(
    ("settings", "model", "error", "words"),
    [
        ({"stream": "mian"}, {}, UnknownName, "no stream 'mian'; choose of main"),
        ({"how": "adabn"}, {"backbone": "timm:test_vit"}, ConfigError, "this model has none; use dann, coral or mmd"),
        (
            {"domain_head": {"type": "classifier", "multi_label": True}}, {}, ConfigError,
            "domain_head must be of one label",
        ),
    ],
)  # fmt: skip
def test_a_model_that_does_not_go_with_the_settings_is_refused_before_data_is_read(settings, model, error, words):
    with pytest.raises(error, match=words):
        zoo.fit(build(**model), "nowhere", **RUN, unlabelled="nowhere", **settings)


def test_rows_without_labels_must_be_there():
    with pytest.raises(ConfigError, match="learns from rows without labels; pass unlabelled"):
        zoo.fit(build(), "nowhere", **RUN)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["coral", "adabn"])
def test_backbones_that_rest_have_nothing_to_adapt(how):
    with pytest.raises(ConfigError, match="rest"):
        fitted(how, freeze=[row.name for row in build().stages() if row.name.startswith("main")])

"""Prototypical networks: the episode's loss by the paper's formula, the rows of episodes, and a run of them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.contracts.features import Features
from zoo.data import Column, Table, TensorSample
from zoo_methods.few_shot import EpisodeRows, Episodes, FewShot

CLASSES = ["cat", "cow", "dog", "owl"]
RUN = {"method": "few_shot", "ways": 3, "support": 2, "queries": 1, "batch_size": 9, "epochs": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(*more, **config):
    head = zoo.head("prototype", name="kind", classes=CLASSES, **config)
    return zoo.build("timm:test_resnet", [head, *more], weights=None, seed=0)


def table(rows=48, classes=CLASSES, apart=2.0, **columns):
    """Make noise whose mean colour tells its class."""
    generator = torch.Generator().manual_seed(0)
    colours = apart * torch.randn(len(classes), 3, 1, 1, generator=generator)
    pictures = [torch.randn(3, 32, 32, generator=generator) + colours[row % len(classes)] for row in range(rows)]
    samples = tuple(TensorSample(f"picture {row}", picture) for row, picture in enumerate(pictures))
    kinds = Column("kind", "text", tuple(classes[row % len(classes)] for row in range(rows)))
    return Table("made up", {"image": samples}, {"kind": kinds, **columns})


def batch_of(vectors, losses=None):
    rows = torch.arange(len(vectors))
    return zoo.Batch(rows=rows, features={"main": Features(pooled=vectors)}, losses=losses or {"kind": torch.ones(())})


# --- the loss


def test_the_loss_of_an_episode_is_that_of_the_paper():
    vectors = np.random.default_rng(0).normal(size=(3, 5, 96))
    whole = model()

    found = Episodes(FewShot(ways=3, support=2, queries=3), "kind").losses(
        whole, batch_of(torch.tensor(vectors).flatten(0, 1).float() * 0.2)
    )

    vectors = vectors * 0.2
    prototypes = vectors[:, :2].mean(axis=1)
    each = []
    for k in range(3):
        for query in vectors[k, 2:]:
            distances = ((query - prototypes) ** 2).sum(axis=1)
            each.append(distances[k] + np.log(np.exp(-distances).sum()))
    assert found["kind"].item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_head_of_cosines_is_trained_by_scaled_cosines(normalize):
    vectors = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(0))
    whole = model(distance="cosine", scale=4.0, normalize=normalize, weight=2.0)

    found = Episodes(FewShot(ways=2, support=2, queries=1), "kind").losses(whole, batch_of(vectors.flatten(0, 1)))

    support = F.normalize(vectors[:, :2], dim=-1) if normalize else vectors[:, :2]
    cosines = F.cosine_similarity(vectors[:, 2][:, None], support.mean(dim=1)[None], dim=-1)
    assert found["kind"].item() == pytest.approx(2 * F.cross_entropy(4 * cosines, torch.arange(2)).item(), rel=1e-5)


def test_prototypes_and_queries_both_have_a_gradient_and_the_heads_own_prototypes_stay():
    vectors = torch.randn(9, 96, requires_grad=True)
    whole = model()
    before = whole.task("kind").prototypes.clone()

    Episodes(FewShot(ways=3, support=2, queries=1), "kind").losses(whole, batch_of(vectors * 0.1))["kind"].backward()

    assert bool((vectors.grad.abs().sum(dim=1) > 0).all())
    assert torch.equal(whole.task("kind").prototypes, before)


# --- the episodes


def test_each_batch_is_an_episode_of_classes_with_rows_that_differ():
    target = torch.arange(60) % 6
    target[:6] = -100
    target[target == 5] = torch.tensor([-100] * 8 + [5])  # too few of the last class
    rows = torch.tensor(list(EpisodeRows(target, 3, 2, 1, 20, seed=3))).view(20, 3, 3)

    seen = set()
    for episode in rows:
        labels = target[episode]
        assert bool((labels == labels[:, :1]).all())
        assert len(set(labels[:, 0].tolist())) == 3
        assert len(set(episode.flatten().tolist())) == 9
        seen |= set(labels.flatten().tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_episodes_follow_from_the_seed_and_the_epoch_alone():
    target = torch.arange(60) % 6

    def drawn(seed, epoch):
        rows = EpisodeRows(target, 3, 2, 1, None, seed)
        rows.set_epoch(epoch)
        assert len(rows) == 54  # 6 episodes of 9 rows in 60 rows
        return list(rows)

    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 0)
    assert drawn(0, 1) != drawn(1, 1)


# --- a run


@pytest.mark.slow
def test_a_run_of_episodes_teaches_the_backbone_and_leaves_the_prototypes_of_all_classes():
    whole, data = model(normalize=True), table(apart=0.3)

    history = zoo.fit(whole, data, **RUN | {"episodes": 6, "epochs": 6}, lr=0.02)

    assert history.epochs[-1].train_loss < 0.6 * history.epochs[0].train_loss
    assert whole.task("kind").rows.sum() == history.rows["train"]
    assert history.settings["support"] == 2


@pytest.mark.slow
def test_other_tasks_keep_their_own_losses_and_the_named_one_makes_the_episodes():
    sides = Column("side", "text", tuple("lr"[row // 2 % 2] for row in range(48)))
    more = [zoo.head("classifier", name="side", classes=["l", "r"])]
    whole = model(*more)
    before = [parameter.detach().clone() for parameter in whole.heads["side"].parameters()]

    zoo.fit(whole, table(side=sides), **RUN, task="kind")

    after = list(whole.heads["side"].parameters())
    assert before
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("heads", "settings", "words"),
    [
        (["classifier"], {}, "the model has none .tasks that have: none.; build the model with zoo.head.'prototype'"),
        (["prototype"], {"task": "sort"}, "the task 'sort' has none .tasks that have: kind"),
        (["prototype", "prototype"], {}, "must know which task makes the episodes: set task to one of kind, more"),
        (["prototype"], {"batch_size": 32}, "needs batches of 9 rows, and they are to have 32; pass batch_size=9"),
        (
            ["prototype"],
            {"sampling": "balanced"},
            "sampling draws rows otherwise than what the method 'few_shot' trains",
        ),
        (["prototype"], {"ways": 1}, "ways must be a whole number, 2 or more"),
        (["prototype"], {"support": 0}, "support must be a whole number, 1 or more"),
        (["prototype"], {"queries": True}, "queries must be a whole number, 1 or more"),
        (["prototype"], {"episodes": 0}, "episodes must be a whole number, 1 or more"),
        (["prototype"], {"task": 3}, "task must be the name of a task"),
        (["prototype"], {"backbone_lr_scale": 0}, "backbone_lr_scale must be a number above 0"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(heads, settings, words):
    names = ("kind", "more")
    built = [zoo.head(head, name=name, classes=CLASSES) for head, name in zip(heads, names, strict=False)]
    whole = zoo.build("timm:test_resnet", built, weights=None)

    with pytest.raises(zoo.ConfigError, match=words):
        zoo.fit(whole, "nowhere", **RUN | settings)


def test_too_few_rows_of_a_class_are_one_sentence_before_training():
    with pytest.raises(zoo.DataError, match=r"3 classes with 2 \+ 1 training rows each, and of the task 'kind' 0 have"):
        zoo.fit(model(), table(rows=8), validation=0, **RUN)

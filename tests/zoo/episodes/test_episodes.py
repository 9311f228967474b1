"""Episodes: how they are drawn, what learns them (beside scikit-learn), and accuracy with its interval."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

import zoo
from zoo.cli import main
from zoo.data import Column, Table, TensorSample
from zoo.episodes.classifying import CLASSIFIERS
from zoo.episodes.evaluating import EpisodeScores, draw_episodes

SMALL = {"ways": 3, "shots": 2, "queries": 2, "episodes": 30, "device": "cpu"}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def episodes(count=4, ways=3, shots=5, queries=20, width=12):
    generator = torch.Generator().manual_seed(0)
    centres = 0.7 * torch.randn(count, ways, 1, width, generator=generator)
    drawn = centres + torch.randn(count, ways, shots + queries, width, generator=generator) + 0.5
    support, asked = drawn.split([shots, queries], dim=2)
    return support, asked.flatten(1, 2)


def table(classes="abcde", rows=50, apart=1.0, labels=None):
    generator = torch.Generator().manual_seed(0)
    colours = apart * torch.randn(len(classes), 3, 1, 1, generator=generator)
    pictures = [torch.randn(3, 32, 32, generator=generator) + colours[row % len(classes)] for row in range(rows)]
    samples = tuple(TensorSample(f"picture {row}", picture) for row, picture in enumerate(pictures))
    kinds = Column("kind", "text", tuple(labels or [classes[row % len(classes)] for row in range(rows)]))
    return Table("made up", {"image": samples}, {"kind": kinds})


@pytest.fixture(scope="module")
def model():
    head = zoo.head("classifier", name="kind", classes=["never", "seen"])
    return zoo.build("timm:test_resnet", head, weights=None, seed=0)


# --- what learns


def by_scikit(name, support, queries):
    given, right = support.flatten(0, 1).double().numpy(), np.repeat(np.arange(support.shape[0]), support.shape[1])
    asked = queries.double().numpy()
    if name == "centroid":
        return NearestCentroid().fit(given, right).predict(asked)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (given, asked)]
    if name == "cosine":
        means = np.stack([given[right == k].mean(axis=0) for k in range(support.shape[0])])
        return (unit[1] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1)
    return LogisticRegression(tol=1e-10, max_iter=5000).fit(unit[0], right).decision_function(unit[1])


@pytest.mark.parametrize("name", ["centroid", "cosine"])
def test_the_classifiers_say_of_each_episode_what_scikit_learn_says(name):
    support, queries = episodes()

    found = CLASSIFIERS[name](support, queries).argmax(dim=-1)

    for k in range(len(support)):
        assert found[k].tolist() == by_scikit(name, support[k], queries[k]).tolist()


def test_the_logistic_regression_of_all_episodes_at_once_is_scikit_learns_of_each():
    support, queries = episodes(width=40)

    found = CLASSIFIERS["logistic"](support, queries)

    for k in range(len(support)):
        theirs = by_scikit("logistic", support[k], queries[k])
        ours = found[k] - found[k].mean(dim=-1, keepdim=True)  # logits are the same but for a constant
        np.testing.assert_allclose(ours.numpy(), theirs - theirs.mean(axis=1, keepdims=True), atol=1e-4)


# --- what is drawn


def test_an_episode_has_classes_and_rows_that_differ_from_classes_with_enough_rows():
    rows = [torch.arange(10), torch.arange(10, 13), torch.arange(13, 23), torch.arange(23, 33)]

    drawn, classes = draw_episodes(rows, 2, 4, 50, seed=0, source="rows")

    assert classes == 3
    assert drawn.shape == (50, 2, 4)
    owner = torch.cat([torch.full((len(one),), k) for k, one in enumerate(rows)])
    labels = owner[drawn]
    assert bool((labels == labels[..., :1]).all())
    assert bool((labels[:, 0, 0] != labels[:, 1, 0]).all())
    assert set(labels.flatten().tolist()) == {0, 2, 3}
    assert all(len(set(one.flatten().tolist())) == 8 for one in drawn)
    assert torch.equal(drawn, draw_episodes(rows, 2, 4, 50, seed=0, source="rows")[0])
    assert not torch.equal(drawn, draw_episodes(rows, 2, 4, 50, seed=1, source="rows")[0])


# --- accuracy


def test_accuracy_is_the_mean_over_episodes_and_the_interval_that_of_a_normal_distribution(model, monkeypatch):
    given = iter([1.0, 0.0, 0.5, 0.5])  # the share of right queries in each of 4 episodes of 2 ways and 1 query

    def classify(support, queries):
        logits = torch.zeros(len(queries), 2, 2)
        for one in logits:
            share = next(given)
            one[0, 0 if share > 0 else 1] = 1
            one[1, 1 if share > 0.5 else 0] = 1
        return logits

    monkeypatch.setattr("zoo.episodes.evaluating.CLASSIFIERS", {"made": classify})
    found = zoo.evaluate_episodes(
        model, table("ab", 20), ways=2, shots=1, queries=1, episodes=4, classifier="made", device="cpu"
    )

    assert found.accuracy == 0.5
    assert found.interval == pytest.approx(1.96 * np.std([1, 0, 0.5, 0.5], ddof=1) / 2)


@pytest.mark.parametrize("classifier", list(CLASSIFIERS))
def test_classes_that_differ_are_told_apart_and_classes_that_do_not_are_guessed(model, classifier):
    far = zoo.evaluate_episodes(model, table(), classifier=classifier, **SMALL)
    same = zoo.evaluate_episodes(model, table(apart=0.0), classifier=classifier, **SMALL | {"episodes": 300})

    assert far.accuracy > 0.9
    assert abs(same.accuracy - 1 / 3) < 4 * same.interval
    assert (far.ways, far.shots, far.classes, far.classifier) == (3, 2, 5, classifier)


def test_more_shots_help_and_the_same_seed_gives_the_same(model):
    one, again, other = (
        zoo.evaluate_episodes(model, table(apart=0.15), **SMALL | {"shots": shots, "episodes": 200}, seed=seed)
        for shots, seed in ((1, 0), (1, 0), (1, 1))
    )
    more = zoo.evaluate_episodes(model, table(apart=0.15), **SMALL | {"shots": 7, "episodes": 200})

    assert one == again
    assert one != other
    assert more.accuracy > one.accuracy + one.interval
    assert str(EpisodeScores(0.5, 0.01, 9, 5, 1, 15, "cosine", 5)) == "50.00 ± 1.00 %"


def test_rows_without_a_label_and_of_other_parts_are_left_out(model):
    labels = [None if row < 10 else "abcde"[row % 5] for row in range(50)]
    data = table(labels=labels).with_split(["train"] * 30 + ["test"] * 20)

    found = zoo.evaluate_episodes(model, data, **SMALL, split="test")

    assert found.classes == 5
    with pytest.raises(zoo.DataError, match=r"3 classes with 5 rows each .*, and 0 of 5 classes have"):
        zoo.evaluate_episodes(model, data, **SMALL | {"shots": 3}, split="test")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"ways": 1}, zoo.ConfigError, "ways must be a whole number, 2 or more"),
        ({"shots": 0}, zoo.ConfigError, "shots must be a whole number, 1 or more"),
        ({"queries": 0}, zoo.ConfigError, "queries must be a whole number, 1 or more"),
        ({"episodes": 1}, zoo.ConfigError, "episodes must be a whole number, 2 or more"),
        ({"seed": -1}, zoo.ConfigError, "seed must be a whole number, 0 or more"),
        ({"classifier": "svm"}, zoo.UnknownName, "No episode classifier is called 'svm'; there are centroid, cosine"),
        ({"task": "sort"}, zoo.UnknownName, "No task is called 'sort'; there are kind"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(model, settings, error, words):
    with pytest.raises(error, match=words):
        zoo.evaluate_episodes(model, "nowhere", **SMALL | settings)


def test_a_model_with_several_tasks_must_be_told_which(model):
    two = [zoo.head("classifier", name=name, classes=["a", "b"]) for name in ("kind", "more")]
    with pytest.raises(zoo.ConfigError, match="The model has the tasks kind, more; say whose labels count by task="):
        zoo.evaluate_episodes(zoo.build("timm:test_resnet", two, weights=None), table(), **SMALL)


def test_an_ensemble_has_no_features_of_its_own(model):
    with pytest.raises(zoo.ConfigError, match="Episodes are of one model's features, got Ensemble"):
        zoo.evaluate_episodes(zoo.ensemble([model, model]), table(), **SMALL)


def test_labels_that_are_no_classes_are_refused(model):
    data = Table("sizes", table().inputs, {"kind": Column("kind", "number", tuple(n + 0.5 for n in range(50)))})
    with pytest.raises(zoo.DataError, match=r"an episode needs one class a row, and the column 'kind' has 0\.5"):
        zoo.evaluate_episodes(model, data, **SMALL)


def test_the_command_tells_accuracy_and_interval(model, tmp_path, capsys):
    from PIL import Image

    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        for number in range(4):
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(tmp_path / "pictures" / name / f"{number}.png")
    bundle = model.save(tmp_path / "bundle")
    asked = ["episodes", str(bundle), str(tmp_path / "pictures"), "--ways", "2", "--queries", "2", "--episodes", "9"]

    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([*asked, "--classifier", "cosine"]) == 0
    assert "2-way 1-shot (cosine): 100.00 ± 0.00 %" in capsys.readouterr().out

    assert (told["accuracy"], told["episodes"], told["queries"]) == (1.0, 9, 2)

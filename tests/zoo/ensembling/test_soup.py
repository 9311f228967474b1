"""Soups: one model of the mean of several models' weights."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, UnknownName


@pytest.fixture
def models(member):
    """Three models near one another, as trainings of one model are, with their own running statistics."""
    made = [member(seed=0) for _ in range(3)]
    dice = torch.Generator().manual_seed(0)
    for n, model in enumerate(made):
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.rand(tensor.shape, generator=dice))
            else:
                tensor.fill_(10 * n)
    return made


def test_a_uniform_soup_is_the_mean_of_every_tensor_running_statistics_too(models):
    before = [model.state_dict() for model in models]

    soup = zoo.soup(models)

    for name, tensor in soup.state_dict().items():
        states = [state[name] for state in before]
        expected = (
            torch.stack([s.double() for s in states]).mean(dim=0).float() if tensor.is_floating_point() else states[0]
        )
        assert torch.equal(tensor, expected), name
    assert any("running_var" in name for name in soup.state_dict())
    assert soup.provenance["soup"] == {"how": "uniform", "of": 3, "models": [1, 2, 3]}


def test_a_soup_is_a_model_of_its_own(models, pictures, tmp_path):
    soup = zoo.soup(models)
    soup.save(tmp_path / "soup")
    with torch.no_grad():
        next(soup.parameters()).zero_()

    again = zoo.load(tmp_path / "soup")

    assert not torch.equal(next(again.parameters()), next(soup.parameters()))
    assert all(bool(next(model.parameters()).any()) for model in models)
    assert again.predict(pictures[0])


def test_a_soup_of_one_model_is_that_model(models, pictures):
    assert zoo.soup(models[:1]).predict(pictures) == models[0].predict(pictures)


@pytest.mark.slow
def test_a_greedy_soup_adds_the_models_that_do_not_make_it_worse(member, table):
    pet = zoo.head("classifier", name="pet", classes=["cat", "dog", "owl"], norm=True)
    base = member("timm:test_resnet", pet)
    data = table(pet=("text", [["cat", "dog", "owl"][n % 3] for n in range(24)]))
    models = []
    for seed in range(3):
        model = zoo.build("timm:test_resnet", pet, weights=None, seed=0)
        model.load_state_dict(base.state_dict())
        zoo.fit(model, data, method="feature_extraction", epochs=3, lr=1e-2, seed=seed, validation=0, device="cpu")
        models.append(model)
    spoilt = member("timm:test_resnet", pet, seed=9)
    scores = [zoo.evaluate(m, data)["pet"]["balanced_accuracy"] for m in [*models, spoilt]]

    soup = zoo.soup([*models, spoilt], "greedy", data=data, device="cpu")

    kept = soup.provenance["soup"]["models"]
    assert zoo.evaluate(soup, data)["pet"]["balanced_accuracy"] >= max(scores)
    assert scores[kept[0] - 1] == max(scores)
    again = zoo.soup([[*models, spoilt][n - 1] for n in kept])
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), soup.state_dict().values(), strict=True))


def test_a_greedy_soup_of_several_tasks_is_judged_by_their_loss(models, table):
    soup = zoo.soup(models, "greedy", data=table(), device="cpu")

    assert 1 <= len(soup.provenance["soup"]["models"]) <= 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda member: member("timm:test_vit"), r"architecture.*'test_resnet.*'test_vit"),
        (lambda member: member(classes=["dog", "cat", "owl"]), r"heads\.0\.config\.classes\.0: 'cat' and 'dog'"),
        (lambda member: member("timm:test_resnet", zoo.head("regression", name="age")), "heads"),
        (lambda member: member().double(), "have the same tensors"),
    ],
)
def test_models_that_differ_are_refused_with_the_difference(member, other, words):
    with pytest.raises(ConfigError, match=words):
        zoo.soup([member(), other(member)])


def test_bad_settings_are_refused(models, tmp_path):
    for given, how, more, error, words in (
        ([], "uniform", {}, ConfigError, "at least one model"),
        (models, "uniforn", {}, UnknownName, "one of uniform"),
        (models, "greedy", {}, ConfigError, "needs validation data"),
        (models, "uniform", {"data": "x"}, ConfigError, "leave data out"),
        (models, "greedy", {"data": "x", "batch_size": 0}, ConfigError, "batch_size"),
        (models[0], "uniform", {}, ConfigError, "must be a list"),
        ([3], "uniform", {}, ConfigError, "Model 1 of the soup must be a model"),
    ):
        with pytest.raises(error, match=words):
            zoo.soup(given, how, **more)

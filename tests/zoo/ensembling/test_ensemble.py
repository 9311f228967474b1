"""An ensemble predicts and is measured like a model, each member with its own preprocessing."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import zoo
from zoo.errors import BundleError, ConfigError, DataError, InvalidReference, ShapeError, UnknownName
from zoo.strict import from_json, to_json


def chances(rows, task="pet"):
    return np.array([list(row[task].probabilities.values()) for row in rows])


@pytest.mark.slow
def test_every_member_sees_its_own_tensor_of_a_picture(member, pictures):
    models = [
        member("timm:test_resnet"),
        member("timm:test_vit"),
        member("torchvision:mobilenet_v3_small"),
        member("hf:vit?image_size=32&hidden_size=24&num_hidden_layers=2&num_attention_heads=2"),
    ]
    alone = [model.predict(pictures) for model in models]

    found = zoo.ensemble(models).predict(pictures)

    np.testing.assert_allclose(chances(found), np.mean([chances(rows) for rows in alone], axis=0), atol=1e-5)
    ages = np.mean([[row["age"].value for row in rows] for rows in alone], axis=0)
    np.testing.assert_allclose([row["age"].value for row in found], ages, atol=1e-5)


def test_one_picture_gives_one_prediction_that_is_json_with_its_uncertainty(member, pictures):
    found = zoo.ensemble([member(seed=0), member(seed=1)]).predict(pictures[0])

    told = found["pet"].as_json()
    assert set(told) == {"label", "probability", "probabilities", "uncertainty"}
    assert set(told["uncertainty"]) == {"entropy", "mutual_information", "disagreement"}
    assert set(found["age"].as_json()) == {"value", "uncertainty"}
    assert found["pet"].label == told["label"] == found["pet"].prediction.label
    assert copy.deepcopy(found)["pet"].label == told["label"]


@pytest.mark.slow
def test_uncertainty_is_entropy_and_what_members_differ_by(member, pictures):
    models = [member("timm:test_vit", seed=seed) for seed in range(3)]
    each = np.stack([chances(model.predict(pictures)) for model in models])
    ages = np.array([[row["age"].value for row in model.predict(pictures)] for model in models])

    found = zoo.ensemble(models).predict(pictures)

    unsure = [row["pet"].uncertainty for row in found]
    total = entropy(each.mean(axis=0), axis=1)
    labels = each.mean(axis=0).argmax(axis=1)
    np.testing.assert_allclose([one.entropy for one in unsure], total, atol=1e-6)
    between = total - entropy(each, axis=2).mean(axis=0)
    np.testing.assert_allclose([one.mutual_information for one in unsure], between, atol=1e-6)
    np.testing.assert_allclose([one.disagreement for one in unsure], (each.argmax(axis=2) != labels).mean(axis=0))
    np.testing.assert_allclose([row["age"].uncertainty.std for row in found], ages.std(axis=0), atol=1e-6)


def test_members_that_are_the_same_are_not_unsure_about_one_another(member, pictures):
    model = member()

    found = zoo.ensemble([model, copy.deepcopy(model)]).predict(pictures[0])

    assert found["pet"].uncertainty.mutual_information == pytest.approx(0, abs=1e-12)
    assert found["pet"].uncertainty.disagreement == 0
    assert found["age"].uncertainty.std == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("combine", ["mean", "logits", "vote"])
@pytest.mark.parametrize("several", [False, True])
def test_classes_are_aligned_by_their_labels(member, pictures, combine, several):
    models = [member(seed=seed, multi_label=several) for seed in range(3)]
    other = member(seed=2, classes=["owl", "cat", "dog"], multi_label=several)
    other.load_state_dict(models[2].state_dict())
    layer = models[2].heads["pet"].layers.state_dict()
    other.heads["pet"].layers.load_state_dict({key: value[[2, 0, 1]] for key, value in layer.items()})

    found = zoo.ensemble([*models[:2], other], combine).predict(pictures)

    expected = zoo.ensemble(models, combine).predict(pictures)
    np.testing.assert_allclose(chances(found), chances(expected), atol=1e-6)
    assert [row["pet"].uncertainty for row in found] == [row["pet"].uncertainty for row in expected]
    assert list(found[0]["pet"].probabilities) == ["cat", "dog", "owl"]


def test_classes_that_differ_are_listed(member):
    with pytest.raises(ConfigError, match="only in 'member1': 'owl'; only in 'member2': 'cow', 'pig'"):
        zoo.ensemble([member(), member(classes=["dog", "cat", "cow", "pig"])])


def test_members_whose_tasks_differ_are_refused(member):
    with pytest.raises(ConfigError, match="'a' has pet, age, 'b' has pet"):
        zoo.ensemble(
            {"a": member(), "b": member("timm:test_resnet", zoo.head("classifier", name="pet", classes=["a", "b"]))}
        )
    with pytest.raises(ConfigError, match=r"'age' must be the same .* numbers, .* one class of several"):
        zoo.ensemble(
            [
                member("timm:test_resnet", zoo.head("regression", name="age")),
                member("timm:test_resnet", zoo.head("classifier", name="age", classes=["a", "b"])),
            ]
        )
    with pytest.raises(ConfigError, match="has no task"):
        zoo.ensemble([zoo.build("timm:test_resnet", weights=None)])


def test_ranks_in_another_order_are_refused(member, pictures):
    one, other = (
        member("timm:test_resnet", zoo.head("ordinal", name="size", classes=order))
        for order in (["s", "m"], ["m", "s"])
    )

    with pytest.raises(ShapeError, match="'size' in another order"):
        zoo.ensemble([one, other]).predict(pictures[0])


def test_ordinal_members_are_averaged_by_rank(member, pictures):
    models = [
        member("timm:test_resnet", zoo.head("ordinal", name="size", classes=["s", "m", "l"]), seed=n) for n in (0, 1)
    ]
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    found = zoo.ensemble(models)(x)["size"].sigmoid()

    torch.testing.assert_close(found, torch.stack([model(x)["size"].sigmoid() for model in models]).mean(dim=0))


@pytest.mark.slow
def test_tensors_are_refused_where_members_normalise_in_different_ways(member, table):
    models = [member("timm:test_resnet"), member("timm:test_resnet?in_channels=3"), member("timm:efficientnet_lite0")]
    recipes = {(m.spec.streams["main"].backbone.preprocessing.mean) for m in models}
    made = zoo.ensemble(models)

    assert len(recipes) == 2
    for give in (lambda: made(torch.zeros(1, 3, 64, 64)), lambda: made.predict(torch.zeros(3, 64, 64))):
        with pytest.raises(ShapeError, match="normalise the input 'image' in different ways"):
            give()
    with pytest.raises(ShapeError, match="in different ways"):
        zoo.evaluate(made, table())


def test_weights_are_given_for_all_tasks_or_each(member, pictures):
    models = [member(seed=0), member(seed=1)]
    rows = [model.predict(pictures) for model in models]

    same = zoo.ensemble(models, "weighted", weights=[1, 3]).predict(pictures)
    each = zoo.ensemble(models, "weighted", weights={"pet": [0, 2], "age": [1, 0]}).predict(pictures)

    np.testing.assert_allclose(chances(same), chances(rows[0]) / 4 + chances(rows[1]) * 3 / 4, atol=1e-6)
    np.testing.assert_allclose(chances(each), chances(rows[1]), atol=1e-6)
    assert [row["age"].value for row in each] == pytest.approx([row["age"].value for row in rows[0]], abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], "must be one for each of the 2 members, got 1"),
        ([1.0, -1.0], "0 or more"),
        ([0, 0], "not all 0"),
        ([1, float("nan")], "0 or more"),
        ({"pet": [1, 1]}, "must be of the tasks pet, age, got pet"),
    ],
)
def test_weights_that_cannot_be_are_refused(member, weights, words):
    with pytest.raises(ConfigError, match=words):
        zoo.ensemble([member(), member()], "weighted", weights=weights)


def test_bad_settings_are_refused_before_members_are_loaded(tmp_path):
    missing = [tmp_path / "none"]
    for members, combine, more, error, words in (
        ([], "mean", {}, ConfigError, "at least one member"),
        (missing, "weigthed", {}, UnknownName, "one of weighted"),
        (missing, "mean", {"weights": [1]}, ConfigError, "takes no weights"),
        (missing, "mean", {"tta": "flop"}, UnknownName, "tta also takes 'flip'"),
        (missing, "mean", {"tta": 3}, ConfigError, "tta must be"),
        (missing, "mean", {"views": 3}, ConfigError, "needs an augmentation"),
        (missing, "mean", {"tta": "flip", "views": 3}, ConfigError, "must be 2"),
        (missing, "mean", {"tta": "none"}, ConfigError, "changes nothing"),
        (missing, "mean", {"heads": "classifier"}, ConfigError, "heads are for members that are references"),
        (missing, "mean", {}, BundleError, "no bundle"),
        (["timm:test_resnet"], "mean", {}, ConfigError, "say which heads"),
        ([":resnet"], "mean", {"heads": "classifier"}, InvalidReference, "'member1' is no bundle's folder"),
        ("timm:test_resnet", "mean", {}, ConfigError, "must be a list"),
        ([3], "mean", {}, ConfigError, "'member1' must be a model"),
    ):
        with pytest.raises(error, match=words):
            zoo.ensemble(members, combine, **more)


def test_references_and_whole_specs_are_built(pictures):
    pet = zoo.head("classifier", name="pet", classes=["a", "b"])
    model = zoo.build("timm:test_resnet", pet, weights=None, seed=5)

    made = zoo.ensemble({"a": "timm:test_resnet", "b": model.spec}, heads=pet, pretrained=False, seed=5)

    for one in made.members.values():
        assert one.predict(pictures[0]) == model.predict(pictures[0])


def with_scores(model, accuracy, mae, name="photos"):
    """Let a member say how it did on validation rows."""
    metrics = {"pet": {model.task("pet").best_metric[0]: accuracy}, "age": {model.task("age").best_metric[0]: mae}}
    model.provenance = {"data": {"name": name, "rows": {"validation": 5}}, "metrics": {"validation": metrics}}
    return model


def test_members_of_the_same_data_are_weighed_by_their_validation_scores(member, pictures, tmp_path):
    found = [with_scores(member(), *scores) for scores in [(0.9, 1.0), (0.6, 2.0)]]
    paths = [model.save(tmp_path / f"{n}") for n, model in enumerate(found)]
    made = zoo.ensemble(paths, "weighted")

    assert made.spec.weights["pet"] == pytest.approx((0.6, 0.4))
    assert made.spec.weights["age"] == pytest.approx((0.8, 0.2))  # inverse squares, 1 and 1/4
    assert len(made.predict(pictures)) == len(pictures)


def test_members_of_different_data_have_no_common_scores(member):
    for other in (with_scores(member(), 0.6, 2.0, "others"), member()):
        assert not zoo.ensemble([with_scores(member(), 0.9, 1.0), other], "weighted").spec.weights


@pytest.mark.parametrize("combine", ["weighted", "greedy", "stacking"])
def test_what_is_not_fitted_yet_says_so(member, pictures, combine):
    with pytest.raises(ConfigError, match=r"must be fitted on validation data first: ensemble\.fit"):
        zoo.ensemble([member(), member()], combine).predict(pictures[0])


def test_it_is_measured_like_a_model(member, table):
    models = [member(seed=seed) for seed in range(3)]
    data = table()
    pictures = torch.stack([sample.open() for sample in data.inputs["image"]])
    with torch.no_grad():
        each = [model(pictures) for model in models]
    told = torch.stack([one["pet"].softmax(dim=1) for one in each]).mean(dim=0).argmax(dim=1).numpy()
    ages = torch.stack([one["age"] for one in each]).mean(dim=0).numpy()
    truth = np.arange(24) % 3

    found = zoo.evaluate(zoo.ensemble(models), data, batch_size=7)

    assert found["pet"]["accuracy"] == pytest.approx((told == truth).mean())
    assert found["age"]["mae"] == pytest.approx(np.abs(ages - truth).mean(), abs=1e-5)


def test_predicting_leaves_the_mode_of_every_member_and_the_batch_size_does_not_matter(member, pictures):
    made = zoo.ensemble([member(), member(seed=1)])

    one = made.predict(pictures, batch_size=1)
    made.train()
    all_ = made.predict(pictures, batch_size=3)

    assert made.training
    assert made.members["member2"].backbones["main"].training
    np.testing.assert_allclose(chances(one), chances(all_), atol=1e-5)
    with pytest.raises(ConfigError, match="batch_size"):
        made.predict(pictures, batch_size=0)
    with pytest.raises(DataError, match=r"nothing\.png"):
        made.predict("nothing.png")


@pytest.mark.slow
def test_members_may_have_more_inputs_than_others(member, pictures):
    pet = zoo.head("classifier", name="pet", classes=["a", "b"], stream="left")
    both = zoo.build({"left": "timm:test_resnet", "right": "timm:test_resnet"}, pet, weights=None, seed=0)
    one = zoo.build(
        {"left": "timm:test_vit"}, zoo.head("classifier", name="pet", classes=["a", "b"]), weights=None, seed=1
    )
    one_alone = one.predict([{name: pictures[0] for name in one.input_names}])
    row = {"left": pictures[0], "right": pictures[1], **{name: pictures[0] for name in one.input_names}}

    found = zoo.ensemble([both, one]).predict(row)

    alone = both.predict({"left": pictures[0], "right": pictures[1]})
    mean = (chances([alone]) + chances(one_alone)) / 2
    np.testing.assert_allclose(chances([found]), mean, atol=1e-6)


def test_the_spec_is_json(member):
    made = zoo.ensemble([member(), member()], "weighted", weights=[1, 1], tta=zoo.Augmentation(flip=0.5), views=3)

    assert from_json(zoo.EnsembleSpec, to_json(made.spec)) == from_json(zoo.EnsembleSpec, to_json(made.spec))
    assert to_json(from_json(zoo.EnsembleSpec, to_json(made.spec))) == to_json(made.spec)
    with pytest.raises(ConfigError, match="Two members are called"):
        from_json(zoo.EnsembleSpec, {**to_json(made.spec), "members": [to_json(made.spec)["members"][0]] * 2})

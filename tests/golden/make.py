"""Write the golden bundles of this version: ``python tests/golden/make.py``; they are never written again.

Each version of the format adds a folder here, and every later version loads and probes them all. ``expected.json`` has
what the models gave, apart from the bundles' own probes.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

import zoo
from zoo.bundle.manifest import FORMAT_VERSION


def sample() -> torch.Tensor:
    """Give the pictures, ``(2, 3, 160, 160)``; they depend on no random numbers."""
    steps = torch.arange(2 * 3 * 160 * 160, dtype=torch.float64).reshape(2, 3, 160, 160)
    return torch.sin(steps * 0.37).float()


def outputs(model: zoo.Model | zoo.Ensemble) -> dict[str, list[list[float]]]:
    """Give what a model says of them."""
    with torch.inference_mode():
        return {name: output.tolist() for name, output in model(sample()).items()}


def adapted(base: Path) -> zoo.Model:
    """Give a model with an adapter that has learnt something."""
    model = zoo.load(base)
    assert isinstance(model, zoo.Model)
    [adapter] = model.add_adapters(rank=2, alpha=3, targets="all", stages=["s2", "s3"])
    with torch.no_grad():
        for name, parameter in adapter.parts.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape) / 20)
    return model


def main() -> None:
    """Write the bundles."""
    folder = Path(__file__).parent / FORMAT_VERSION
    heads = [zoo.head("classifier", name="pet", classes=["cat", "dog", "Übung"]), zoo.head("regression", name="age")]
    with tempfile.TemporaryDirectory() as store:
        os.environ["ZOO_STORE"] = store
        full = zoo.build("timm:test_efficientnet", heads, weights=None, seed=0)
        full.freeze("s1")
        full.provenance = {"metrics": {"pet/accuracy": 0.5}, "note": "golden"}
        full.save(folder / "full")
        delta = zoo.load(folder / "full")
        with torch.no_grad():
            delta.backbones["main"].native.bn1.running_mean.add_(0.5)
            delta.heads["age"].layers[0].bias.add_(1)
        delta.save(folder / "delta", kind="delta", base=folder / "full")
        adapted(folder / "full").save(folder / "adapted", kind="delta", base=folder / "full")
        both = zoo.ensemble({"one": folder / "full", "two": folder / "delta"}, combine="weighted", weights=[3, 1])
        both.save(folder / "ensemble", members="refer")
        expected = {name: outputs(zoo.load(folder / name)) for name in ("full", "delta", "adapted", "ensemble")}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Build: a zoo model against the library's own constructor, without weights and with a local file of weights.

For each architecture the ratio is the median over rounds of (ours / the library's own), run in turn in one process, in
processor time, up to the first forward pass if ``--forward`` is given. Specs are measured before, as they are for every
build but a user's first of an architecture; the time of that first is printed too.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file

import zoo

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """One architecture, and how its library builds it without and with a file of weights."""

    reference: str
    size: int
    plain: Callable[[], torch.nn.Module]
    loaded: Callable[[Path], torch.nn.Module]


def from_timm(name: str) -> Case:
    return Case(
        f"timm:{name}",
        224,
        lambda: timm.create_model(name, num_classes=CLASSES),
        lambda file: timm.create_model(name, num_classes=CLASSES, checkpoint_path=str(file)),
    )


def from_torchvision(name: str) -> Case:
    def make() -> torch.nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES)

    def load(file: Path) -> torch.nn.Module:
        model = make()
        model.load_state_dict(load_file(file))
        return model

    return Case(f"torchvision:{name}", 224, make, load)


def from_transformers() -> Case:
    def make() -> torch.nn.Module:
        return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=CLASSES))

    def load(file: Path) -> torch.nn.Module:
        return transformers.ViTForImageClassification.from_pretrained(file.parent)

    return Case("hf:vit", 224, make, load)


CASES = (
    from_timm("mobilenetv3_large_100"),
    from_timm("resnet50"),
    from_timm("vit_base_patch16_224"),
    from_torchvision("resnet50"),
    from_transformers(),
)


def timed(make: Callable[[], torch.nn.Module], image: torch.Tensor | None) -> float:
    gc.collect()
    start = time.process_time()
    model = make()
    if image is not None:
        with torch.inference_mode():
            model.eval()(image)
    return time.process_time() - start


def compare(case: Case, folder: Path, rounds: int, *, forward: bool) -> None:
    head = zoo.head("classifier", classes=[str(i) for i in range(CLASSES)])
    start = time.process_time()
    zoo.build(case.reference, head, weights=None)
    first = time.process_time() - start
    native = case.plain()
    folder = folder / case.reference.replace(":", "-")
    if hasattr(native, "save_pretrained"):
        native.save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(native.state_dict(), folder / "model.safetensors")
    file = folder / "model.safetensors"
    reference = f"hf:{folder}" if case.reference.startswith("hf:") else case.reference
    weights = "pretrained" if case.reference.startswith("hf:") else file
    image = torch.zeros(1, 3, case.size, case.size) if forward else None
    pairs: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], torch.nn.Module]]] = {
        "without weights": (lambda: zoo.build(case.reference, head, weights=None), case.plain),
        "with a local file": (lambda: zoo.build(reference, head, weights=weights), lambda: case.loaded(file)),
    }
    for what, (ours, theirs) in pairs.items():
        timed(ours, image), timed(theirs, image)
        both = [(timed(ours, image), timed(theirs, image)) for _ in range(rounds)]
        mine, other = (statistics.median(times) * 1e3 for times in zip(*both, strict=True))
        ratio = statistics.median(a / b for a, b in both)
        print(f"{case.reference:30} {what:18} {mine:9.1f} {other:9.1f} {ratio:7.3f}")
    print(f"{case.reference:30} {'first of all':18} {first * 1e3:9.1f}")


def main() -> None:
    """Compare all cases; print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--forward", action="store_true")
    arguments = parser.parse_args()
    print(f"{'backbone':30} {'':18} {'ours ms':>9} {'peer ms':>9} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_CACHE"] = f"{folder}/cache"
        for case in CASES:
            compare(case, Path(folder), arguments.rounds, forward=arguments.forward)


if __name__ == "__main__":
    main()

"""Faults: a saving process is killed at a random instant, again and again; what is left on the disk?

The models are built once. For each kill a child is forked that saves in a loop, one generation over the other, and is
killed with SIGKILL at a random instant of a save. Then the parent looks: is what is there one whole generation? And it
saves once more, and looks for what the dead one left behind. torch.save, transformers and timm get the same kills.

    python benchmarks/faults.py                          # 200 kills of each way to save
    python benchmarks/faults.py --kills 2000 --seed 1    # many
    python benchmarks/faults.py --only overwrite --only torch.save

``create`` takes the last bundle away and saves a new one, all others save over the last one. Most of a save is copying,
rebuilding and running the model; so that the kills fall where files are written, the bundle's files are made once, and
written again and again by what every save writes with. The rows that say ``whole call`` are ``model.save`` itself. The
format has no shards: a model of several backbones is a bundle of several tensor files, and stands in for them.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import transformers

import zoo
from zoo.bundle.publishing import here
from zoo.bundle.staging import staged

ARCHITECTURE = "test_vit"
WIDTH = 96
"""Of transformers' model, so that all save about as many bytes."""


class Skipped(Exception):
    """Raised where there is no such way to save."""


@dataclass(frozen=True)
class Case:
    """A way to save.

    Args:
        name: How it is called.
        write: Saves the generation 0 or 1 to a path, over what is there.
        read: Gives the generation that is at a path, as its users read it; None where there is nothing.
        fresh: Whether each save is to a path where nothing is.
    """

    name: str
    write: Callable[[int, Path], None]
    read: Callable[[Path], int | None]
    fresh: bool = False


class Mixed(Exception):
    """Raised when what is read has parts of both generations."""


# --- ours


def bundles(name: str, make: Callable[[int], Any], *, fresh: bool = False, whole: bool = False, **options: Any) -> Case:
    """Save two models of zoo in turn; the digest of every tensor tells which is there."""
    models = [make(generation) for generation in range(2)]
    known: list[dict[str, str]] = []
    prepared: list[dict[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for generation, model in enumerate(models):
            model.provenance = {"generation": generation}
            path = model.save(Path(folder, str(generation)), **options)
            known.append(zoo.verify(path).components)
            files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda f: f == path / "zoo.json")
            prepared.append({str(file.relative_to(path)): file.read_bytes() for file in files})
    assert known[0] != known[1]

    def write(generation: int, path: Path) -> None:
        if whole:
            models[generation].save(path, overwrite=True, **options)
            return
        with staged(path, overwrite=True) as folder:
            for file, content in prepared[generation].items():
                folder.write(file, content)

    def read(path: Path) -> int | None:
        report = zoo.verify(path)
        if not report.ok:
            if report.id is None and not os.path.lexists(path):
                return None
            raise ValueError(report.problems[0])
        told = json.loads((path / "zoo.json").read_bytes())["provenance"]["generation"]
        if report.components != known[told]:
            raise Mixed
        return int(told)

    return Case(name, write, read, fresh)


def one(*heads: str, streams: int = 1) -> Callable[[int], zoo.Model]:
    def make(generation: int) -> zoo.Model:
        torch.manual_seed(generation)
        backbone = f"timm:{ARCHITECTURE}"
        named = [zoo.head("classifier", name=name, classes=["a", "b"]) for name in heads]
        if streams == 1:
            return zoo.build(backbone, named, weights=None)
        sources = {f"s{number}": backbone for number in range(streams)}
        return zoo.build(sources, zoo.head("classifier", stream="s0", classes=["a", "b"]), weights=None)

    return make


def several(generation: int) -> zoo.Ensemble:
    return zoo.ensemble({name: one("main")(2 * generation + number) for number, name in enumerate("ab")})


def delta() -> Case:
    if "kind" not in inspect.signature(zoo.save).parameters:
        raise Skipped("zoo.save has no kind='delta'")
    base = one("main")(0)

    def make(generation: int) -> zoo.Model:
        model = one("main")(0)
        with torch.no_grad():  # the head, and one tensor of the backbone
            for tensor in (*model.heads.parameters(), next(iter(model.backbones["main"].native.parameters()))):
                tensor.add_(generation + 1)
        return model

    return bundles("delta", make, kind="delta", base=base)


# --- others


def filled(model: torch.nn.Module, generation: int) -> torch.nn.Module:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(generation)
    return model


def generation_of(state: dict[str, torch.Tensor], told: int) -> int:
    """Compare all tensors with what is told of them."""
    found = {float(value) for tensor in state.values() for value in (tensor.min(), tensor.max())}
    if found != {float(told)}:
        raise Mixed
    return told


def torch_save() -> Case:
    states = [filled(timm.create_model(ARCHITECTURE), generation).state_dict() for generation in range(2)]

    def write(generation: int, path: Path) -> None:
        torch.save({"generation": generation, "model": states[generation]}, path)

    def read(path: Path) -> int | None:
        if not path.exists():
            return None
        found = torch.load(path, weights_only=True)
        return generation_of(found["model"], found["generation"])

    return Case("torch.save", write, read)


def save_pretrained() -> Case:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 3 * WIDTH}
    models = [
        filled(transformers.ViTModel(transformers.ViTConfig(image_size=64, generation=number + 1, **config)), number)
        for number in range(2)
    ]

    def write(generation: int, path: Path) -> None:
        models[generation].save_pretrained(path)

    def read(path: Path) -> int | None:
        if not path.exists():
            return None
        found = transformers.ViTModel.from_pretrained(path)
        return generation_of(found.state_dict(), found.config.generation - 1)

    return Case("transformers save_pretrained", write, read)


def save_for_hf() -> Case:
    logging.getLogger("timm").setLevel(logging.ERROR)
    models = [filled(timm.create_model(ARCHITECTURE), generation) for generation in range(2)]

    def write(generation: int, path: Path) -> None:
        config = {"generation": generation}
        timm.models.save_for_hf(models[generation], str(path), model_config=config, safe_serialization=True)

    def read(path: Path) -> int | None:
        if not path.exists():
            return None
        found = timm.create_model(f"local-dir:{path}", pretrained=True)
        return generation_of(found.state_dict(), json.loads((path / "config.json").read_bytes())["generation"])

    return Case("timm save_for_hf", write, read)


CASES: dict[str, Callable[[], Case]] = {
    "create": lambda: bundles("create", one("main"), fresh=True),
    "call": lambda: bundles("overwrite, whole call", one("main"), whole=True),
    "overwrite": lambda: bundles("overwrite", one("main")),
    "files": lambda: bundles("several tensor files", one("main", streams=4)),
    "heads": lambda: bundles("several heads", one("a", "b", "c", "d")),
    "ensemble": lambda: bundles("ensemble", several),
    "ensemble-call": lambda: bundles("ensemble, whole call", several, whole=True),
    "delta": delta,
    "torch.save": torch_save,
    "save_pretrained": save_pretrained,
    "save_for_hf": save_for_hf,
}


# --- kills


@dataclass
class Counts:
    """What was found after the kills of one case; ``left`` counts files and folders after the next save."""

    kills: int = 0
    unreadable: int = 0
    mixed: int = 0
    lost: int = 0
    left: int = 0
    times: list[float] = field(default_factory=list)


def kill(case: Case, kills: int, dice: random.Random, folder: Path) -> Counts:
    """Kill one way to save."""
    path, away, counts = folder / "target", folder / "away", Counts()
    away.mkdir()

    def save(generation: int) -> None:
        if case.fresh and path.exists():
            os.rename(path, away / f"{os.getpid()}-{time.monotonic_ns()}")
        case.write(generation, path)

    for number in range(4):
        begun = time.perf_counter()
        save(number % 2)
        counts.times.append(time.perf_counter() - begun)
    usual = {*listed(folder, away)}
    for _ in range(kills):
        child, begins = writer(save)
        os.read(begins, 1)
        os.close(begins)
        time.sleep(dice.uniform(0.0, 2.0 * statistics.median(counts.times)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts.kills += 1
        look(case, path, counts)
        save(0)
        if case.read(path) != 0:
            raise AssertionError(f"{case.name}: a save that nobody disturbed is not there")
        left = {*listed(folder, away)} - usual
        counts.left += len([name for name in left if str(Path(name).parent) not in left])
        for name in left:  # counted once
            gone = folder / name
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        shutil.rmtree(away)
        away.mkdir()
    return counts


def writer(save: Callable[[int], None]) -> tuple[int, int]:
    """Fork a process that saves until it is killed; gives its id, and a pipe on which it says that it begins."""
    begins, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(told, b"x")
            for number in range(10**9):
                save(1 - number % 2)
        finally:
            os._exit(1)
    os.close(told)
    return child, begins


def look(case: Case, path: Path, counts: Counts) -> None:
    """Read what is there, and count it; a way to save that keeps its promise has a whole generation there."""
    try:
        found = case.read(path)
    except Mixed:
        counts.mixed += 1
        counts.lost += 1
    except Exception:  # what a reader raises has no common type
        counts.unreadable += 1
        counts.lost += not case.fresh
    else:
        counts.lost += found is None and not case.fresh


def listed(folder: Path, away: Path) -> set[str]:
    """List all that is below a folder, but for what was taken away."""
    found = (path for path in folder.rglob("*") if path != away and away not in path.parents)
    return {str(path.relative_to(folder)) for path in found}


def line(name: str, found: Counts) -> str:
    """Write what was found of one way to save."""
    numbers = f"{found.kills:>7}{found.unreadable:>12}{found.mixed:>7}{found.lost:>6}{found.left:>11}"
    return f"{name:30}{numbers}{1000 * statistics.median(found.times):>11.1f}"


def main(argv: list[str] | None = None) -> int:
    """Kill, print the table, and end with 1 if one of zoo's own saves left anything that it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of each way to save")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--only", action="append", choices=list(CASES), help="a way to save; may be repeated")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    here()  # asked for once, not in every child
    print(f"{'':30}{'kills':>7}{'unreadable':>12}{'mixed':>7}{'lost':>6}{'left over':>11}{'ms a save':>11}", flush=True)
    rows: list[tuple[str, Counts]] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ZOO_CACHE"] = cache
        for name in chosen.only or CASES:
            try:
                case = CASES[name]()
            except Skipped as reason:
                print(f"{name}: skipped, {reason}", flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = kill(case, chosen.kills, random.Random(chosen.seed), Path(folder))
            rows.append((case.name, found))
            print(line(case.name, found), flush=True)  # as they come: thousands of kills take hours
    peers = {"torch.save", "transformers save_pretrained", "timm save_for_hf"}
    ours = [found for name, found in rows if name not in peers]
    return int(any(found.unreadable or found.mixed or found.lost or found.left for found in ours))


if __name__ == "__main__":
    sys.exit(main())

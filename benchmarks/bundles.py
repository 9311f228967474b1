"""Bundles against the libraries' own files: load and save, the same weights, in one process, run in turn.

Loading: ``timm.create_model(checkpoint_path=…)`` of a safetensors file is 1.00 for every architecture; beside it stands
``from_pretrained`` of transformers where there is one, which maps the file and reads nothing of it. *verified* hashes
every byte; *again* loads the bundle a second time, its digests remembered; *unhashed* is the same with the hashing left
out, what *again* is compared with; *mapped* is a delta bundle whose backbone comes from the store; *head* the same with
the backbone of a model that is loaded already. Peak memory is the process's largest growth during a load, in units of
the tensors.

Disk: twenty heads, of two classes and of ten, on one frozen backbone as delta bundles, with the store, to one whole
model; beside it what the numbers alone would take, those of the backbone once and of each head, which no format can do
without.

Saving: the peer is the slower of ``safetensors.save_file`` + fsync, and BLAKE3 of the file. *rebuilt* is what proving
that the model can be loaded again takes; the first save of a structure in a process pays it, and *first* is that save.
The peers prove nothing. Peak memory is the growth during a save.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import timm
import torch
import transformers
from blake3 import blake3

import zoo
from zoo.bundle import folder, proving
from zoo.bundle.rebuilding import rebuild, states_of
from zoo.bundle.saving import native_files
from zoo.bundle.tensors import survey

CLASSES = 10
TIMM = ("mobilenetv3_large_100", "resnet50", "vit_base_patch16_224", "convnext_large")


def clock(run: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    kept = run()
    taken = time.perf_counter() - start
    del kept
    return taken


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(rounds):
        names = list(runs)
        for name in names if number % 2 else reversed(names):
            times[name].append(clock(runs[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def without(name: str, value: object, run: Callable[[], object]) -> Callable[[], object]:
    """Run with one method of a file that is open replaced."""

    def inner() -> object:
        kept = getattr(folder.OpenFile, name)
        setattr(folder.OpenFile, name, value)
        try:
            return run()
        finally:
            setattr(folder.OpenFile, name, kept)

    return inner


def grown(run: Callable[[], object]) -> int:
    """Give the largest growth of this process in a run, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = run()
    peak = _status("VmHWM") - before
    del kept
    return peak


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


def save_peer(tensors: dict[str, torch.Tensor], path: Path) -> None:
    safetensors.torch.save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def blake3_of(path: Path) -> str:
    return str(blake3().update_mmap(path).hexdigest())


def rebuilt(model: zoo.Model) -> object:
    """Do what a save does to know that its bundle can be loaded."""
    return rebuild(model.spec, survey(states_of(model)), texts=native_files(model), where="memory")


def forgetting(run: Callable[[], object]) -> object:
    """Run in a process that has rebuilt no structure."""
    proving._proven.clear()
    return run()


def measure(name: str, rounds: int, place: Path) -> None:
    head = zoo.head("classifier", classes=[str(n) for n in range(CLASSES)])
    model = zoo.build(f"timm:{name}", head, weights=None, seed=0)
    bundle = model.save(place / name)
    peer = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    tensors = {key: value.contiguous() for key, value in peer.state_dict().items()}
    whole = sum(tensor.nbytes for tensor in tensors.values())
    file = place / f"{name}.safetensors"
    save_peer(tensors, file)
    delta = model.save(place / f"{name}.delta", kind="delta", base=bundle)
    loaded = zoo.load(bundle)
    assert isinstance(loaded, zoo.Model)
    time.sleep(2.5)  # until then a file is too young for its digest to be remembered

    load = lambda: zoo.load(bundle)  # noqa: E731
    runs: dict[str, Callable[[], object]] = {
        "peer": lambda: timm.create_model(name, num_classes=CLASSES, checkpoint_path=str(file)),
        "verified": without("is_known", lambda _: False, load),
        "again": load,
        "unhashed": without("is_known", lambda _: True, load),
        "mapped": lambda: zoo.load(delta),
        "head": lambda: zoo.load(delta, sharing=loaded),
    }
    if name.startswith("vit_base"):
        hub = place / "vit"
        transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=CLASSES)).save_pretrained(hub)
        runs["from_pretrained"] = lambda: transformers.ViTForImageClassification.from_pretrained(hub)
    taken = interleaved(runs, rounds)
    ratios = " ".join(f"{one} {taken[one] / taken['peer']:.3f}" for one in runs if one != "peer")
    again = taken["again"] / taken["unhashed"]
    print(f"load {name} ({whole / 1e6:.0f} MB): timm {taken['peer']:.3f} s; {ratios}; again/unhashed {again:.3f}")
    peaks = {one: grown(runs[one]) / whole for one in ("peer", "verified")}
    print(f"  peak memory: timm {peaks['peer']:.2f}, ours {peaks['verified']:.2f} × the tensors")

    del peer
    other = place / f"{name}.new"
    saves: dict[str, Callable[[], object]] = {
        "save_file + fsync": lambda: save_peer(tensors, other),
        "blake3": lambda: blake3_of(file),
        "ours": lambda: model.save(bundle, overwrite=True, probe=False),
        "ours, first": lambda: forgetting(lambda: model.save(bundle, overwrite=True, probe=False)),
        "ours, with probe": lambda: model.save(bundle, overwrite=True),
        "delta": lambda: model.save(delta, overwrite=True, probe=False, kind="delta", base=model),
    }
    taken = interleaved(saves, max(3, rounds // 2))
    slower = max(taken["save_file + fsync"], taken["blake3"])
    told = ", ".join(f"{one} {seconds:.3f} s" for one, seconds in taken.items())
    proof = interleaved({"rebuilt": lambda: rebuilt(model)}, max(3, rounds // 2))["rebuilt"]
    again, first = (taken[one] / slower for one in ("ours", "ours, first"))
    print(f"save {name}: {told}; ratio {again:.2f}, first {first:.2f}; rebuilt {proof:.3f} s")
    peak = grown(saves["ours"]) / whole
    print(f"  peak memory: {peak:.2f} × the tensors", flush=True)


def many(name: str, place: Path, classes: int) -> None:
    """Put twenty heads on one frozen backbone, and print the disk that they take beside one whole model's."""
    heads = [zoo.head("classifier", classes=[str(n) for n in range(classes)]) for _ in range(20)]
    base = zoo.build(f"timm:{name}", heads[0], weights=None, seed=0)
    whole = place / "whole"
    base.save(whole, probe=False)
    os.environ["ZOO_STORE"] = str(place / "tasks" / "store")
    for number, head in enumerate(heads):
        model = zoo.build(f"timm:{name}", head, weights=None, seed=0)
        torch.nn.init.normal_(next(model.heads.parameters()), generator=torch.manual_seed(number))
        model.save(place / "tasks" / f"{number}", kind="delta", base=base, probe=False)
    one, all_of_them = (sum(f.stat().st_size for f in at.rglob("*") if f.is_file()) for at in (whole, place / "tasks"))
    numbers = [sum(tensor.nbytes for tensor in part.state_dict().values()) for part in (base.backbones, base.heads)]
    least = (numbers[0] + 20 * numbers[1]) / one
    told = f"twenty tasks of {classes} classes and the store {all_of_them / 1e6:.1f} MB"
    print(f"disk {name}: {told}; ratio {all_of_them / one:.3f} to one model; the numbers alone {least:.3f}", flush=True)


def main() -> None:
    """Run all architectures and print their lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=TIMM)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["ZOO_STORE"] = f"{place}/store"
        for name in arguments.names:
            measure(name, arguments.rounds, Path(place))
            for classes in (2, CLASSES):
                with tempfile.TemporaryDirectory() as inner:
                    many(name, Path(inner), classes)


if __name__ == "__main__":
    main()

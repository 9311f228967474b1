"""Graphs: how many times torch.compile breaks a backbone's graph, behind zoo's interface and without it.

One small architecture of each of timm's modules, of each torchvision family, and every type of transformers that takes
one picture. Nothing is computed where the library allows it: tensors are on the meta device, and the graph is only
drawn. A break that the native module has is its own; what counts is the number that the interface adds, which should
be 0.

    python benchmarks/graphs.py timm torchvision hf
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

import zoo
from zoo.catalog import catalog_of
from zoo.registry import registry

NONE, OWN, ADDED, FAILED = "none added", "the native module's own", "added", "no graph at all"


def references(provider: str) -> list[str]:
    """Give the slice: the smallest of each module or family, or every type."""
    entries = {entry.name: entry for entry in catalog_of(provider).entries}
    if provider == "hf":
        from zoo_huggingface.rules import RULES

        plain = [name for name, rule in RULES.items() if rule.takes in ("", "picture") and rule.sequence is None]
        return [f"hf:{name}" for name in plain]
    families: dict[str, tuple[float, str]] = {}
    for name, entry in entries.items():
        size = (float(entry.parameters or 1e12), name)
        family = family_of(provider, name)
        families[family] = min(families.get(family, size), size)
    return [f"{provider}:{name}" for _, name in sorted(families.values(), key=lambda one: one[1])]


def family_of(provider: str, name: str) -> str:
    if provider == "timm":
        from timm.models import _registry

        return str(_registry._model_to_module[name])
    from torchvision import models

    return str(models.get_model_builder(name).__module__)


def native_of(backbone: Any, provider: str) -> Callable[[torch.Tensor], Any]:
    """Call the library's module as its own users do."""
    native = backbone.native
    if provider == "timm" and hasattr(native, "get_classifier"):
        return lambda image: native.forward_head(native.forward_features(image), pre_logits=True)
    if provider == "hf":  # ours has been cut to what its spec gives
        from transformers import AutoModel

        native = AutoModel.from_config(native.config).eval()
    return lambda image: native(image)


def breaks(run: Callable[[torch.Tensor], Any], image: torch.Tensor) -> int:
    torch._dynamo.reset()
    with torch.no_grad():
        return int(torch._dynamo.explain(run)(image).graph_break_count)


def ask(reference: str) -> tuple[int, int]:
    """Count the breaks of zoo's pass and, if it has any, of the native module's."""
    try:
        return ask_on("meta", reference)
    except Exception:  # what dynamo and the libraries raise has no common type
        return ask_on("cpu", reference)


def ask_on(device: str, reference: str) -> tuple[int, int]:
    found = zoo.resolve(reference).reference
    provider = registry().provider(found.provider)
    spec = provider.spec(found)
    with torch.device(device):
        backbone = provider.build(spec, weights=None).eval()
        (entry, *_) = spec.inputs
        frames = (entry.length or 8,) if entry.kind == "video" else ()
        image = torch.zeros(1, entry.channels or 3, *frames, *(entry.size or (224, 224)))
        ours = breaks(lambda batch: backbone(batch).pooled, image)
        if not ours:
            return 0, 0
        native = breaks(native_of(backbone, found.provider), image)
    return ours, native


def main() -> None:
    """Ask all, print those that differ or fail, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("providers", nargs="*", default=["timm", "torchvision", "hf"])
    warnings.simplefilter("ignore")
    for provider in parser.parse_args().providers:
        counts = dict.fromkeys((NONE, OWN, ADDED, FAILED), 0)
        for line, kind in lines(provider):
            counts[kind] += 1
            if line:
                print(line, flush=True)
        print(provider, counts, flush=True)


def lines(provider: str) -> Iterator[tuple[str, str]]:
    for reference in references(provider):
        try:
            ours, native = ask(reference)
        except Exception as error:  # what dynamo and the libraries raise has no common type
            yield f"{reference:50} {type(error).__name__}: {' '.join(str(error).split())[:80]}", FAILED
            continue
        if native:  # a break in a call breaks each caller's graph, so ours may be one more
            yield f"{reference:50} the native module breaks it: ours {ours}, native {native}", OWN
        else:
            yield (f"{reference:50} breaks: {ours}", ADDED) if ours else ("", NONE)


if __name__ == "__main__":
    main()

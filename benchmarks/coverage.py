"""Coverage: every architecture of timm, torchvision and transformers, what we serve of it, and what peers serve.

Each architecture is asked in a worker process, on the meta device where that is possible: its spec, the module, one
pass, and whether shapes, layout and stages are what the spec says. Peers are asked the same in the same worker: timm's
``features_only``, segmentation-models-pytorch's ``tu-`` encoders and transformers' ``TimmBackbone`` for timm's names,
``AutoBackbone`` for transformers' types. A worker that dies or hangs costs its architecture only, and what was measured
is kept: start it again to go on.

    python benchmarks/coverage.py timm torchvision hf --jobs 2      # what we serve
    python benchmarks/coverage.py timm hf --what peers              # what peers serve
    python benchmarks/coverage.py timm --what values --most 40e6    # our numbers against timm's, on real tensors
    python benchmarks/coverage.py --table                           # the table of all that was swept
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from coverage_peers import first_line, guarded, timm_peers, transformers_peers

RESULTS = Path(__file__).parent / "results" / "coverage.jsonl"
LIMIT = 300
"""Seconds that one architecture may take."""
LARGEST = 1e9
"""Parameters up to which a model is asked with real tensors."""
SMALL = {"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "vocab_size": 1000, "num_experts": 8}
SMALL |= {"num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8}
MEMORY = 12 * 2**30
"""Address space that a worker may use beyond what its libraries need, in bytes."""


# --- what there is, from the libraries themselves


def names_of(provider: str) -> list[str]:
    if provider == "timm":
        import timm

        return list(timm.list_models())
    if provider == "torchvision":
        from torchvision import models

        return list(models.list_models())
    return list(model_types())


def main_inputs(cls: Any) -> str:
    """Name what a class takes: its main input, and texts or pictures where it takes both."""
    taken = inspect.signature(cls.forward).parameters
    main = cls.main_input_name if isinstance(cls.main_input_name, str) else ", ".join(cls.main_input_name)
    beside = {"pixel_values": "input_ids", "input_ids": "pixel_values"}.get(main)
    return f"{main}, {beside}" if beside in taken else main


def model_types() -> dict[str, str]:
    """Give transformers' model types that have a class for features, each with what it takes if that can be seen."""
    from transformers.models.auto import modeling_auto as auto

    found: dict[str, str] = {}
    for mapping in (auto.MODEL_FOR_BACKBONE_MAPPING, auto.MODEL_MAPPING):
        for model_type, class_name in mapping._model_mapping.items():
            try:
                cls = mapping._load_attr_from_module(model_type, class_name)
                cls = cls[0] if isinstance(cls, (list, tuple)) else cls
                found[model_type] = main_inputs(cls)
            except Exception:  # a missing dependency has no common type
                found[model_type] = "unknown"
    return dict(sorted(found.items()))


# --- asking


def ours(reference: str) -> dict[str, Any]:
    """Ask zoo without memory; what must see numbers is asked with real tensors, or a small one in its stead."""
    import zoo
    from zoo.registry import registry

    found = zoo.resolve(reference).reference
    spec = registry().provider(found.provider).spec(found)
    ways = [(found, "meta", "meta"), (found, "meta", "cpu")]
    if spec.parameters <= LARGEST:
        ways.append((found, "cpu", "cpu"))
    elif found.provider == "hf":
        ways.append((shrunk(found), "cpu", "cpu"))
    tried: list[str] = []
    for asked, device, inner in ways:
        try:
            return checked(spec if asked is found else None, asked, device, inner)
        except AssertionError:
            raise
        except Exception as error:  # what a pass raises has no common type
            tried.append(first_line(error))
    raise RuntimeError(tried[-1])


def shrunk(reference: Any) -> Any:
    """Make a model type small by its config's own fields: fewer layers, experts and tokens, the same widths."""
    from dataclasses import replace

    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[reference.name]()
    if reference.part is not None:
        config = getattr(config, f"{reference.part}_config", config)
    same = {old for old in config.attribute_map if old in SMALL}  # two names of one field
    small: dict[str, Any] = {
        n: most for n, most in SMALL.items() if n not in same and (getattr(config, n, None) or 0) > most
    }
    small |= {
        n: json.dumps(getattr(config, n)[:2]) for n in ("layer_types", "mlp_layer_types") if getattr(config, n, 0)
    }
    if (getattr(config, "pad_token_id", None) or 0) >= SMALL["vocab_size"]:
        small["pad_token_id"] = 0
    return replace(reference, options={**small, **reference.options})


def checked(spec: Any, reference: Any, device: str, inner: str) -> dict[str, Any]:
    """Build a backbone, run it once, and compare what comes out with its spec.

    Args:
        spec: The spec; measured here if it is None.
        reference: What to build.
        device: Where its tensors are.
        inner: Where tensors are that the pass itself makes.
    """
    import torch

    from zoo.contracts.examples import example_input
    from zoo.registry import registry
    from zoo.testing.backbones.subject import everything

    provider = registry().provider(reference.provider)
    spec = spec or provider.spec(reference)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        entry.name: example_input(entry, 1, generator, size=entry.size).to(device)
        for entry in spec.inputs
        if entry.required
    }
    with torch.no_grad():
        with torch.device(device):
            backbone = provider.build(spec, weights=None).eval()
        with torch.device(inner), mixed(device):
            features = backbone(inputs, everything(spec))
    faults = list(mismatches(spec, backbone, next(iter(inputs.values())), features))
    if faults:
        raise AssertionError("; ".join(faults[:3]))
    return {
        "reference": str(reference),
        "modality": spec.modality,
        "where": device,
        "parameters": spec.parameters,
        "pooled": spec.pooled_dim,
        "pooling": spec.pooling,
        "maps": [[stage.name, stage.channels, stage.reduction] for stage in spec.maps],
        "tokens": spec.token_dim,
        "stages": len(spec.stages),
        "capabilities": list(spec.capabilities),
        "preprocessing": spec.preprocessing is not None,
    }


def mixed(device: str) -> Any:
    """Let what has no numbers meet grids and positions that a pass makes with numbers, as measuring a spec does."""
    from zoo_huggingface.shadowing import Shadow

    return Shadow() if device == "meta" else nullcontext()


def mismatches(spec: Any, backbone: Any, main: Any, features: Any) -> Iterable[str]:
    """Say where what came out is not what the spec says."""
    if "pooled" in spec.capabilities and tuple(features.pooled.shape) != (1, spec.pooled_dim):
        yield f"pooled is {tuple(features.pooled.shape)}, the spec says {spec.pooled_dim}"
    for stage in spec.maps:
        found = features.maps[stage.name]
        sides = [side / stage.reduction for side in main.shape[-2:]]
        near = found.ndim == 4 and all(abs(a - b) < 1.01 for a, b in zip(sides, found.shape[-2:], strict=True))
        if not near or found.shape[1] != stage.channels:
            yield f"map {stage.name} is {tuple(found.shape)}, the spec says {stage.channels} at 1/{stage.reduction}"
    if features.tokens is not None and features.tokens.shape[-1] != spec.token_dim:
        yield f"tokens are {tuple(features.tokens.shape)}, the spec says {spec.token_dim}"
    known = {stage.name for stage in spec.stages}
    for name in (*dict(backbone.native.named_parameters()), *dict(backbone.native.named_buffers())):
        if backbone.stage_of(name) not in known:
            yield f"{name} has the stage {backbone.stage_of(name)}, which the spec does not have"


def equal_values(reference: str, most: float) -> dict[str, Any]:
    """Compare a timm backbone with timm itself on equal random weights and a real picture."""
    import timm
    import torch

    import zoo
    from zoo.contracts.examples import example_inputs
    from zoo.registry import registry
    from zoo.testing.backbones.subject import everything

    found = zoo.resolve(reference).reference
    provider = registry().provider("timm")
    spec = provider.spec(found)
    if spec.parameters > most:
        return {"compared": False, "parameters": spec.parameters}
    backbone = provider.build(spec, weights=None).eval()
    native: Any = timm.create_model(spec.architecture, num_classes=0).eval()
    native.load_state_dict(backbone.native.state_dict(), strict=True)
    image = next(iter(example_inputs(spec, batch=1).values()))
    with torch.no_grad():
        features = backbone(image, everything(spec))
        final = native.forward_features(image)
        pooled_alone = backbone(image).pooled
        if hasattr(native, "get_classifier"):
            pooled = native.forward_head(final, pre_logits=True)
        else:  # timm's encoders without a head of their own
            space = (1, 2) if getattr(native, "output_fmt", "NCHW") == "NHWC" else (2, 3)
            pooled = final.mean(1) if final.ndim == 3 else final.mean(space)
        maps = native.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
    for name, buffer in native.named_buffers():
        if not torch.equal(buffer, backbone.native.get_buffer(name)):
            raise AssertionError(f"the buffer {name} differs")
    if not (torch.equal(pooled, features.pooled) and torch.equal(pooled, pooled_alone)):
        raise AssertionError(f"pooled differs by {float((pooled - features.pooled).abs().max())}")
    taken = {tap["stage"]: tap["index"] for tap in spec.construction["taps"]}
    for stage in spec.maps:
        index = taken[stage.name]
        if not torch.equal(features.maps[stage.name], maps[index]):
            raise AssertionError(f"map {stage.name} differs from intermediate {index}")
    return {"compared": True, "parameters": spec.parameters}


def ask(provider: str, name: str, what: str, most: float) -> dict[str, Any]:
    if what == "values":
        return {"values": guarded(lambda: equal_values(f"{provider}:{name}", most))}
    if what == "peers":
        return timm_peers(name) if provider == "timm" else transformers_peers(name)
    if provider != "hf":
        return {"ours": {f"{provider}:{name}": guarded(lambda: ours(f"{provider}:{name}"))}}
    from zoo_huggingface.rules import COMPOSITES, PARTS

    parts = {**COMPOSITES.get(name, {}), **PARTS.get(name, {})}
    references = [f"hf:{name}#{part}" for part in parts] or [f"hf:{name}"]
    answers = {one: guarded(lambda one=one: ours(one)) for one in references}
    return {"ours": answers, "takes": model_types()[name]}


def work(provider: str, what: str, most: float) -> None:
    """Answer one name a line, until there are no more."""
    import resource

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    names_of(provider)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        start = time.monotonic()
        answer = ask(provider, line.strip(), what, most)
        answers.write(json.dumps({**answer, "seconds": round(time.monotonic() - start, 2)}) + "\n")
        answers.flush()


# --- the sweep


def sweep(provider: str, what: str, *, jobs: int, most: float, results: Path) -> None:
    title = f"{provider} {what}"
    known = {row["name"] for row in read(results) if row["sweep"] == title}
    waiting: Queue[str] = Queue()
    for name in names_of(provider):
        if name not in known:
            waiting.put(name)
    total, lock = waiting.qsize(), threading.Lock()
    results.parent.mkdir(parents=True, exist_ok=True)

    def keep(name: str, answer: dict[str, Any]) -> None:
        with lock, results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sweep": title, "name": name, **answer}) + "\n")
            print(f"\r{title}: {total - waiting.qsize()} of {total}", end="", file=sys.stderr)

    def serve() -> None:
        command = [sys.executable, __file__, provider, "--worker", "--what", what, "--most", str(most)]
        process: subprocess.Popen[str] | None = None
        while True:
            try:
                name = waiting.get_nowait()
            except Empty:
                break
            if process is None or process.poll() is not None:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            assert process.stdin is not None
            assert process.stdout is not None
            stopper = threading.Timer(LIMIT, process.kill)
            stopper.start()
            try:
                process.stdin.write(name + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            stopper.cancel()
            died = {"died": f"the worker ended with {process.wait()} or took more than {LIMIT} s"} if not line else {}
            keep(name, json.loads(line) if line else died)
        if process is not None:
            process.kill()

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(file=sys.stderr)


def read(results: Path) -> list[dict[str, Any]]:
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Sweep, or print the table of what was swept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("providers", nargs="*", choices=["timm", "torchvision", "hf", []])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--what", choices=["ours", "peers", "values"], default="ours")
    parser.add_argument("--most", type=float, default=40e6, help="parameters up to which numbers are compared")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table, and sweep nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.providers[0], arguments.what, arguments.most)
        return
    if not arguments.table:
        for provider in arguments.providers:
            sweep(provider, arguments.what, jobs=arguments.jobs, most=arguments.most, results=arguments.results)
    from coverage_table import table

    print(table(read(arguments.results)))


if __name__ == "__main__":
    main()

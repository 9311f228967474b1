"""A trial of a planned module: where its stages end, what gives its features, and which of its parts never run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import inf, lcm
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.contracts.features import Features, Want
from zoo.errors import ConfigError
from zoo.spec import InputSpec
from zoo_huggingface.cutting import bearable, cut, idle_parts, under
from zoo_huggingface.natives import create
from zoo_huggingface.plans import Plan
from zoo_huggingface.reading import Reader
from zoo_huggingface.reading.layouts import first_tensor
from zoo_huggingface.reading.recording import record
from zoo_huggingface.shadowing import Shadow
from zoo_huggingface.sources import first_line
from zoo_huggingface.stages import Tap, choose_taps, find_blocks, shape_of, stage_map
from zoo_huggingface.tracing import LARGEST, Trace, trace, used_by

__all__ = ["Anatomy", "Idle", "Trial", "dissect", "recorded"]

T = TypeVar("T")

_STRIDE = 64
"""What the sides of a free trial picture are multiples of, in pixels: then no stride of a pyramid leaves a rest."""

_POOLER = ("pooler", "eos", "merged")


@dataclass(frozen=True, slots=True)
class Idle:
    """What is idle if one output alone is wanted.

    Args:
        gone: Paths of modules and parameters that may be cut off.
        resting: Names of parameters that are read, but that it does not learn through.
    """

    gone: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a trial pass shows, as a bundle keeps it.

    Args:
        taps: Where the stages end.
        sources: ``last`` and ``pooler``, each to the path of the module that gives it, where one does.
        unused: Paths of modules and parameters that no feature rests on; they are not there.
        resting: Names of parameters that are read, but that no feature learns through; they are buffers.
        begins: Path of the module in which the first stage after the stem begins; empty if there is none.
        moved: Path to stage, for what is defined out of the order in which it runs.
        idle: Output to what is idle for it: ``pooled``, ``tokens``, ``embed``, and the stages that have a map.
    """

    taps: tuple[Tap, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    begins: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Idle] = field(default_factory=dict)

    def idle_for(self, want: Want) -> Idle:
        """Say what is idle if this is wanted: what is idle for each output of it."""
        each = [self.idle.get(output, Idle()) for output in _singly(want)]
        gone = {path for one in each for path in one.gone if all(under(path, other.gone) for other in each)}
        resting = {
            name
            for one in each
            for name in one.resting
            if not under(name, gone) and all(name in other.resting or under(name, other.gone) for other in each)
        }
        return Idle(tuple(sorted(gone)), tuple(sorted(resting)))

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "taps": [asdict(tap) for tap in self.taps],
            "sources": dict(self.sources),
            "unused": list(self.unused),
            "resting": list(self.resting),
            "begins": self.begins,
            "moved": dict(self.moved),
            "idle": {
                output: {"gone": list(one.gone), "resting": list(one.resting)} for output, one in self.idle.items()
            },
        }

    @classmethod
    def read(cls, who: str, construction: Mapping[str, Any]) -> Anatomy:
        """Read it from a spec's construction, which may come from a stranger's bundle.

        Raises:
            ConfigError: If it is not what zoo writes.
        """
        try:
            taps = tuple(Tap(**tap) for tap in construction["taps"])
            unused = tuple(str(path) for path in construction["unused"])
            resting = tuple(str(name) for name in construction["resting"])
            sources, moved = dict(construction["sources"]), dict(construction["moved"])
            begins = str(construction["begins"])
            idle = {
                str(output): Idle(tuple(map(str, one["gone"])), tuple(map(str, one["resting"])))
                for output, one in construction["idle"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{who}: the stages in its construction are not complete: {error}.") from error
        stages = {"stem", "post", *(tap.stage for tap in taps)}
        if not set(moved.values()) <= stages:
            raise ConfigError(f"{who}: its construction moves parts to stages that it does not have.")
        return cls(taps, sources, unused, resting, begins, moved, idle)


@dataclass(slots=True)
class Trial:
    """A module that ran once.

    Args:
        native: The module, whole.
        reader: Reads it.
        trace: The order in which its parts ran.
        want: All that it gives.
        features: What it gave.
    """

    native: nn.Module
    reader: Reader
    trace: Trace
    want: Want
    features: Features


def dissect(who: str, plan: Plan, takes: str, inputs: tuple[InputSpec, ...]) -> tuple[Anatomy, Trial]:
    """Run a planned module once, without memory where it can be, and say what it is made of.

    Raises:
        ConfigError: If it cannot be built or run; the message has the type and the reason.
    """
    return _somewhere(who, plan, lambda device, inner: _dissect(who, plan, takes, inputs, device, inner))


def recorded(plan: Plan, anatomy: Anatomy) -> list[str]:
    """Name the inner modules whose outputs the features are read from."""
    named = [rule[1:] for rule in (plan.rule.last, plan.rule.pooler) if rule.startswith("@")]
    return [*(tap.source for tap in anatomy.taps if tap.source), *anatomy.sources.values(), *named]


def example(plan: Plan, inputs: tuple[InputSpec, ...], device: str) -> dict[str, Tensor]:
    """Make zeros of the main input, for one sample; of a size that strides divide, where the size is free."""
    main, rule = inputs[0], plan.rule
    trial = min(rule.sequence.trial if rule.sequence is not None else 8, main.length or inf)
    length = main.length if main.length and (main.fixed_length or main.kind == "video") else trial
    middle = (main.channels,) if main.channels is not None else ()
    sides = main.size or (224, 224)
    if rule.resize == "free":
        step = lcm(main.divisor, _STRIDE)
        sides = (-(-sides[0] // step) * step, -(-sides[1] // step) * step)
    shape = {
        "image": (*middle, *sides),
        "video": (*middle, length, *sides),
        "spectrogram": (*middle, length),
    }.get(main.kind, (length,))
    dtype = torch.int64 if main.dtype.startswith("int") else torch.float32
    return {main.name: torch.zeros(1, *shape, dtype=dtype, device=device)}


def _somewhere(who: str, plan: Plan, run: Callable[[str, torch.device], T]) -> T:
    """Try without memory; then with what the pass makes itself on the CPU; then, for what needs numbers, with them all.

    Args:
        who: The reference, for messages.
        plan: Which module it is.
        run: Takes the device of module and inputs, and that of what the pass makes itself.
    """
    reason = ""
    for device, inner in (("meta", "meta"), ("meta", "cpu"), ("cpu", "cpu")):
        if device == "cpu" and (count := _parameters(who, plan)) > LARGEST:
            reason = f"without numbers it says: {reason} With them it is too large, {count / 1e9:.1f} G parameters."
            break
        try:
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
                return run(device, torch.device(inner))
        except ConfigError:
            raise
        except Exception as error:  # what a forward pass raises has no common type
            reason = first_line(error)
    raise ConfigError(f"{who}: {plan.model_type!r} cannot be served: its pass fails: {reason}")


def _parameters(who: str, plan: Plan) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create(who, plan).parameters())


def _dissect(
    who: str, plan: Plan, takes: str, inputs: tuple[InputSpec, ...], device: str, inner: torch.device
) -> tuple[Anatomy, Trial]:
    with torch.device(device):
        rule, native = plan.rule, create(who, plan).eval()
    batch = example(plan, inputs, device)
    blocks = find_blocks(plan, native)
    stem = f"{rule.tower}.{rule.stem}".lstrip(".") if rule.stem else ""
    named = [where[1:] for where in (rule.last, rule.pooler) if where.startswith("@")]
    stem = stem if stem in dict(native.named_modules()) else ""
    record(native, [*(member for members in blocks for member in members), *([stem] if stem else []), *named])
    reader = Reader(plan, native.config, takes)
    found = trace(native, reader, batch, inner)
    assert found.reading is not None
    shapes = {}
    for path, output in found.reading.seen.items():
        tensor = first_tensor(output, rule.pick if path != stem else 0)
        if tensor is not None:
            shapes[path] = shape_of(tensor) or ()
    reader.taps = choose_taps(rule, blocks, stem, shapes)
    sources = {name: found.maker(reader.value(found.reading, name)) for name in _asked(plan, reader, found)}
    reader.sources = {name: path for name, path in sources.items() if path}
    want = _everything(reader, found)
    features = reader.read(found.reading, want)
    used = used_by(native, _roots(features))
    unused, resting = _idle_and_bearable(native, reader, found, batch, used, _stop(plan, reader, found, want), inner)
    begins, moved = _order(native, reader, found, blocks)
    idle = _idle_for_each(plan, native, reader, found, batch, want, inner)
    idle = {
        output: Idle(
            tuple(path for path in one.gone if not under(path, unused)),
            tuple(name for name in one.resting if name not in resting and not under(name, unused)),
        )
        for output, one in idle.items()
    }
    anatomy = Anatomy(tuple(reader.taps), reader.sources, tuple(unused), tuple(resting), begins, moved, idle)
    return anatomy, Trial(native, reader, found, want, features)


def _idle_for_each(
    plan: Plan,
    native: nn.Module,
    reader: Reader,
    found: Trace,
    batch: Mapping[str, Tensor],
    all_of_it: Want,
    inner: torch.device,
) -> dict[str, Idle]:
    """Say of each output what is idle when nothing else is wanted."""
    assert found.reading is not None
    idle = {}
    for output, want in _singly(all_of_it).items():
        used = used_by(native, _roots(reader.read(found.reading, want)))
        gone, resting = _idle_and_bearable(native, reader, found, batch, used, _stop(plan, reader, found, want), inner)
        idle[output] = Idle(tuple(gone), tuple(resting))
    return idle


def _singly(want: Want) -> dict[str, Want]:
    found = {stage: Want(pooled=False, maps=(stage,)) for stage in want.maps}
    found |= {"pooled": Want()} if want.pooled else {}
    found |= {"tokens": Want(pooled=False, tokens=True)} if want.tokens else {}
    return found | ({"embed": Want(pooled=False, embed=True)} if want.embed else {})


def _asked(plan: Plan, reader: Reader, found: Trace) -> list[str]:
    return ["last", "pooler"] if plan.pooling in _POOLER else ["last"]


def _everything(reader: Reader, found: Trace) -> Want:
    assert found.reading is not None
    last = reader.last(found.reading)
    tokens = last.ndim == 3 and (reader.takes in ("clip", "sequence") or reader.grid(found.reading, last) is not None)
    maps = []
    for tap in reader.taps:
        if tap.source:
            maps.append(tap.stage)
    return Want(tokens=tokens, maps=tuple(maps), embed=reader.plan.rule.projection is not None)


def _roots(features: Features) -> list[Tensor]:
    given = [features.pooled, features.tokens, features.prefix, features.embed, *features.maps.values()]
    return [tensor for tensor in given if tensor is not None]


def _stop(plan: Plan, reader: Reader, found: Trace, want: Want) -> float:
    """Give the moment after which nothing is wanted; endless where that rests on the whole pass."""
    paths = [tap.source for tap in reader.taps if tap.stage in want.maps]
    if want.pooled or want.embed:
        paths.append(_path(plan, reader, "pooler" if plan.pooling in _POOLER else "last"))
    if want.tokens:
        paths.append(_path(plan, reader, "last"))
    return max((found.ends.get(path, inf) if path else inf for path in paths), default=inf)


def _path(plan: Plan, reader: Reader, name: str) -> str:
    where = {"last": plan.rule.last, "pooler": plan.rule.pooler}[name]
    return where[1:] if where.startswith("@") else reader.sources.get(name, "")


def _idle_and_bearable(
    native: nn.Module,
    reader: Reader,
    found: Trace,
    batch: Mapping[str, Tensor],
    used: set[str],
    stop: float,
    inner: torch.device,
) -> tuple[list[str], list[str]]:
    def runs(paths: list[str]) -> bool:
        kept = [(native.get_submodule(owner), name, _take(native, path)) for path in paths
                for owner, _, name in [path.rpartition(".")]]  # fmt: skip
        cut(native, paths)
        try:
            with torch.no_grad(), inner, Shadow():
                reader.run(native, batch)
            return True
        except Exception:  # what a forward pass raises has no common type
            return False
        finally:
            for holder, name, part in kept:
                (holder._parameters if isinstance(part, nn.Parameter) else holder._modules)[name] = part

    gone = bearable(idle_parts(native, found, used, stop), runs)
    left = [name for name, parameter in native.named_parameters() if parameter.requires_grad and name not in used]
    return gone, [name for name in left if not under(name, gone)]


def _take(native: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    holder = native.get_submodule(owner)
    return holder._parameters[name] if name in holder._parameters else holder._modules[name]


def _order(native: nn.Module, reader: Reader, found: Trace, blocks: list[list[str]]) -> tuple[str, dict[str, str]]:
    """Find where the first stage begins, and the stage of what is defined out of the order in which it runs."""
    taps = [tap for tap in reader.taps if tap.stage != "stem"]
    if not taps:
        return "", {}
    moments = [found.ends[tap.module] for tap in taps]
    ran = reader.plan.rule.begin or next(path for members in blocks for path in members if path in found.starts)
    begins = next((path for path in _above(ran) if found.ends.get(path, moments[0] + 1) <= moments[0]), ran)
    plain, first = stage_map(native, taps, begins, {}), found.starts[begins]

    def stage(moment: int) -> str:
        if moment < first:
            return "stem"
        return next((tap.stage for tap, end in zip(taps, moments, strict=True) if moment <= end), "post")

    moved: dict[str, str] = {}

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            here = path + name
            began, ended = found.starts.get(here), found.ends.get(here)
            if began is None or ended is None or stage(began) != stage(ended):
                visit(child, here + ".")
                continue
            inner = [here, *(f"{here}.{key}" for key, _ in child.named_parameters())]
            inner += [f"{here}.{key}" for key, _ in child.named_modules() if key]
            if any(plain[key] != stage(began) for key in inner):
                moved[here] = stage(began)

    visit(native, "")
    return begins, moved


def _above(path: str) -> list[str]:
    """List the modules around a path, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]

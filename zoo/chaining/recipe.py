"""A chain as data: what its steps are, read strictly, and checked before anything is trained."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zoo.chaining.acting import ACTS
from zoo.errors import ConfigError, UnknownName, nearest
from zoo.registry import registry
from zoo.strict import check_options, from_json

__all__ = ["Built", "Chain", "ChainStep", "read_chain"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_EARLIER = "step:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A new model, as ``zoo.build`` makes it.

    Args:
        backbone: The reference of the only backbone.
        streams: Stream name to reference, for a model with several.
        inputs: The one input that all streams see, or stream name to input.
        share: New stream to the stream whose module it runs too.
        weights: ``pretrained``, ``none``, or a safetensors file.
    """

    backbone: str | None = None
    streams: dict[str, str] | None = None
    inputs: str | dict[str, str] | None = None
    share: dict[str, str] | None = None
    weights: str = "pretrained"

    def __post_init__(self) -> None:
        """Check that there is one backbone, or several."""
        if (self.backbone is None) == (self.streams is None):
            raise ConfigError("A model of a chain must have a backbone or streams; give one of them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStep:
    """A step: what it does to the model that the step before left; one of the acts must be given.

    Args:
        name: What it is called; the name of its folder, and what later steps call it by.
        build: A new model to do it to, such as a student, with the heads of the chain.
        data: Other rows than the chain's.
        fit: Options of ``zoo.fit``; the method's own under ``settings``.
        prune: Options of ``zoo.prune``.
        quantize: Options of ``zoo.quantize``.
        export: Options of ``zoo.export``.
    """

    name: str
    build: Built | None = None
    data: str | None = None
    fit: dict[str, Any] | None = None
    prune: dict[str, Any] | None = None
    quantize: dict[str, Any] | None = None
    export: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the name and that one act is given."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"A step's name must be letters, digits, - and _, 40 at the most, beginning with one of the first two; "
                f"got {self.name!r}."
            )
        given = [act for act in ACTS if getattr(self, act) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ConfigError(f"The step {self.name!r} must do one thing ({', '.join(ACTS)}), got {got}.")
        if self.data is not None and self.act == "export":
            raise ConfigError(f"The step {self.name!r} exports, and looks at no data; leave data out.")

    @property
    def act(self) -> str:
        """What it does."""
        return next(act for act in ACTS if getattr(self, act) is not None)

    @property
    def options(self) -> dict[str, Any]:
        """What it does it with."""
        return dict(getattr(self, self.act))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of steps.

    Args:
        data: Folder of class folders, or table; paths are relative to where the chain runs.
        steps: The steps, in their order.
        model: The model that the first step gets.
        heads: The heads: a type, or type, name and settings; None for those that the data calls for.
        targets: Columns to learn.
        image: Column of the pictures.
        split: Column of train, validation and test.
        test: Share of the rows by which every step is measured, where the data gives no test rows, in (0, 1).
        seed: Seed of new weights, splits and runs, 0 or more.
    """

    data: str
    steps: tuple[ChainStep, ...]
    model: Built
    heads: tuple[str | dict[str, Any], ...] | None = None
    targets: tuple[str, ...] | None = None
    image: str | None = None
    split: str | None = None
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the steps, their names, options and references to one another."""
        if not self.steps:
            raise ConfigError("A chain must have one step or more, got none.")
        if not 0 < self.test < 1:
            raise ConfigError(f"test must be a share of the rows in (0, 1), got {self.test!r}.")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}.")
        before: list[str] = []
        for step in self.steps:
            if step.name in before:
                raise ConfigError(f"Two steps of the chain are called {step.name!r}; each needs a name of its own.")
            check_step(step, before)
            before.append(step.name)


def check_step(step: ChainStep, before: list[str]) -> None:
    """Refuse options that the step's act does not take, settings that its method does not, and unknown steps.

    Raises:
        UnknownName: If there is no such option, method, setting or earlier step.
        ConfigError: If a setting cannot be used.
    """
    options, act = step.options, ACTS[step.act]
    known = set(inspect.signature(act.function()).parameters) - act.reserved
    check_options(f"The step {step.name!r} ({step.act})", options, known)
    for name in earlier(options):
        if name not in before:
            near = ", ".join(nearest(name, before) or before) or "none"
            raise UnknownName(f"The step {step.name!r} refers to the step {name!r}; before it are: {near}.")
    if step.act == "fit":
        method, settings = options.get("method", "fine_tuning"), options.get("settings", {})
        if not isinstance(settings, Mapping):
            raise ConfigError(f"settings of the step {step.name!r} must be names and values, got {settings!r}.")
        kind = registry().method_class(method)
        check_options(f"The method {method!r}", settings, {field.name for field in fields(kind)})
        if not any(earlier(settings)):
            kind.with_settings(method, settings)
    if not any(earlier(value) for name, value in options.items() if name != "settings"):
        try:
            act.check(options)
        except UnknownName:
            raise
        except ConfigError as error:
            raise ConfigError(f"The step {step.name!r} ({step.act}): {error}") from error


def earlier(value: Any) -> list[str]:
    """List the steps to which options refer, as ``step:name``."""
    if isinstance(value, str):
        return [value.removeprefix(_EARLIER)] if value.startswith(_EARLIER) else []
    held = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [name for each in held for name in earlier(each)]


def settled(value: Any, bundles: Mapping[str, Path]) -> Any:
    """Put the folders of earlier steps in the place of ``step:name``."""
    if isinstance(value, str) and value.startswith(_EARLIER):
        return str(bundles[value.removeprefix(_EARLIER)])
    if isinstance(value, Mapping):
        return {key: settled(each, bundles) for key, each in value.items()}
    return [settled(each, bundles) for each in value] if isinstance(value, (list, tuple)) else value


def read_chain(path: str | Path) -> Chain:
    """Read a chain, YAML or JSON.

    Raises:
        ConfigError: If it cannot be read, or says something that no chain says.
        UnknownName: If an option, a method or a step that it names is not there.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{path} cannot be read as YAML or JSON: {reason}.") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} must hold data, model and steps by name.")
    check_options(f"The chain {path}", found, {field.name for field in fields(Chain)})
    return from_json(Chain, found, called=str(path))


def told(chain: Chain, number: int) -> dict[str, Any]:
    """Give all that decides what a step of a chain leaves: the chain without its steps, and those up to this one."""
    whole = asdict(chain)
    return {**whole, "steps": whole["steps"][: number + 1]}


# pydantic reads it, the dataclasses do not know it
for _kind in (Built, ChainStep, Chain):
    setattr(_kind, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010

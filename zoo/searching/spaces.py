"""What is searched: networks of blocks, or a backbone with its head, method and rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, final

from zoo.catalog import list_backbones, resolve
from zoo.errors import ConfigError, UnknownName
from zoo.reference import Reference
from zoo.searching.choices import Choice, Pick, Range, label, one_of, read_choice, read_range
from zoo.strict import check_options

__all__ = ["BlockSpace", "BlockStage", "Candidate", "Space", "ZooSpace", "read_space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One point of a space.

    Args:
        reference: The backbone.
        heads: Settings of its heads; empty for those that the data calls for.
        weights: ``pretrained`` or None for random ones.
        fit: Settings of ``zoo.fit``, the method among them.
    """

    reference: str
    heads: tuple[Mapping[str, Any], ...] = ()
    weights: str | None = None
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What two candidates that are the same agree in, as text."""
        return label([self.reference, list(self.heads), self.weights, dict(self.fit)])


class Space(ABC):
    """What can be searched. Its draws define it: which choices there are may depend on what was picked before."""

    scored = False
    """Whether scores of untrained networks tell its candidates apart."""

    @abstractmethod
    def draw(self, pick: Pick) -> Candidate:
        """Make a candidate of what is picked; a name is given to ``pick`` once, and always with the same choice."""

    @abstractmethod
    def trained_by(self) -> Mapping[str, tuple[str, ...]]:
        """Give the methods by which its candidates may be trained, and the settings that are chosen for each."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values, which :func:`read_space` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStage:
    """What one stage of a network of blocks may be; all its blocks are alike but for the stride of the first.

    Args:
        kernel: Height and width of the depthwise kernels, odd.
        expansion: Channels inside a block, as multiples of those that come in; 1 makes it a depthwise separable block.
        depth: Number of blocks.
        width: Channels that go out.
        se: Squeeze-and-excitation: its share of the block's input channels, 0 for none.
        activation: ``re``, ``r6``, ``hs``, ``sw`` or ``mi``: ReLU, ReLU6, hard swish, swish, mish.
        stride: Stride of the first block, 1 or 2.

    Raises:
        ConfigError: If a choice is empty, or a value is none that a block can have.
    """

    kernel: tuple[int, ...] = (3, 5)
    expansion: tuple[float, ...] = (3, 4, 6)
    depth: tuple[int, ...] = (1, 2, 3)
    width: tuple[int, ...]
    se: tuple[float, ...] = (0, 0.25)
    activation: tuple[str, ...] = ("re", "hs")
    stride: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        """Check what there is to choose."""
        for one in fields(self):
            given = getattr(self, one.name)
            values = one_of(f"The stage's {one.name}", given if isinstance(given, (list, tuple)) else (given,))
            least, whole, what = _LETTERS[one.name]
            for value in values:
                if one.name == "activation":
                    good = value in _ACTIVATIONS
                else:
                    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least
                    good = good and (not whole or isinstance(value, int))
                    good = good and {"kernel": value % 2 == 1, "se": value <= 1, "stride": value <= 2}.get(
                        one.name, True
                    )
                if not good:
                    raise ConfigError(f"The stage's {one.name} must be {what}, got {value!r}.")
            object.__setattr__(self, one.name, values)


_ACTIVATIONS = ("re", "r6", "hs", "sw", "mi")
# Choice of a stage -> its least value, whether it is whole, and what it is.
_LETTERS: dict[str, tuple[float, bool, str]] = {
    "kernel": (1, True, "an odd number of pixels"),
    "expansion": (1, False, "1 or more"),
    "depth": (1, True, "a whole number, 1 or more"),
    "width": (1, True, "a whole number of channels, 1 or more"),
    "se": (0, False, "from 0 to 1"),
    "activation": (0, False, f"one of {', '.join(_ACTIVATIONS)}"),
    "stride": (1, True, "1 or 2"),
}

MOBILE = (
    BlockStage(width=(16, 24), expansion=(1,), depth=(1,), se=(0,), stride=(1,)),
    BlockStage(width=(24, 32), depth=(1, 2, 3)),
    BlockStage(width=(32, 40, 48), depth=(1, 2, 3)),
    BlockStage(width=(64, 80, 96), depth=(1, 2, 3, 4)),
    BlockStage(width=(96, 112, 128), depth=(1, 2, 3), stride=(1,)),
    BlockStage(width=(160, 192), depth=(1, 2, 3)),
)
"""Stages about MnasNet's and MobileNetV3's own: 2 · 10**12 networks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpace(Space):
    """Networks of MobileNet-like blocks, in stages of alike blocks.

    A candidate is a reference: the base's, with the options ``blocks``, ``stem_width`` and ``last_width``. What is not
    chosen (the kind of stem and of the last layers, norms, preprocessing, ``img_size``) is the base's.

    Args:
        base: A reference whose provider has those options, such as ``timm:mobilenetv3_small_100?img_size=64``.
        stages: What each stage may be.
        stem_width: Channels of the stem; empty for the base's.
        last_width: Channels of the last convolution; empty for the base's.

    Raises:
        ConfigError: If there is nothing to choose from.
        UnknownName: If there is no such backbone.

    Source:
        Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", 2019, arXiv:1807.11626, section
        4.1, for stages of alike blocks; Cai et al., "Once-for-All", 2020, arXiv:1908.09791, for depth, width
        (expansion) and kernel as what is elastic. Ours also chooses the activation and the width of the output.
    """

    base: str
    stages: tuple[BlockStage, ...] = MOBILE
    stem_width: tuple[int, ...] = ()
    last_width: tuple[int, ...] = ()

    scored = True

    def __post_init__(self) -> None:
        """Read the stages and the base."""
        reference = resolve(self.base).reference
        taken = [option for option in ("blocks", "stem_width", "last_width") if option in reference.options]
        if taken:
            raise ConfigError(f"{self.base}: {' and '.join(taken)} are what is searched; leave them out of the base.")
        if not self.stages:
            raise ConfigError("A space of blocks must have a stage or more, got none.")
        stages = tuple(one if isinstance(one, BlockStage) else _stage(one) for one in self.stages)
        object.__setattr__(self, "stages", stages)
        for name in ("stem_width", "last_width"):
            given = getattr(self, name)
            given = tuple(given) if isinstance(given, (list, tuple)) else (given,)
            object.__setattr__(self, name, one_of(name, given) if given else ())

    def draw(self, pick: Pick) -> Candidate:
        """Write down a network, stage by stage."""
        written = []
        for number, stage in enumerate(self.stages, start=1):
            at = {one.name: pick(f"s{number}.{one.name}", getattr(stage, one.name)) for one in fields(stage)}
            parts = [f"r{at['depth']}", f"k{at['kernel']}", f"s{at['stride']}"]
            parts += [] if at["expansion"] == 1 else [f"e{at['expansion']:g}"]
            parts += [f"c{at['width']}", *([f"se{at['se']:g}"] if at["se"] else []), f"n{at['activation']}"]
            written.append("_".join(["ds" if at["expansion"] == 1 else "ir", *parts]))
        own: dict[str, Any] = {"blocks": "/".join(written)}
        for name in ("stem_width", "last_width"):
            if choice := getattr(self, name):
                own[name] = pick(name, choice)
        base = Reference.parse(self.base) if ":" in self.base else resolve(self.base).reference
        reference = replace(base, options={**base.options, **own})
        return Candidate(reference=str(reference), fit={"method": "fine_tuning", "backbone_lr_scale": 1.0})

    def trained_by(self) -> Mapping[str, tuple[str, ...]]:
        """Give the one that trains everything."""
        return {"fine_tuning": ("backbone_lr_scale",)}

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


def _stage(given: Any) -> BlockStage:
    if not isinstance(given, Mapping):
        raise ConfigError(f"A stage must be a mapping of its choices, such as {{'width': [16, 24]}}, got {given!r}.")
    check_options("A stage of a space", given, {one.name for one in fields(BlockStage)})
    if "width" not in given:
        raise ConfigError(f"A stage must say its width, got {dict(given)!r}.")
    return BlockStage(**given)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ZooSpace(Space):
    """A backbone of the whole zoo, with its head, method and rates.

    Args:
        backbones: References; one with ``*`` stands for all of the catalogs that have pretrained weights and fit it.
        heads: What the heads may be: each a head's settings or a list of them, completed with the data's classes;
            empty for those that the data calls for.
        methods: Names of training methods, or name to settings and what each may be: a list of values, or a
            :class:`~zoo.searching.choices.Range`.
        lr: The heads' learning rate: a range, logarithmic if written ``(low, high)``.
        settings: Further settings of ``zoo.fit`` and what each may be, such as ``{"batch_size": [16, 32]}``.
        weights: ``pretrained``, or None for random ones.

    Raises:
        ConfigError: If there is nothing to choose from.
        UnknownName: If there is no such backbone.
    """

    backbones: tuple[str, ...]
    heads: tuple[Any, ...] = ()
    methods: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)
    lr: Range | tuple[float, float] = (1e-4, 1e-2)
    settings: Mapping[str, Choice] = field(default_factory=dict)
    weights: str | None = "pretrained"

    def __post_init__(self) -> None:
        """Read the choices."""
        asked = (self.backbones,) if isinstance(self.backbones, str) else tuple(self.backbones)
        found = [reference for one in asked for reference in _expanded(one)]
        object.__setattr__(self, "backbones", one_of("backbones", tuple(dict.fromkeys(found))))
        heads = tuple(self.heads) if isinstance(self.heads, (list, tuple)) else (self.heads,)
        object.__setattr__(self, "heads", one_of("heads", heads) if heads else ())
        given = self.methods or {"feature_extraction": {}, "fine_tuning": {}}
        named = given if isinstance(given, Mapping) else {name: {} for name in _names(given)}
        read = {
            name: {key: read_choice(f"{name}'s {key}", one) for key, one in (own or {}).items()}
            for name, own in named.items()
        }
        object.__setattr__(self, "methods", read)
        object.__setattr__(self, "lr", read_range("lr", self.lr))
        own = {key: read_choice(key, one) for key, one in self.settings.items()}
        for key in ("lr", "method"):
            if key in own:
                raise ConfigError(f"settings has {key!r}, which the space has of its own; give it there.")
        object.__setattr__(self, "settings", own)
        if self.weights not in ("pretrained", None):
            raise ConfigError(f"weights must be 'pretrained' or None, got {self.weights!r}.")

    def draw(self, pick: Pick) -> Candidate:
        """Choose the backbone, the heads, the method and its settings, and the rates."""
        backbone = pick("backbone", self.backbones)
        heads = pick("heads", self.heads) if self.heads else ()
        method = pick("method", tuple(self.methods))
        own = {key: pick(f"{method}.{key}", choice) for key, choice in self.methods[method].items()}
        more = {key: pick(key, choice) for key, choice in self.settings.items()}
        listed = tuple(heads) if isinstance(heads, (list, tuple)) else (heads,)
        return Candidate(
            reference=backbone,
            heads=tuple(one if isinstance(one, Mapping) else {"type": one, "name": one} for one in listed),
            weights=self.weights,
            fit={"method": method, "lr": pick("lr", read_range("lr", self.lr)), **own, **more},
        )

    def trained_by(self) -> Mapping[str, tuple[str, ...]]:
        """Give the methods and their settings."""
        return {name: (*own, *self.settings) for name, own in self.methods.items()}

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "backbones": list(self.backbones),
            "heads": list(self.heads),
            "methods": {name: _written(own) for name, own in self.methods.items()},
            "lr": asdict(read_range("lr", self.lr)),
            "settings": _written(self.settings),
            "weights": self.weights,
        }


def _written(choices: Mapping[str, Choice]) -> dict[str, Any]:
    return {key: asdict(one) if isinstance(one, Range) else list(one) for key, one in choices.items()}


def _names(given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    return one_of("methods", names)


def _expanded(given: str) -> list[str]:
    """Give the references that one of a space's backbones stands for."""
    if "*" not in given:
        return [str(resolve(given).reference)]
    found = [one.reference for one in list_backbones(given, pretrained=True, sort="name")]
    if not found:
        raise UnknownName(f"No backbone with pretrained weights fits {given!r}.")
    return found


_SPACES: dict[str, type[Any]] = {"base": BlockSpace, "backbones": ZooSpace}
"""By what a mapping shows which space it is."""


def read_space(given: Space | str | Mapping[str, Any]) -> Space:
    """Read a space: itself, the base of a space of blocks, or a mapping as a file has it.

    Raises:
        ConfigError: If it is none, or has nothing to choose from.
        UnknownName: If it has an option that there is not, or names a backbone that is not known.
    """
    if isinstance(given, Space):
        return given
    if isinstance(given, str):
        return BlockSpace(base=given)
    kinds = [kind for key, kind in _SPACES.items() if isinstance(given, Mapping) and key in given]
    if len(kinds) != 1:
        raise ConfigError(
            f"A space must be a BlockSpace, a ZooSpace, the reference of a base, or a mapping with 'base' or with "
            f"'backbones', got {given!r}."
        )
    known = {one.name for one in fields(kinds[0])}
    check_options("A space", given, known)
    return kinds[0](**given)

"""Checks of the spec."""

from __future__ import annotations

from zoo.errors import ZooError
from zoo.reference import Reference
from zoo.spec import BackboneSpec
from zoo.strict import from_json, to_json
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject
from zoo.testing.rules import rule

__all__ = ["CAPABILITIES"]

CAPABILITIES = frozenset(
    {"dynamic_size", "embed", "grad_checkpointing", "in_channels", "maps", "mask", "pooled", "tokens"}
)


@check("A spec is the same after a round trip through JSON.")
def spec_json(subject: Subject) -> None:
    """See that nothing of a spec is lost in a bundle."""
    spec = subject.spec
    rule(from_json(BackboneSpec, to_json(spec)) == spec, "A spec must be the same after a round trip through JSON.")


@check("The spec carries the resolved reference and its provider.")
def spec_reference(subject: Subject) -> None:
    """See that a bundle says what it holds."""
    spec, asked = subject.spec, subject.asked or Reference.parse(subject.spec.reference)
    if asked.revision is None and Reference.parse(spec.reference).revision is not None:
        asked = Reference.parse(spec.reference)  # the provider fixed the revision that it found
    rule(spec.reference == str(asked), f"The spec must carry the resolved reference {asked}, got {spec.reference}.")
    rule(spec.provider == asked.provider, f"The spec's provider must be {asked.provider!r}, got {spec.provider!r}.")


@check("Stages are stem, s1 … sN, post.")
def stage_names(subject: Subject) -> None:
    """See that plans and freezing find the stages by name."""
    names = [stage.name for stage in subject.spec.stages]
    numbered = [f"s{i + 1}" for i in range(len(names) - 2)]
    rule(names == ["stem", *numbered, "post"], f"Stages must be stem, s1 … sN, post, got {', '.join(names)}.")


@check("Capabilities are known, sorted, and go with the rest of the spec.")
def capabilities(subject: Subject) -> None:
    """See that what the spec says twice is the same both times."""
    spec = subject.spec
    has = set(spec.capabilities)
    rule(has <= CAPABILITIES, f"Capabilities must be of {sorted(CAPABILITIES)}, got {spec.capabilities}.")
    rule(list(spec.capabilities) == sorted(has), "Capabilities must be sorted, each once.")
    rule(bool(spec.maps) == ("maps" in has), "Stages must have channels where maps are a capability.")
    rule((spec.token_dim is not None) == ("tokens" in has), "token_dim must be given where tokens are a capability.")
    masked = any(entry.kind == "mask" for entry in spec.inputs)
    rule(masked == ("mask" in has), "There must be an input of the kind 'mask' where mask is a capability.")
    if spec.inputs[0].kind == "image":
        free = not spec.inputs[0].fixed_size
        rule(free == ("dynamic_size" in has), "fixed_size must be False where dynamic_size is a capability.")


@check("The spec counts the parameters.")
def parameter_count(subject: Subject) -> None:
    """See that ``zoo list --max-params`` tells the truth."""
    native, spec = subject.backbone.native, subject.spec
    counts = {sum(p.numel() for p in part.parameters()) for part in (native, subject.backbone)}
    told = " or ".join(map(str, sorted(counts)))
    rule(spec.parameters in counts, f"The spec must count {told} parameters, got {spec.parameters}.")


@check("A construction that the provider never writes is refused.")
def bad_construction(subject: Subject) -> None:
    """See that a stranger's bundle cannot smuggle anything in."""
    told = to_json(subject.spec)
    changed = {**told, "construction": {**told["construction"], "zoo_never_writes_this": "os.system"}}
    try:
        subject.build(from_json(BackboneSpec, changed))
    except ZooError:
        return
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise AssertionError(f"An unknown key in construction must raise ConfigError, got {got}") from error
    raise AssertionError("An unknown key in construction must raise ConfigError, and nothing was raised.")


@check("Other channels are taken where in_channels is a capability, and refused by name where not.")
def in_channels(subject: Subject) -> None:
    """See that ``?in_channels=…`` does what it says."""
    entry = subject.spec.inputs[0]
    if subject.asked is None:
        raise Unfit("a backbone that is built already takes no options")
    if entry.channels is None:
        raise Unfit(f"an input of the kind {entry.kind} has no channels")
    channels = 2 if entry.channels != 2 else 4
    options = {**subject.asked.options, "in_channels": channels}
    asked = Reference(subject.asked.provider, subject.asked.name, subject.asked.revision, subject.asked.part, options)
    can = "in_channels" in subject.spec.capabilities
    try:
        other = Subject(asked)
        got = other.spec.inputs[0].channels
        rule(not can or got == channels, f"The input must have {channels} channels, as was asked, got {got}.")
        features = other.run(other.build(), inputs=other.inputs)
    except ZooError as error:
        rule(not can, f"in_channels is a capability, and in_channels={channels} must be taken, got: {error}")
        return
    rule(can, f"in_channels must be a capability, since in_channels={channels} is taken.")
    same = features.pooled is None or features.pooled.shape[1] == subject.spec.pooled_dim
    rule(same, "The pooled vector must be as wide with other channels.")

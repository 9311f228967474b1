"""The plan of a native module: JSON enough to build it again offline, and nothing that could run code.

A config may carry more than an architecture: names of code to import, of kernels, of other repositories. None of it
passes: :func:`clean` drops it from what a hub or folder says, and :meth:`Plan.read` refuses it in a bundle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING

from zoo.errors import ConfigError, UnknownName
from zoo.reference import OptionValue, Reference
from zoo.strict import check_options
from zoo_huggingface.quiet import quiet
from zoo_huggingface.rules import COMPOSITES, GENERIC, MENDED_PARTS, PARTS, RULES, Rule
from zoo_huggingface.sources import first_line, known_type

__all__ = ["Plan", "clean", "make_plan", "rule_of"]

_UNIFORM = {"in_channels": "num_channels", "img_size": "image_size", "drop_path": "drop_path_rate"}
_REFUSED = frozenset(
    {
        *("auto_map", "trust_remote_code", "name_or_path", "torch_dtype", "dtype", "quantization_config"),
        *(
            "checkpoint_path",
            "pretrained",
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "cache_dir",
        ),  # an inner timm model's
    }
)
_REFUSED_BEGINNINGS = ("_", "custom_", "attn_implementation", "experts_implementation", "kernel", "use_kernel")
_NAMED = ("backbone", "architecture", "backbone_name", "model_name")
"""Where a config may name another model."""
_LOCAL = re.compile(r"[\w.-]*", re.ASCII)
_PIECES = ("model_type", "part", "pooling", "config")
_ANATOMY = ("taps", "sources", "unused", "resting", "begins", "moved", "idle")
# What says nothing of the architecture, or is derived from the rest when a config is made.
_OUTPUTS = frozenset({"stage_names", "out_features", "out_indices"})
_LEFT_OUT = frozenset(
    {
        *("architectures", "transformers_version", "finetuning_task", "problem_type", "task_specific_params"),
        *("id2label", "label2id", "num_labels", "stage_names", "out_features", "out_indices"),
        *("output_hidden_states", "output_attentions", "return_dict", "use_return_dict", "torchscript"),
        *("gradient_checkpointing", "use_pretrained_backbone"),
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides which module is built, as a bundle keeps it in ``construction``.

    Args:
        model_type: Name among the rules; for a part, that of its dual tower.
        part: ``vision`` or ``text`` of a dual tower; None otherwise.
        pooling: One of the rule's.
        config: The fields of the config, that of the tower for a part.
    """

    model_type: str
    part: str | None
    pooling: str
    config: Mapping[str, Any]

    @property
    def rule(self) -> Rule:
        """Its line in the table of rules."""
        return rule_of(self.model_type, self.model_type, self.part)

    def make_config(self) -> Any:
        """Make transformers' config.

        Raises:
            ConfigError: If a field's value cannot be used.
        """
        # A copy, because some modules write into the lists of their config.
        fields = {key: deepcopy(value) for key, value in self.config.items() if key != "model_type"}
        return _make(self.model_type, CONFIG_MAPPING[str(self.config["model_type"])], fields)

    def view(self, config: Any) -> Any:
        """Give the tower's own config, which may be inside that of the class."""
        return getattr(config, self.rule.view) if self.rule.view else config

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "model_type": self.model_type,
            "part": self.part,
            "pooling": self.pooling,
            "config": dict(self.config),
        }

    @classmethod
    def read(cls, who: str, construction: Mapping[str, Any]) -> Plan:
        """Read it from a spec's construction, which may come from a stranger's bundle.

        Raises:
            ConfigError: If it is not what zoo writes, or has a key that could name code, kernels or other places.
            UnknownName: If transformers has no such model type.
        """
        config = construction.get("config")
        if set(construction) != {*_PIECES, *_ANATOMY} or not isinstance(config, Mapping) or "model_type" not in config:
            raise ConfigError(
                f"{who}: its construction must hold {', '.join((*_PIECES, *_ANATOMY))}, and nothing else."
            )
        plan = cls(**{key: construction[key] for key in _PIECES})
        for holder, key in _entries(plan.config):
            if _refused(key) or (key in _NAMED and _is_elsewhere(holder, key)):
                raise ConfigError(f"{who}: its construction holds {key!r}, which zoo never passes to transformers.")
        known_type(who, str(plan.model_type))
        rule = rule_of(who, plan.model_type, plan.part)
        config_class = CONFIG_MAPPING[plan.model_type]
        expected = config_class if rule.config is None else config_class.sub_configs[rule.config]
        if config["model_type"] != expected.model_type:
            got = config["model_type"]
            raise ConfigError(f"{who}: its config must be that of a {expected.model_type}, got {got}.")
        _check_pooling(who, rule.pooling, plan.pooling)
        return plan


def rule_of(who: str, model_type: str, part: str | None) -> Rule:
    """Find the rule of a model type or of a part of a dual tower.

    Raises:
        UnknownName: If a part is asked for that is not there.
        ConfigError: If what is made of several models is asked for as a whole.
    """
    parts = {**COMPOSITES.get(model_type, {}), **PARTS.get(model_type, {})}
    if part is None and parts and model_type not in RULES:
        names = " or ".join(f"'#{name}'" for name in parts)
        what = f"is made of {len(parts)} models; say which" if len(parts) > 1 else "is served by a part of it"
        raise ConfigError(f"{who}: {model_type} {what}: add {names} to the reference.")
    if part is None:
        return RULES.get(model_type, GENERIC)
    if part not in PARTS.get(model_type, {}):
        has = ", ".join(parts) or "none, so leave it out"
        raise UnknownName(f"{who}: {model_type} has no part {part!r}; its parts: {has}.")
    return PARTS[model_type][part]


def make_plan(reference: Reference, model_type: str, given: Mapping[str, Any]) -> Plan:
    """Put the config that a source gave and the user's options together.

    Args:
        reference: What was asked for, with part and options.
        model_type: The source's model type.
        given: The source's config; empty for a bare type.

    Raises:
        UnknownName: If an option or a part is not known.
        ConfigError: If a value cannot be used.
    """
    who = str(reference)
    bare, mended = not given, MENDED_PARTS.get((model_type, reference.part or ""), {})
    model_type, part, given = _step_inside(who, model_type, reference.part, given)
    rule = rule_of(who, model_type, part)
    config_class = CONFIG_MAPPING[model_type]
    fields = clean(given)
    if rule.config is not None:
        config_class = config_class.sub_configs[rule.config]
        fields = clean(given.get(rule.config) or {})
        if rule.projection and "projection_dim" in given:  # the dual tower's own width is what counts
            fields["projection_dim"] = given["projection_dim"]
    fields.pop("model_type", None)
    if bare:
        fields |= deepcopy({**rule.defaults, **mended})
    own = _make(who, config_class, fields)
    options = dict(reference.options)
    there = _poolings(rule, own, given)
    pooling = options.pop("pooling", None) or there[0]
    _check_pooling(who, there, pooling)
    if rule.resize == "free" and rule.sequence is None and "img_size" not in _all_names(own, rule):
        _check_uniform(who, "img_size", _value(options.pop("img_size", 1)))  # the pictures' size alone
    fields |= _options(who, options, own, rule, fields)
    fields |= {**rule.forced, **(rule.unpooled if pooling != "pooler" else {})}
    made = _make(who, config_class, fields)
    return Plan(model_type, part, str(pooling), json.loads(json.dumps(clean(made.to_dict()))))


def _step_inside(
    who: str, model_type: str, part: str | None, given: Mapping[str, Any]
) -> tuple[str, str | None, Mapping[str, Any]]:
    """Go from a model made of others to the one that is asked for: its type and its config."""
    fields = COMPOSITES.get(model_type, {})
    if part is None or part not in fields or part in PARTS.get(model_type, {}):
        return model_type, part, given
    inner = given.get(fields[part]) or _made(model_type, fields[part], given)
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{who}: {fields[part]} in its config must be an object, got {inner!r}.")
    # Where the type's own class fixes the part's, transformers does not ask what the checkpoint calls it.
    name = getattr(CONFIG_MAPPING[model_type].sub_configs[fields[part]], "model_type", "") or inner.get("model_type")
    name = name or _made(model_type, fields[part], {}).get("model_type")
    if not name:
        raise ConfigError(f"{who}: the config names no model type for its part {part!r}.")
    return known_type(who, str(name)), None, inner


def _made(model_type: str, field: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Let the whole config say that of a part, which may lie flat in it or be a default; empty where it cannot."""
    fields = {key: value for key, value in clean(given).items() if key != "model_type"}
    try:
        with quiet():
            found: dict[str, Any] = getattr(CONFIG_MAPPING[model_type](**fields), field).to_dict()
    except Exception:  # what a config's own checks raise has no common type
        return {}
    return found


def clean(config: Mapping[str, Any], *, inner: bool = False) -> dict[str, Any]:
    """Copy a config without what is no architecture, at every level; an inner backbone's outputs are architecture."""
    left_out = _LEFT_OUT - _OUTPUTS if inner else _LEFT_OUT
    return {key: _cleaned(value) for key, value in config.items() if not _refused(str(key)) and key not in left_out}


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return clean(value, inner=True)
    return [_cleaned(item) for item in value] if isinstance(value, (list, tuple)) else value


def _refused(key: str) -> bool:
    return key in _REFUSED or key.startswith(_REFUSED_BEGINNINGS)


def _entries(value: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Walk the keys at every level, each with what holds it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield value, str(key)
            yield from _entries(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _entries(item)


def _is_elsewhere(holder: Mapping[str, Any], key: str) -> bool:
    """Say whether transformers or timm would look in a folder or on the hub for the model that a key names."""
    name = holder[key]
    if not isinstance(name, str):
        return False
    asked = key == "backbone" and holder.get("backbone_config") is None and holder.get("model_type") != "timm_backbone"
    return asked or _LOCAL.fullmatch(name) is None


def _poolings(rule: Rule, config: Any, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the poolings that a config leaves; one that was published without a pooler has none of its own."""
    if given and rule.unpooled and all(getattr(config, key, None) == value for key, value in rule.unpooled.items()):
        return tuple(name for name in rule.pooling if name != "pooler")
    return rule.pooling


def _check_pooling(who: str, known: tuple[str, ...], pooling: object) -> None:
    if pooling not in known:
        raise ConfigError(f"{who}: pooling must be one of {', '.join(known)}, got {pooling!r}.")


def _options(
    who: str, options: Mapping[str, OptionValue], config: Any, rule: Rule, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Turn the user's options into config fields, under the config's own names; a tower's may lie inside."""
    outer = _names(config, rule)
    inner = _all_names(config, rule) if rule.view else {}
    check_options(who, options, {*outer, *inner, "pooling"})
    chosen: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    for option, value in options.items():
        names, place = (outer, chosen) if option in outer else (inner, inside)
        name = names[option]
        if name in place:
            raise ConfigError(f"{who}: {option!r} sets {name!r}, which another option sets already; keep one.")
        place[name] = _value(value)
        if option in _UNIFORM:
            _check_uniform(who, option, place[name])
        own = getattr(config if place is chosen else getattr(config, rule.view), name, None)
        if option in _UNIFORM and isinstance(own, (list, tuple)):  # one number for each of several
            place[name] = [place[name]] * len(own)
    if inside:
        chosen[rule.view] = {**(chosen.get(rule.view) or given.get(rule.view) or {}), **inside}
    return chosen


def _check_uniform(who: str, option: str, value: Any) -> None:
    """Refuse a number that a config would take and that means nothing."""
    for one in value if isinstance(value, list) and value else [value]:
        number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if option == "drop_path" and not (number and 0 <= one < 1):
            raise ConfigError(f"{who}: drop_path must be in [0, 1), got {one!r}.")
        if option != "drop_path" and not (number and isinstance(one, int) and one >= 1):
            raise ConfigError(f"{who}: {option} must be a whole number, 1 or more, got {one!r}.")


def _names(config: Any, rule: Rule) -> dict[str, str]:
    """Give the options that a config takes, each with the field that it sets."""
    fields = clean(config.to_dict()).keys() - {"model_type", *rule.forced, *rule.unpooled}
    renamed = {old: new for old, new in config.attribute_map.items() if new in fields}
    uniform = {ours: theirs for ours, theirs in _UNIFORM.items() if theirs in fields}
    return {**{name: name for name in fields}, **renamed, **uniform}


def _all_names(config: Any, rule: Rule) -> dict[str, str]:
    """Give the options of the tower's own config, which may lie inside."""
    return _names(getattr(config, rule.view) if rule.view else config, rule)


def _value(value: OptionValue) -> Any:
    """Read lists, which a reference carries as JSON text."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _make(who: str, config_class: Any, fields: Mapping[str, Any]) -> Any:
    try:
        with quiet():
            return config_class(**fields)
    except Exception as error:  # what a config's own checks raise has no common type
        reason = " ".join(str(error).split())[:300] or first_line(error)
        raise ConfigError(f"{who}: {config_class.__name__} cannot use these values: {reason}.") from error

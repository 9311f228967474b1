"""Frozen dataclasses as plain JSON values, written and read strictly: no unknown key, no conversion of types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.errors import ConfigError, UnknownName, nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["adapter", "check_options", "from_json", "to_json"]


def check_options(what: str, given: Mapping[str, Any], known: Mapping[str, Any] | set[str]) -> None:
    """Refuse options that nobody would read.

    Args:
        what: Who has the options, for the message, such as a reference.
        given: The options that came.
        known: The options that it takes.

    Raises:
        UnknownName: If an option is not known; the message lists the nearest.
    """
    for option in given:
        if option not in known:
            near = nearest(option, known) or sorted(known)[:8]
            raise UnknownName(f"{what} has no option {option!r}; it takes {', '.join(near) or 'none'}.")


Spec = TypeVar("Spec")
_ADAPTERS: dict[type, Any] = {}


def adapter(spec: type[Spec]) -> TypeAdapter[Spec]:
    """Give the pydantic adapter of a dataclass, which refuses unknown keys at every level."""
    if spec not in _ADAPTERS:
        from pydantic import TypeAdapter

        _ADAPTERS[spec] = TypeAdapter(spec)
    return _ADAPTERS[spec]


def to_json(spec: Any) -> Any:
    """Write a spec as plain JSON values."""
    return adapter(type(spec)).dump_python(spec, mode="json")


def from_json(spec: type[Spec], data: Any, *, called: str | None = None) -> Spec:
    """Read a spec from plain JSON values, strictly: no unknown key, no conversion of types.

    Args:
        spec: The dataclass.
        data: The values.
        called: What the message calls it; the dataclass's name by default.

    Raises:
        ConfigError: If the data does not follow the spec; the message has the path of the first fault.
    """
    import json

    from pydantic import ValidationError

    called = called or spec.__name__
    try:
        return adapter(spec).validate_json(json.dumps(data, allow_nan=False), strict=True)
    except ValidationError as error:
        fault, *others = error.errors()
        beside = [one for one in (fault, *others) if one["loc"][:-1] == fault["loc"][:-1]]
        unknown = [one["loc"] for one in beside if one["type"] == "unexpected_keyword_argument"]
        if unknown:  # where a key is misspelt, it is missing, too
            raise ConfigError(f"{called}{_unknown_key(spec, unknown[0])}") from error
        path = "".join(f"{step}: " for step in [".".join(str(step) for step in fault["loc"])] if step)
        reason = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else f"{fault['msg']}."
        raise ConfigError(f"{called}: {path}{reason}") from error
    except ValueError as error:
        raise ConfigError(f"{called}: {error}") from error


def _unknown_key(spec: type, place: Sequence[Any]) -> str:
    """Say which key nobody knows, and which keys there are."""
    *above, found = place
    known, key = _keys(spec, above), str(found)[:80]  # a stranger's key may be of any length
    told = nearest(key, known) or known[:8]
    where = ": " + ".".join(str(step)[:80] for step in above) if above else ""
    return f"{where} has no key {key!r}" + (f"; it takes {', '.join(told)}." if told else ".")


def _keys(spec: Any, place: Sequence[Any]) -> list[str]:
    """Give the fields of the dataclasses that may stand at a place inside one; none where its types do not say."""
    kinds = [spec]
    for step in place:
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    return list(dict.fromkeys(each.name for kind in kinds if is_dataclass(kind) for each in fields(kind)))


def _inside(kind: Any, step: Any) -> list[Any]:
    """Give the types that a step into a type may lead to; a step that names a member of a union leads nowhere else."""
    if is_dataclass(kind):
        if step == getattr(kind, "__name__", None):
            return [kind]
        return _members(get_type_hints(kind).get(step))
    arguments = get_args(kind)
    return [one for argument in arguments[-1 if isinstance(step, str) else 0 :][:1] for one in _members(argument)]


def _members(kind: Any) -> list[Any]:
    """Give the members of a union, or the type itself."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for member in get_args(kind) for one in _members(member)]
    return [] if kind is None else [kind]

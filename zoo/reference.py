"""References: names of backbones, ``provider:name[.tag][@revision][#part][?option=value&…]``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote, unquote

from zoo.errors import InvalidReference

__all__ = ["OptionValue", "Reference"]

OptionValue = str | int | float | bool | None

_PROVIDER = re.compile(r"[a-z][a-z0-9-]*")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_GRAMMAR = "provider:name[.tag][@revision][#part][?option=value&…]"
# What stays readable inside a piece; every other reserved character is percent-encoded.
_SAFE_NAME = "/:.-_~+ ()[],'!$*;=&\\"
_SAFE_VALUE = "/:.-_~+ ()[],'!$*;\"@"


@dataclass(frozen=True, slots=True)
class Reference:
    """A backbone's name, taken apart.

    The text is split at the first colon and never at ``_`` or ``/``, because hub ids have slashes. A tag stays part of
    ``name``: whether the text after a dot is a tag is for the provider's catalog to say, because hub ids have dots.
    Characters of the grammar inside a name (``@ # ? %``) are written percent-encoded.

    Args:
        provider: The plugin that builds it, such as ``timm``.
        name: The architecture, hub id or local path, with its tag.
        revision: A commit, branch or version of the weights.
        part: A tower of a dual-tower model, such as ``vision``.
        options: What to change in the architecture; values are JSON scalars.

    Example:
        >>> ref = Reference.parse("timm:vit_small_patch14_dinov2.lvd142m?img_size=224")
        >>> ref.name, ref.options["img_size"]
        ('vit_small_patch14_dinov2.lvd142m', 224)
        >>> str(ref)
        'timm:vit_small_patch14_dinov2.lvd142m?img_size=224'
    """

    provider: str
    name: str
    revision: str | None = None
    part: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every piece, so that a reference made by hand obeys the grammar too."""
        if not _PROVIDER.fullmatch(self.provider):
            raise InvalidReference(
                f"{self.provider!r} cannot be a provider: it must be lower-case letters, digits and '-', as in 'timm'."
            )
        if not self.name.strip():
            raise InvalidReference(f"'{self.provider}:' has no name after the colon; write it as {_GRAMMAR}.")
        for piece, value in (("revision", self.revision), ("part", self.part)):
            if value is not None and not value:
                raise InvalidReference(f"The {piece} of '{self.provider}:{self.name}' is empty; leave its mark out.")
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise InvalidReference(f"{option!r} cannot be an option of '{self.provider}:{self.name}'.")
            if not _is_scalar(self.options[option]):
                raise InvalidReference(f"The option {option!r} of '{self.provider}:{self.name}' must be a JSON scalar.")
        object.__setattr__(self, "options", MappingProxyType(dict(sorted(self.options.items()))))
        try:
            str(self)
        except UnicodeEncodeError as error:  # half a surrogate pair, as file names that are no UTF-8 have
            told, wrong = f"{self.provider}:{self.name}", error.object[error.start]
            raise InvalidReference(f"{told!r} has {wrong!r}, which is no text; rename it.") from error

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Reference.parse, (str(self),)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Take a reference apart.

        Args:
            text: ``provider:name[.tag][@revision][#part][?option=value&…]``.

        Raises:
            InvalidReference: If the text does not follow the grammar.
        """
        provider, colon, rest = text.strip().partition(":")
        if not colon:
            raise InvalidReference(f"{text!r} names no provider; write it as {_GRAMMAR}, for example 'timm:{text}'.")
        rest, question, query = rest.partition("?")
        rest, hash_mark, part = rest.partition("#")
        name, at, revision = rest.partition("@")
        return cls(
            provider=provider,
            name=unquote(name),
            revision=unquote(revision) if at else None,
            part=unquote(part) if hash_mark else None,
            options=_parse_options(query, text) if question else {},
        )

    def __str__(self) -> str:
        text = f"{self.provider}:{quote(self.name, safe=_SAFE_NAME)}"
        if self.revision is not None:
            text += "@" + quote(self.revision, safe=_SAFE_VALUE.replace("@", ""))
        if self.part is not None:
            text += "#" + quote(self.part, safe=_SAFE_VALUE)
        if self.options:
            text += "?" + "&".join(f"{key}={_format_value(value)}" for key, value in self.options.items())
        return text[:-1] + "%20" if text.endswith(" ") else text  # blanks around a reference are not part of it


def _parse_options(query: str, text: str) -> dict[str, OptionValue]:
    options: dict[str, OptionValue] = {}
    for pair in query.split("&"):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidReference(f"{pair!r} in {text!r} is no option; write options as '?name=value&name=value'.")
        if key in options:
            raise InvalidReference(f"The option {key!r} stands twice in {text!r}; keep one.")
        options[key] = _parse_value(unquote(value))
    return options


def _parse_value(text: str) -> OptionValue:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text
    return value if _is_scalar(value) else text


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _format_value(value: OptionValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str) and _parse_value(value) != value:
        text = json.dumps(value, ensure_ascii=False)
    return quote(text, safe=_SAFE_VALUE)

"""Arguments with a form of their own: heads, settings, weights, and the folder that a bundle is saved to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from zoo.augmentation import Augmentation
    from zoo.data import Table
    from zoo.model import Model
    from zoo.spec import HeadSpec

__all__ = [
    "check_target",
    "heads_for",
    "read_augmentation",
    "read_head",
    "read_model",
    "read_pairs",
    "read_settings",
    "read_weights",
]


def read_head(text: str) -> HeadSpec:
    """Read a head: a type, ``name=type``, or JSON with ``type``, ``name`` and settings.

    Raises:
        ConfigError: If it is none of these.

    Example:
        >>> read_head("species=classifier").flat()
        {'type': 'classifier', 'name': 'species'}
    """
    from zoo.spec import HeadSpec

    if not text.lstrip().startswith("{"):
        name, equals, type_ = text.partition("=")
        return HeadSpec(type=type_, name=name) if equals else HeadSpec.of(text)
    try:
        return HeadSpec.of(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--head must be TYPE, NAME=TYPE or JSON, got {text!r}: {error}.") from error


def read_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read names written as ``name=value``.

    Raises:
        ConfigError: If one has another form, or is given twice.

    Example:
        >>> read_pairs("--stream", ["rgb=timm:resnet18?in_channels=3"])
        {'rgb': 'timm:resnet18?in_channels=3'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} must be NAME=VALUE, got {text!r}.")
        if name in found:
            raise ConfigError(f"{option} {name}=… is given twice.")
        found[name] = value
    return found


def read_settings(texts: Sequence[str], *, taken: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Read settings written as ``key=value``; a value is JSON if it can be read so, else text.

    Args:
        texts: What was typed.
        taken: Names that are set in another way.
        option: The option, for messages.

    Raises:
        ConfigError: If one has another form, is given twice, or is set in another way.

    Example:
        >>> read_settings(["depth=2", "until=s3"], taken=())
        {'depth': 2, 'until': 's3'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"{option} must be KEY=VALUE, got {text!r}.")
        if key in taken:
            raise ConfigError(f"--set takes settings of the method, and {key!r} is none; see zoo fit --help.")
        if key in found:
            raise ConfigError(f"{option} {key}=… is given twice.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def read_augmentation(text: str | None) -> Augmentation:
    """Read the name of a preset, or JSON with the fields of an augmentation.

    Raises:
        UnknownName: If there is no such preset.
        ConfigError: If the JSON has another form.

    Example:
        >>> read_augmentation('{"flip": 0.5}').flip
        0.5
    """
    from zoo.augmentation import Augmentation
    from zoo.strict import from_json

    if text is None or not text.lstrip().startswith("{"):
        return Augmentation.of(text)
    try:
        return from_json(Augmentation, json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--augmentation must be a name or JSON, got {text!r}: {error}.") from error


def read_weights(text: str) -> str | Model | None:
    """Read ``pretrained``, ``none``, the path of a file, or a bundle whose backbones' weights are wanted.

    Raises:
        ConfigError: If there is no such file or folder, or the bundle is an ensemble.
        BundleError: If the bundle cannot be read.
    """
    from zoo.remote import is_url

    if text in ("pretrained", "none"):
        return None if text == "none" else text
    if not is_url(text) and not Path(text).is_dir():
        if not Path(text).is_file():
            must = "pretrained, none, a safetensors file or a bundle"
            raise ConfigError(f"--weights must be {must}, got {text!r}: there is no such file or folder.")
        return text
    return read_model("--weights", text)


def read_model(option: str, bundle: str) -> Model:
    """Load the model of an option.

    Args:
        option: The option, for messages.
        bundle: Folder or URL.

    Raises:
        BundleError: If the bundle cannot be read.
        ConfigError: If it is an ensemble.
    """
    import zoo

    model = zoo.load(bundle)
    if not isinstance(model, zoo.Model):
        raise ConfigError(f"{option} {bundle} is an ensemble; give one of its members.")
    return model


def heads_for(method: str, table: Table, heads: Sequence[HeadSpec], *, asked: bool) -> list[HeadSpec]:
    """Describe the heads of a run: those of the labels, or none for a method that learns without any.

    Args:
        method: Name of the method, or ``auto``.
        table: The data.
        heads: Heads that were typed.
        asked: Whether heads, labels or masks were typed.

    Raises:
        DataError: If labels are missing.
        UnknownName: If there is no such method.
    """
    import zoo
    from zoo.advising import AUTO
    from zoo.registry import registry

    if method != AUTO and not registry().method_class(method).labelled and not (asked and table.columns):
        return list(heads)
    return zoo.infer_heads(table, heads=heads)


def check_target(path: str | Path, *, overwrite: bool) -> None:
    """Refuse a folder or URL that a bundle could not be saved to, before anything is trained.

    Raises:
        BundleError: If it is there and not to be overwritten, is no bundle, or cannot be made.
    """
    from zoo.bundle.staging import check_target as replaceable
    from zoo.remote.address import at_home, elsewhere

    if elsewhere(path) is not None:
        from zoo.remote.saving import check_target as writable

        writable(str(path), overwrite=overwrite)
        return
    path = Path(at_home(path))
    if os.path.lexists(path):
        if not overwrite:
            raise BundleError(f"'{path}' is there already; choose another --out, or give --overwrite.")
        replaceable(path, overwrite=True)
    parent = next(above for above in path.absolute().parents if above.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(f"'{path}' cannot be made: the folder '{parent}' cannot be written.")

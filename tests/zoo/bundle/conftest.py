"""A provider of backbones of 40 numbers, so that a whole bundle has a few kilobytes; and bundles to spoil."""

import json
import shutil
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.bundle.manifest import _checksum
from zoo.bundle.plain_json import canonical
from zoo.bundle.staging import staged
from zoo.contracts.features import Features
from zoo.registry import Plugin, registry
from zoo.spec import BackboneSpec, InputSpec, StageSpec

collect_ignore = ["watching.py"]  # a program that a test runs


class TinyBackbone(zoo.Backbone):
    """A convolution, and with ``?own=true`` a projection that stands beside the native module."""

    def __init__(self, spec, native, stages):
        super().__init__(spec, native, stages)
        if spec.construction["own"]:
            self.projection = nn.Linear(4, 4)

    def extract(self, inputs, want):
        pooled = self.native(inputs["image"]).mean(dim=(2, 3))
        return Features(pooled=self.projection(pooled) if self.spec.construction["own"] else pooled)

    def native_files(self):
        return {"config.json": {"kind": "tiny"}, "words.txt": b"a\nb\n"}


class TinyProvider(zoo.Provider):
    library = "torch"

    def catalog(self):
        raise NotImplementedError

    def spec(self, reference):
        return BackboneSpec(
            reference=str(reference),
            provider="tiny",
            architecture="tiny",
            library="torch",
            library_version="2",
            modality="image",
            inputs=(InputSpec(name="image", kind="image", rank=4, channels=1, size=(8, 8)),),
            pooled_dim=4,
            stages=(StageSpec(name="stem"), StageSpec(name="s1", module="0"), StageSpec(name="post")),
            capabilities=("pooled",),
            parameters=40,
            pooling="mean",
            construction={"own": bool(reference.options.get("own", False))},
        )

    def build(self, spec, *, weights):
        native = nn.Sequential(nn.Conv2d(1, 4, 3))
        return TinyBackbone(spec, native, zoo.StageMap(native, {"s1": "0"}))


@pytest.fixture(autouse=True)
def tiny_plugin():
    """Install the plugin ``tiny`` for one test."""
    module = types.ModuleType("zoo_tiny")
    module.zoo_provider = zoo.hookimpl(lambda: TinyProvider())
    sys.modules["zoo_tiny"] = module
    registry().claims["tiny"] = (Plugin("tiny", "zoo_tiny", "zoo-tiny", "1.2.3"),)
    yield
    registry().claims.pop("tiny", None)
    sys.modules.pop("zoo_tiny")


def tiny(*heads, own=False, seed=0, **provenance):
    """Build a tiny model."""
    torch.manual_seed(seed)
    reference = zoo.Reference.parse("tiny:tiny?own=true" if own else "tiny:tiny")
    spec = zoo.ModelSpec(
        streams={"main": zoo.StreamSpec(backbone=TinyProvider().spec(reference))},
        heads=heads or (zoo.head("classifier", name="pet", classes=["cat", "dog"]),),
    )
    from zoo.assembly import assemble

    model = assemble(spec, weights=None)
    model.provenance = dict(provenance)
    return model


@pytest.fixture
def bundle(tmp_path, tiny_plugin):
    """A tiny bundle, alone in its folder."""
    return tiny().save(tmp_path / "home" / "bundle")


def rewrite(bundle, change):
    """Edit a manifest as someone would who knows how its checksum is made."""
    file = bundle / "zoo.json"
    data = json.loads(file.read_bytes())
    data.pop("checksum")
    change(data)
    file.write_bytes(canonical({**data, "checksum": _checksum(data)}))


def copy(bundle, name="copy"):
    """Copy a bundle, to spoil the copy."""
    target = bundle.parent / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target, symlinks=True)
    return target


def files(model):
    """Save a model, and give the bundle's files: path to content."""
    with tempfile.TemporaryDirectory() as folder:
        path = model.save(Path(folder) / "bundle")
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def put(content, path, *, overwrite=True):
    """Write a bundle's files as a save does; the same ones always give the same bundle."""
    with staged(path, overwrite=overwrite) as folder:
        for name in sorted(content, key=lambda name: (name == "zoo.json", name)):
            folder.write(name, content[name])


@pytest.fixture
def make():
    """Give the helpers of this file, which other files cannot import."""
    return types.SimpleNamespace(tiny=tiny, rewrite=rewrite, copy=copy, files=files, put=put)

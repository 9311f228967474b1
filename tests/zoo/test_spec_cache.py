"""Kept specs: the same as measured ones, and measured again when anything that they depend on changes."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo import spec_cache
from zoo.assembly import plan_model
from zoo.registry import registry


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Count what the provider measures, with an empty cache."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    provider, asked = registry().provider("timm"), []
    original = provider.spec
    monkeypatch.setattr(provider, "spec", lambda reference: asked.append(str(reference)) or original(reference))
    return asked


def spec(name="timm:test_resnet"):
    return plan_model(name).streams["main"].backbone


def kept(tmp_path):
    return list((tmp_path / "cache" / "specs").rglob("*.json"))


def test_a_spec_is_measured_once_and_read_equal_afterwards(measured):
    first, second = spec(), spec()

    assert measured == ["timm:test_resnet.r160_in1k"]
    assert second == first
    assert second.preprocessing == first.preprocessing


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_spec_that_is_measured_without_gradients_is_the_same(measured, monkeypatch, tmp_path, mode):
    expected = spec()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "another"))

    with mode():
        found = spec()

    assert found == expected
    assert len(measured) == 2


@pytest.mark.slow
def test_another_tag_or_option_is_another_spec(measured):
    assert spec("timm:test_vit").inputs[0].channels == 3
    assert spec("timm:test_vit?in_channels=4").inputs[0].channels == 4
    assert len(measured) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"asked": 3}', b'{"asked": "timm:test_resnet.r160_in1k", "spec": 3}']
)
def test_a_damaged_file_is_measured_anew_and_replaced(measured, tmp_path, damage):
    first = spec()
    (file,) = kept(tmp_path)
    file.write_bytes(damage)

    assert spec() == first
    assert spec() == first
    assert len(measured) == 2


def test_a_kept_spec_of_another_reference_is_not_taken(measured, tmp_path):
    spec("timm:test_vit")
    (other,) = kept(tmp_path)
    text = other.read_text()
    spec()
    mine = next(file for file in kept(tmp_path) if file != other)
    mine.write_text(text)

    assert spec().architecture == "test_resnet"


def test_changed_code_is_measured_anew(measured, monkeypatch):
    first = spec()
    monkeypatch.setattr(spec_cache, "_code", lambda plugin: [("provider.py", 1, 1)])

    assert spec() == first
    assert len(measured) == 2


def test_a_provider_that_does_not_declare_it_is_asked_each_time(measured, monkeypatch):
    monkeypatch.setattr(type(registry().provider("timm")), "measured_once", False)

    assert spec() == spec()
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_is_done_without(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))

    assert spec() == spec()
    assert len(measured) == 2


def test_a_refused_reference_keeps_nothing(measured, tmp_path):
    with pytest.raises(zoo.ZooError):
        spec("timm:test_resnet?in_channels=0")
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_a_folders_spec_is_measured_anew_only_where_its_files_say_something_else(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    provider, asked = registry().provider("hf"), []
    original = provider.spec
    monkeypatch.setattr(provider, "spec", lambda reference: asked.append(str(reference)) or original(reference))
    folder = tmp_path / "vit"
    folder.mkdir()
    config = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 16, "image_size": 32}))

    first, second = spec(f"hf:{folder}"), spec(f"hf:{folder}")
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 16, "image_size": 64}))
    larger = spec(f"hf:{folder}")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor"}))
    described = spec(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"")

    assert first == second
    assert (first.inputs[0].size, larger.inputs[0].size) == ((32, 32), (64, 64))
    assert described.preprocessing is not None
    assert spec(f"hf:{folder}").weights == str(folder)
    assert len(asked) == 4

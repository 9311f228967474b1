"""Checkpoints of a library's own model, in the forms that people have them."""

import pytest
import safetensors.torch
import timm
import torch


@pytest.fixture(scope="session")
def resnet():
    """timm's own model with three classes, and a batch for it."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    return model, torch.rand(2, 3, 160, 160)


@pytest.fixture
def saved(tmp_path):
    """Write something with torch.save."""

    def write(held):
        torch.save(held, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return write


@pytest.fixture
def stored(tmp_path):
    """Write tensors as safetensors, which needs no child process to be read."""

    def write(tensors):
        copies = {key: tensor.clone() for key, tensor in tensors.items()}
        safetensors.torch.save_file(copies, tmp_path / "checkpoint.safetensors")
        return tmp_path / "checkpoint.safetensors"

    return write

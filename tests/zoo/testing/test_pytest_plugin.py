"""The pytest plugin: a stranger's test file of three lines becomes one test for each check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LINES = """
import pytest

@pytest.mark.zoo_backbone({marks})
def test_the_backbone_conforms(backbone_check):
    backbone_check()
"""
WRAPPED = """
import torch, zoo
from torch import nn

def wrapped():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 2, 2))
    return zoo.wrap(net, inputs=torch.zeros(1, 3, 32, 32))

def faulty():
    backbone = wrapped()
    backbone.register_forward_hook(lambda module, inputs, features: setattr(features, "pooled", features.pooled[:, :3]))
    return backbone
"""


def run(folder: Path, *arguments: str, **files: str) -> tuple[int, str]:
    """Run pytest on some files, as an author does."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p zoo.testing.pytest_plugin --strict-markers\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-rA", *arguments, "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_each_check_is_a_test_that_passes_fails_or_is_skipped_with_the_reason(tmp_path):
    marks = "wrapped, faulty, only=['pooled', 'seeds', 'mask']"
    code, told = run(tmp_path, test_it=WRAPPED + LINES.format(marks=marks))

    assert code == 1
    assert "PASSED test_it.py::test_the_backbone_conforms[wrapped-pooled]" in told
    assert "FAILED test_it.py::test_the_backbone_conforms[faulty-pooled]" in told
    assert "wrapped:Sequential fails pooled: pooled must have the shape that the spec declares, (2, 8)" in told
    assert "mask does not apply: it does not declare mask" in told
    assert "1 failed, 1 passed, 4 skipped" in told


@pytest.mark.slow
def test_a_wrong_marker_is_one_sentence(tmp_path):
    code, told = run(
        tmp_path,
        "--collect-only",
        test_none=LINES.format(marks=""),
        test_more=LINES.format(marks="'timm:test_resnet', without=1"),
        test_unknown=LINES.format(marks="'timm:test_resnet', only='pool'"),
        test_missing="def test_it(backbone_check):\n    backbone_check()\n",
        test_right=LINES.format(marks="'timm:test_resnet'"),
    )

    assert code != 0
    assert told.count("write @pytest.mark.zoo_backbone") >= 3
    assert "asks for backbone_check; write" in told
    assert "There is no check 'pool'" in told
    assert "timm:test_resnet-pooled_alone" in told


def test_loading_it_imports_neither_torch_nor_a_plugin_of_zoo():
    code = "import sys, zoo.testing.pytest_plugin; print(sorted({'torch', 'timm', 'zoo_timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"

"""Every method that is installed passes the conformance kit, and the kit hears of a new one by itself."""

import pytest
import torch

import zoo
from zoo.registry import registry
from zoo.testing import check_method

CLASSES = ["a", "b"]
QUICK = ("feature_extraction", "few_shot", "fine_tuning")


def teacher():
    return {"settings": {"teacher": zoo.build("timm:test_vit", _head("classifier"), weights=None, seed=1)}}


def _head(kind):
    return {"type": kind, "name": "kind", "classes": CLASSES}


NEEDS = {
    "distillation": teacher,
    "few_shot": lambda: {"settings": {"ways": 2, "support": 1, "queries": 1}, "head": _head("prototype")},
    "pruning": lambda: {"rewrites": True},
    "semi_supervised": lambda: {"settings": {"ratio": 1}},
}
"""What a method cannot do without, as the kit takes it, and what spares time."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in registry().names("methods")],
)
def test_a_method_conforms(name):
    found = check_method(name, **NEEDS.get(name, dict)())

    assert found.last < found.first if found.betters == "train_loss" else found.last >= 0.75

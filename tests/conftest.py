"""What every test has: no network, a cache of its own, few threads; and plugins that exist in memory only."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["OMP_NUM_THREADS"] = "1"  # for child processes, whose sums must round as ours do

import gc
import signal
import sys
import types
import zlib
from collections.abc import Callable

import accelerate.utils.memory
import pytest
import torch

from zoo.catalog import catalog_of
from zoo.hooks import hookimpl
from zoo.registry import Plugin, Registry, registry

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job of a shell's background, and then in each child
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the runner has as many processes as there are cores


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most of the long lists to the soak; put files with slow tests first, so that processes end together."""
    for item in items:
        thin = item.get_closest_marker("thin")
        if thin is not None and item.get_closest_marker("slow") and not _is_tried(item, *thin.args):
            item.add_marker(pytest.mark.soak)
    heavy = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in heavy)


def _is_tried(item: pytest.Item, most: int) -> bool:
    """Say whether a case of a list is the one in so many that is always tried; all tests of a case say the same."""
    case = getattr(item, "callspec", None)
    return case is None or zlib.crc32(case.id.encode()) % most == 0


accelerate.utils.memory.clear_device_cache = lambda garbage_collection=False: None
"""Each run of the Trainer would look through all that the tests have made; there is no device to free here."""

AT_MOST = 100
"""New Python modules after which what there is counts as lasting."""
lasting = 0


def pytest_runtest_setup() -> None:
    """Take what libraries brought out of garbage collection, which would look through it again and again."""
    global lasting
    if len(sys.modules) - lasting > AT_MOST:
        gc.collect()
        gc.freeze()
        lasting = len(sys.modules)


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch) -> None:
    """Keep a test away from the user's cache and from the network."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "zoo-cache"))
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "zoo-store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def registry_with(monkeypatch) -> Callable[..., Registry]:
    """Install a plugin for one test: its name, and what its module has; functions called ``zoo_…`` are its hooks."""

    def install(name: str, **contents: object) -> Registry:
        module = types.ModuleType(f"zoo_{name}")
        for key, value in contents.items():
            setattr(module, key, hookimpl(value) if key.startswith("zoo_") and callable(value) else value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(registry().claims, name, (Plugin(name, module.__name__, f"zoo-{name}", "1.2"),))
        catalog_of.cache_clear()
        return registry()

    return install

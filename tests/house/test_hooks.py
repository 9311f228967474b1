"""Each hook, through a plugin that a stranger might write."""

import sys
import types

import pytest

import zoo
from zoo.registry import Plugin, Registry


class Nothing(zoo.Provider):
    library = "nothing"

    def catalog(self):
        raise NotImplementedError

    def spec(self, reference):
        raise NotImplementedError

    def build(self, spec, *, weights):
        raise NotImplementedError


@pytest.fixture
def install(monkeypatch):
    """Give the registry of an environment with one plugin, whose hooks give these values."""

    def make(**hooks) -> Registry:
        module = types.ModuleType("a_strangers_plugin")
        for name, value in hooks.items():
            setattr(module, name, zoo.hookimpl(_giving(value)))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return Registry({"strange": (Plugin("strange", module.__name__, "zoo-strange", "1.2"),)})

    return make


def _giving(value):
    def hook():
        if isinstance(value, Exception):
            raise value
        return value

    return hook


def test_hook_zoo_provider(install):
    provider = Nothing()

    assert install(zoo_provider=provider).provider("strange") is provider
    with pytest.raises(zoo.PluginError, match="zoo-strange: zoo_provider must give a zoo.Provider, got str"):
        install(zoo_provider="nothing").provider("strange")
    with pytest.raises(zoo.PluginError, match="'strange' of zoo-strange 1.2 is broken: RuntimeError: no licence"):
        install(zoo_provider=RuntimeError("no licence")).provider("strange")


def test_hook_zoo_heads(install):
    plugins = install(zoo_heads={"plain": "zoo.contracts.head:Head", "lost": "nowhere:Head", "odd": "zoo.hooks:GROUP"})

    assert list(plugins.names("heads")) == ["lost", "odd", "plain"]
    assert plugins.head_class("plain") is zoo.Head
    with pytest.raises(zoo.PluginError, match="'lost' of zoo-strange cannot be loaded from 'nowhere:Head'"):
        plugins.head_class("lost")
    with pytest.raises(zoo.PluginError, match="must be a zoo.Head, got 'zoo'"):
        plugins.head_class("odd")
    with pytest.raises(zoo.UnknownName, match="No head is called 'plane'; .* Did you mean 'plain'"):
        plugins.head_class("plane")


def test_hook_zoo_methods(install):
    plugins = install(zoo_methods={"plain": "zoo.contracts.method:Method"}, zoo_heads=None)

    assert list(plugins.names("methods")) == ["plain"]
    assert plugins.names("heads") == {}
    assert plugins.method_class("plain") is zoo.Method
    with pytest.raises(zoo.PluginError, match="zoo_methods must give a mapping of names to 'module:Class'"):
        install(zoo_methods=["plain"]).plugin("strange").methods  # noqa: B018
    with pytest.raises(zoo.UnknownName, match="there are .*zoo_methods must give a mapping"):
        install(zoo_methods=["plain"]).method_class("plain")

"""The registry: found by metadata, loaded one at a time, a broken plugin behind a fence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo.contracts.head import Head, Needs
from zoo.contracts.method import Method
from zoo.contracts.provider import Provider
from zoo.errors import PluginError, UnknownName, ZooError
from zoo.registry import Registry, list_plugins, registry

HEAD = "zoo_heads.classifier:Classifier"
HOOKS = """
from zoo.hooks import hookimpl
import zoo
calls = []
@hookimpl
def zoo_heads():
    calls.append("zoo_heads")
    return {heads}
@hookimpl
def zoo_methods():
    calls.append("zoo_methods")
    return {{"tune": "zoo_methods.fine_tuning:FineTuning"}}
"""
SOUND = HOOKS.format(heads={"tall": HEAD})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one plugin as pip would: metadata, and a module beside it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def make(name: str, source: str = SOUND, *, package: str | None = None) -> str:
        package = package or f"zoo-{name}"
        module = package.replace("-", "_") + "_made_up"
        info = tmp_path / f"{package.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")
        (tmp_path / f"{module}.py").write_text(source)
        modules.append(module)
        return module

    yield make
    for module in modules:
        sys.modules.pop(module, None)


def test_discovering_reads_metadata_and_imports_nothing(install):
    module = install("acme", "raise SystemExit('imported')")
    found = Registry.discover()

    assert module not in sys.modules
    assert (found.plugin("acme").distribution, found.plugin("acme").version) == ("zoo-acme", "1.2")


def test_our_own_plugins_come_through_the_same_door():
    found = Registry.discover()

    assert {"timm", "torchvision", "hf", "pypi", "heads", "methods"} <= set(found.claims)
    assert all(plugin.distribution == "headzoo" for name in ("timm", "heads") for plugin in found.claims[name])


def test_discovering_in_a_fresh_process_imports_neither_torch_nor_a_plugin():
    code = (
        "import sys; from zoo.registry import registry; registry();"
        "print([m for m in ('torch', 'timm', 'zoo_timm', 'zoo_heads', 'zoo_torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.strip() == "[]"


def test_asking_for_one_plugin_imports_no_other(install):
    asked, other = install("acme"), install("other")
    Registry.discover().plugin("acme").heads  # noqa: B018

    assert asked in sys.modules
    assert other not in sys.modules


def test_hook_zoo_provider(registry_with):
    class Acme(Provider):
        library = "acme"
        catalog = spec = build = None

    given = Acme()
    found = registry_with("acme", zoo_provider=lambda: given)

    assert found.provider("acme") is given
    assert found.provider("acme") is given


def test_hook_zoo_heads(registry_with):
    from zoo_heads.classifier import Classifier

    found = registry_with("acme", zoo_heads=lambda: {"tall": HEAD})

    assert found.head_class("tall") is Classifier
    assert found.names("heads")["tall"].name == "acme"
    assert found.owner("heads", "tall").distribution == "zoo-acme"


def test_hook_zoo_methods(registry_with):
    found = registry_with("acme", zoo_methods=lambda: {"tune": "zoo_methods.fine_tuning:FineTuning"})

    assert issubclass(found.method_class("tune"), Method)
    assert found.names("methods")["tune"].name == "acme"


def test_each_hook_is_called_once(install):
    module = install("acme")
    found = Registry.discover()
    for _ in range(3):
        found.head_class("tall")
        found.names("heads")
        found.method_class("tune")

    assert sorted(sys.modules[module].calls) == ["zoo_heads", "zoo_methods"]


def test_a_plugin_may_leave_every_hook_out(registry_with):
    found = registry_with("acme")

    assert found.plugin("acme").heads == {}
    assert found.plugin("acme").methods == {}
    with pytest.raises(UnknownName, match="'acme' has no backbones"):
        found.provider("acme")


BROKEN = {
    "an import error": ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named"),
    "a syntax error": ("def broken(:", "SyntaxError"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "an exit in a hook": (SOUND.replace("return {'tall'", "raise SystemExit(4)\n    return {'tall'"), "SystemExit: 4"),
    "an error in a hook": (SOUND.replace("return {'tall'", "1 / 0\n    return {'tall'"), "ZeroDivisionError"),
    "an unknown argument": (SOUND.replace("def zoo_heads()", "def zoo_heads(colour)"), "colour"),
    "a misspelt hook": (SOUND.replace("def zoo_heads()", "def zoo_haeds()"), "zoo_haeds"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_named_with_its_package_and_breaks_nothing_else(install, fault):
    source, reason = BROKEN[fault]
    install("acme", source)
    install("other", HOOKS.format(heads={"wide": HEAD}))
    found = Registry.discover()

    with pytest.raises(PluginError, match=r"'acme' of zoo-acme 1\.2 is broken") as caught:
        found.plugin("acme").heads  # noqa: B018
    assert reason in str(caught.value)
    assert "ZOO_DISABLE_PLUGINS=acme" in str(caught.value)
    assert found.head_class("wide")
    assert found.head_class("classifier")
    assert "tall" not in found.names("heads")


def test_a_broken_plugin_is_tried_once_and_reported_again(install):
    install("acme", "import sys; sys.tried = getattr(sys, 'tried', 0) + 1; raise ValueError('no')")
    found = Registry.discover()
    try:
        for _ in range(2):
            with pytest.raises(PluginError, match="ValueError: no"):
                found.plugin("acme").heads  # noqa: B018

        assert sys.tried == 1
    finally:
        vars(sys).pop("tried", None)


@pytest.mark.parametrize("given", [["tall"], "tall", {"tall": 3}, {3: HEAD}, {"tall": None}], ids=str)
def test_names_of_the_wrong_type_are_a_breach_of_that_plugin(registry_with, given):
    found = registry_with("acme", zoo_heads=lambda: given)

    with pytest.raises(PluginError, match="'acme' of zoo-acme: zoo_heads must give a mapping"):
        found.plugin("acme").heads  # noqa: B018
    assert found.head_class("classifier")


def test_a_provider_of_the_wrong_type_is_a_breach_of_that_plugin(registry_with):
    found = registry_with("acme", zoo_provider=lambda: object())

    with pytest.raises(PluginError, match=r"'acme' of zoo-acme: zoo_provider must give a zoo\.Provider, got object"):
        found.provider("acme")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("zoo_heads.classifier:Nothing", "cannot be loaded"),
        ("no_such_module_at_all:Head", "cannot be loaded"),
        ("no module", "cannot be loaded"),
        ("zoo.errors:nearest", r"must be a zoo\.Head"),
        ("builtins:int", r"must be a zoo\.Head"),
    ],
)
def test_a_head_that_cannot_be_loaded_is_named_with_its_package(registry_with, target, words):
    found = registry_with("acme", zoo_heads=lambda: {"tall": target})

    with pytest.raises(PluginError, match=words) as caught:
        found.head_class("tall")
    assert "zoo-acme" in str(caught.value)


def test_a_class_of_this_process_can_be_a_head(registry_with):
    class Tall(Head):
        @classmethod
        def needs(cls, spec, config, context):
            return {"main": Needs(pooled=True)}

    assert registry_with("acme", Tall=Tall, zoo_heads=lambda: {"tall": "zoo_acme:Tall"}).head_class("tall") is Tall


def test_two_packages_that_claim_one_name_are_both_named(install):
    first, second = install("acme", package="zoo-first"), install("acme", package="zoo-second")
    found = Registry.discover()

    with pytest.raises(PluginError, match="'acme' is claimed by") as caught:
        found.plugin("acme")
    assert "zoo-first 1.2" in str(caught.value)
    assert "zoo-second 1.2" in str(caught.value)
    assert not {first, second} & set(sys.modules)
    assert found.head_class("classifier")


def test_two_plugins_that_give_one_head_are_both_named_when_it_is_used(install):
    install("acme", HOOKS.format(heads={"tall": HEAD, "wide": HEAD}))
    install("other", HOOKS.format(heads={"tall": HEAD}))
    found = Registry.discover()

    with pytest.raises(PluginError, match="'tall' is given by zoo-acme and zoo-other"):
        found.head_class("tall")
    assert found.head_class("wide")


def test_a_disabled_plugin_is_not_there(install, monkeypatch):
    install("acme", "raise SystemExit")
    install("other")
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "acme, heads")
    found = Registry.discover()

    assert "acme" not in found.claims
    assert "heads" not in found.claims
    assert "other" in found.claims


def test_a_disabled_claimant_makes_room_for_no_other(install, monkeypatch):
    install("acme", package="zoo-first")
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", " ,")

    assert "acme" in Registry.discover().claims


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda r: r.provider("tim"),
            ["No plugin is called 'tim'", "Did you mean 'timm'?", "installed:", "torchvision"],
        ),
        (lambda r: r.plugin("xyzzy"), ["No plugin is called 'xyzzy'", "installed:"]),
        (lambda r: r.head_class("clasifier"), ["No head is called 'clasifier'", "Did you mean 'classifier'?"]),
        (lambda r: r.method_class("fine-tunning"), ["No method is called 'fine-tunning'", "Did you mean"]),
        (lambda r: r.provider("heads"), ["'heads' has no backbones"]),
    ],
    ids=["provider", "nothing near", "head", "method", "no provider"],
)
def test_an_unknown_name_is_answered_with_the_known_ones(ask, words):
    with pytest.raises(UnknownName, match=r"^[^\n]+$") as caught:
        ask(registry())

    assert isinstance(caught.value, ZooError)
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_unknown_head_says_which_plugins_could_not_be_asked(install):
    install("acme", "import a_library_that_is_not_there")

    with pytest.raises(UnknownName, match=r"No head is called 'tall'.*zoo-acme 1\.2 is broken"):
        Registry.discover().head_class("tall")


def test_the_list_of_plugins_says_how_each_is_and_never_raises(registry_with):
    registry_with("acme", zoo_heads=lambda: 1 / 0)
    registry_with("other", zoo_heads=lambda: {"wide": HEAD})
    by_name = {status.name: status for status in list_plugins()}

    assert not by_name["acme"].ok
    assert "ZeroDivisionError" in by_name["acme"].problem
    assert by_name["other"].heads == ("wide",)
    assert by_name["timm"].provider
    assert by_name["timm"].ok


def test_only_some_plugins_are_asked_for_heads_where_that_is_wanted(registry_with):
    asked = []

    def zoo_heads():
        asked.append(True)
        return {}

    known = registry_with("stranger", zoo_heads=zoo_heads)
    with known.asking(["heads"]):
        assert known.owner("heads", "classifier").name == "heads"
        assert "stranger" not in [plugin.name for plugin in known.usable()]
    assert asked == []
    with known.asking(["stranger"]), pytest.raises(UnknownName, match="No head is called 'classifier'"):
        known.owner("heads", "classifier")
    assert asked == [True]
    assert known.owner("heads", "classifier").name == "heads"

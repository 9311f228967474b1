"""``zoo plugins`` and ``zoo doctor``, with sound plugins and with broken ones."""

import pytest

import zoo.registry

BROKEN = {
    "import": "import no_such_module_at_all",
    "attribute": "import os; os.no_such_attribute",
    "syntax": "def (",
    "exit": "import sys; sys.exit(3)",
    "value": "raise ValueError('\\x1b[31m[link=http://x]here')",
    "hook": "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_heads(): raise RuntimeError('no')",
    "unknown": "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_nonsense(): return 1",
    "type": "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_heads(): return ['a']",
    "provider": "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_provider(): return 7",
    "recursion": "def f(): f()\nf()",
}


def test_plugins_lists_what_each_gives(zoo):
    plain, told = zoo("plugins"), zoo("plugins", "--json")

    assert plain.code == told.code == 0
    by_name = {one["name"]: one for one in told.json}
    assert by_name["timm"]["backbones"] > 1000
    assert "classifier" in by_name["heads"]["heads"]
    assert "fine_tuning" in by_name["methods"]["methods"]
    assert {one["state"] for one in told.json} == {"ok"}
    assert "headzoo" in plain.out


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_reported_and_breaks_nothing_else(zoo, install, kind):
    install("acme", BROKEN[kind])

    told = {one["name"]: one for one in zoo("plugins", "--json").json}
    assert told["acme"]["state"] == "broken"
    assert told["acme"]["distribution"] == "zoo-acme"
    assert told["heads"]["state"] == "ok"
    for argv in (["list", "test_resnet"], ["info", "timm:test_resnet"], ["resolve", "test_resnet"], ["plugins"]):
        result = zoo(*argv)
        assert result.code == 0
        assert "Traceback" not in result.out + result.err
    heads = zoo("list", "--heads")
    assert "classifier" in heads.out
    assert heads.err.count("warning: ") == 1
    assert "zoo-acme" in heads.err
    assert "\x1b" not in heads.err


def test_the_reason_says_how_to_go_on(zoo, install):
    install("acme", BROKEN["import"])

    result = zoo("plugins")

    assert "acme: The plugin 'acme' of zoo-acme 1.2 is broken: ModuleNotFoundError" in result.out
    assert "ZOO_DISABLE_PLUGINS=acme" in result.out


def test_a_name_that_two_packages_claim_is_told_for_both(zoo, install):
    install("acme", "", "zoo-one")
    install("acme", "", "zoo-two")

    told = [one for one in zoo("plugins", "--json").json if one["name"] == "acme"]

    assert sorted(one["distribution"] for one in told) == ["zoo-one", "zoo-two"]
    assert {one["state"] for one in told} == {"claimed twice"}
    assert all("uninstall one" in one["problem"] for one in told)


def test_doctor_tells_versions_devices_cache_and_plugins(zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").write_bytes(b"12345")

    plain, told = zoo("doctor"), zoo("doctor", "--json")

    assert plain.code == told.code == 0
    assert plain.out.endswith("All is well.\n")
    assert set(told.json["versions"]) == {
        *("headzoo", "torch", "torchvision", "timm", "transformers", "accelerate", "safetensors")
    }
    assert all(told.json["versions"].values())
    assert told.json["devices"]["cores"] >= 1
    assert told.json["cache"] == {"folder": str(tmp_path / "cache"), "bytes": 5, "writable": True}
    assert told.json["problems"] == []


def test_doctor_ends_with_1_if_a_plugin_is_broken(zoo, install):
    install("acme", BROKEN["syntax"])

    plain, told = zoo("doctor"), zoo("doctor", "--json")

    assert plain.code == told.code == 1
    assert "problem: The plugin 'acme'" in plain.out
    assert len(told.json["problems"]) == 1


def test_doctor_finds_a_head_whose_class_cannot_be_loaded(zoo, install):
    source = "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_heads(): return {'odd': 'zoo_acme_module:Missing'}"
    install("acme", source)

    assert {one["name"]: one["state"] for one in zoo("plugins", "--json").json}["acme"] == "ok"
    told = zoo("doctor", "--json")
    assert told.code == 1
    assert "odd" in told.json["problems"][0]
    listed = {one["name"]: one["summary"] for one in zoo("list", "--heads", "--json").json}
    assert listed["odd"].startswith("broken: ")


def test_doctor_finds_a_head_that_two_plugins_give(zoo, install):
    source = "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_heads(): return {'classifier': 'json:JSONDecoder'}"
    install("acme", source)

    assert any("classifier" in problem for problem in zoo("doctor", "--json").json["problems"])


def test_doctor_finds_a_cache_that_cannot_be_one(zoo, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))

    result = zoo("doctor", "--json")

    assert result.code == 1
    assert "ZOO_CACHE" in result.json["problems"][0]


def test_list_plugins_never_raises(monkeypatch, install):
    install("acme", "")
    monkeypatch.setattr(zoo.registry.Plugin, "_call", lambda self, hook: 1 / 0)

    statuses = zoo.registry.list_plugins()

    assert statuses
    assert not any(status.ok for status in statuses)

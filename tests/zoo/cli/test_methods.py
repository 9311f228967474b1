"""``zoo methods``: which training methods there are, and when to use which."""

import pytest

from zoo.registry import registry

OWN = sorted(name for name, plugin in registry().names("methods").items() if plugin.distribution == "headzoo")


def test_methods_are_listed_with_what_they_do_and_when_to_use_them(zoo):
    plain, told = zoo("methods"), zoo("methods", "--json")

    assert plain.code == told.code == 0
    by_name = {one["name"]: one for one in told.json}
    assert set(OWN) <= set(by_name)
    one = by_name["feature_extraction"]
    kind = registry().method_class("feature_extraction")
    assert (one["summary"], one["when"], one["distribution"]) == (kind.summary, kind.when, "headzoo")
    assert "feature_extraction" in plain.out
    assert kind.when.split()[0] in plain.out


def test_a_pattern_chooses_by_name(zoo):
    assert {one["name"] for one in zoo("methods", "few", "--json").json} == {"few_shot"}
    assert {one["name"] for one in zoo("list", "few*", "--methods", "--json").json} == {"few_shot"}
    assert zoo("methods", "no_such").code == 0
    assert "No method matches" in zoo("methods", "no_such").err


@pytest.mark.parametrize("name", OWN)
def test_every_method_of_zoo_says_in_a_sentence_when_to_use_it(name):
    when = registry().method_class(name).when

    assert when
    assert "\n" not in when
    assert len(when) < 160


def test_a_broken_method_is_told_and_breaks_nothing(zoo, install):
    source = "from zoo.hooks import hookimpl\n@hookimpl\ndef zoo_methods(): return {'odd': 'zoo_acme_module:Nothing'}"
    install("acme", source)

    told = {one["name"]: one for one in zoo("methods", "--json").json}

    assert told["odd"]["summary"].startswith("broken: ")
    assert told["odd"]["when"] is None
    assert told["fine_tuning"]["when"]


@pytest.mark.slow
def test_shots_are_an_option_of_fit(zoo, pets, tmp_path):
    common = ["fit", pets, "--backbone", "timm:test_resnet", "--weights", "none", "--epochs", "1", "--device", "cpu"]
    found = zoo(*common, "--out", tmp_path / "few", "--shots", "3", "--json")

    assert found.code == 0, found.err
    assert found.json["rows"] == {"train": 6, "validation": 4}
    refused = zoo(*common, "--out", tmp_path / "more", "--shots", "9")
    assert refused.code == 2
    assert "shots=9 needs as many labelled training rows of each class" in refused.err

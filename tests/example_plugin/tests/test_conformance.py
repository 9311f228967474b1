"""zoo's conformance kit on all that this plugin gives, and what is its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo_acme
from safetensors.torch import save_file
from zoo_acme.heads_then_all import HeadsThenAll
from zoo_acme.provider import AcmeProvider

import zoo
from zoo.catalog import read
from zoo.testing import check_head, check_method
from zoo.testing.catalogs import measure

HEAD = {"type": "temperature_classifier", "name": "species", "classes": ["cat", "dog"], "temperature": 2.0}


@pytest.mark.zoo_backbone("acme:tinynet", skip=["export", "compiled"])
@pytest.mark.zoo_backbone("acme:tinynet?width=4")
def test_the_backbone_conforms(backbone_check: Callable[[], None]) -> None:
    backbone_check()


def test_the_head_conforms() -> None:
    check_head(HEAD, backbone="acme:tinynet?width=4")


def test_the_method_conforms() -> None:
    found = check_method("heads_then_all", backbone="acme:tinynet?width=4")

    assert found.betters == "kind/balanced_accuracy"
    assert found.several_tasks == "works"


def test_a_higher_temperature_softens_the_probabilities_and_changes_no_label() -> None:
    picture = torch.randn(3, 64, 64)
    told = []
    for temperature in (0.5, 1.0, 4.0):
        model = zoo.build("acme:tinynet", {**HEAD, "temperature": temperature}, weights=None, seed=0)
        told.append(model.predict(picture)["species"].as_json())

    assert told[0]["probability"] > told[1]["probability"] > told[2]["probability"]
    assert len({row["label"] for row in told}) == 1


def test_the_first_half_trains_the_heads_only() -> None:
    outline = zoo.BackboneOutline((zoo.StageOutline("stem", 1, 8), zoo.StageOutline("s1", 2, 80)))
    plan = HeadsThenAll().plan({"main": outline}, epochs=5, lr=0.1)

    assert [plan.at(epoch)["main.s1"].trainable for epoch in range(5)] == [False, False, True, True, True]
    assert all(plan.at(epoch)["heads"].trainable for epoch in range(5))


def test_weights_come_from_a_safetensors_file(tmp_path: Path) -> None:
    made = zoo.build("acme:tinynet", weights=None, seed=1)
    save_file(made.backbones["main"].native.state_dict(), tmp_path / "tinynet.safetensors")

    again = zoo.build("acme:tinynet", weights=tmp_path / "tinynet.safetensors")

    picture = torch.randn(1, 3, 64, 64)
    assert torch.equal(made.features(picture)["main"].pooled, again.features(picture)["main"].pooled)


def test_there_are_no_pretrained_weights_and_the_message_says_what_to_do() -> None:
    with pytest.raises(zoo.WeightsError, match="weights=None"):
        zoo.build("acme:tinynet")


def test_the_catalog_says_what_the_provider_gives() -> None:
    provider = AcmeProvider()
    entries = tuple(measure(provider, "acme", entry) for entry in provider.catalog().entries)

    assert read(Path(zoo_acme.__file__).with_name("catalog.json")).entries == entries

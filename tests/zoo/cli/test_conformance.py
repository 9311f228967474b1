"""``zoo check``: a table of checks, and exit codes that a script can trust."""

from __future__ import annotations

import pytest

from zoo.testing import CHECKS

FAULTY = """
import torch
from torch import nn
import zoo
from zoo.hooks import hookimpl

class Gives(zoo.Backbone):
    def extract(self, inputs, want):
        return zoo.Features(pooled=self.native(inputs["image"]).mean((2, 3))[:, 1:])

class Acme(zoo.Provider):
    library = "torch"
    def catalog(self):
        return zoo.Catalog(library="torch", version="2", entries=(zoo.CatalogEntry(name="net"),))
    def spec(self, reference):
        entry = zoo.InputSpec(name="image", kind="image", rank=4, channels=3, size=(8, 8))
        stages = tuple(zoo.StageSpec(name=n, module=m) for n, m in (("stem", ""), ("s1", "0"), ("post", "")))
        return zoo.BackboneSpec(reference=str(reference), provider="acme", architecture="net", library="torch",
            library_version="2", modality="image", inputs=(entry,), pooled_dim=4, stages=stages,
            capabilities=("dynamic_size", "pooled"), parameters=112, pooling="mean")
    def build(self, spec, *, weights):
        native = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        return Gives(spec, native, zoo.StageMap(native, {"s1": "0"}))

@hookimpl
def zoo_provider():
    return Acme()
"""


def test_a_backbone_that_keeps_the_contract_gives_a_table_and_0(zoo):
    result = zoo("check", "timm:test_resnet", "--only", "freezing", "--only", "tokens", "--only", "pooled")

    assert result.code == 0
    assert [line.split()[:2] for line in result.out.splitlines()[:4]] == [
        ["check", "result"],
        ["pooled", "passed"],
        ["tokens", "skipped"],
        ["freezing", "passed"],
    ]
    assert "it does not declare tokens" in result.out
    assert result.out.splitlines()[-1] == "timm:test_resnet: 2 passed, 0 failed, 1 do not apply"


def test_a_broken_rule_gives_its_reason_and_1(zoo, install):
    install("acme", FAULTY)
    plain = zoo("check", "acme:net", "--only", "pooled", "--only", "spec_json")
    told = zoo("check", "acme:net", "--only", "pooled", "--only", "spec_json", "--json")

    assert plain.code == told.code == 1
    assert "must have the shape that the spec declares, (2, 4), got (2, 3)" in plain.out
    assert told.json["backbone"] == "acme:net"
    assert told.json["ok"] is False
    assert [(one["name"], one["result"]) for one in told.json["checks"]] == [
        ("spec_json", "passed"),
        ("pooled", "failed"),
    ]
    assert {"summary", "reason", "seconds"} <= set(told.json["checks"][0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no_such_net"], "No backbone is called 'no_such_net'"),
        (["timm:test_resnet?widht=3"], "no option 'widht'"),
        (["timm:test_resnet", "--only", "pool"], "no check 'pool'; the nearest are pooled"),
        (["timm:test_resnet", "--skip", "compile"], "no check 'compile'"),
        ([], "give a backbone to check"),
    ],
)
def test_a_bad_name_is_one_line_and_2(zoo, argv, message):
    result = zoo("check", *argv)

    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert result.err.count("\n") == 1


def test_list_gives_every_check_with_what_must_hold(zoo):
    plain, told = zoo("check", "--list"), zoo("check", "--list", "--json")

    assert plain.code == told.code == 0
    assert [one["name"] for one in told.json] == list(CHECKS)
    assert all(f"{name} " in plain.out and one.summary in plain.out for name, one in CHECKS.items())
    assert [one["name"] for one in zoo("check", "--list", "--json", "--only", "trim").json] == ["trim"]

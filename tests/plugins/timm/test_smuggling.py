"""A spec may come from a stranger's bundle: what zoo never writes into one is refused before timm sees it."""

from dataclasses import replace

import pytest
import timm

from zoo.errors import ConfigError
from zoo.reference import Reference
from zoo.registry import registry


@pytest.fixture(scope="module")
def spec():
    return registry().provider("timm").spec(Reference.parse("timm:test_resnet.r160_in1k"))


@pytest.mark.parametrize(
    "smuggled",
    [
        {"architecture": "hf-hub:somebody/model"},
        {"architecture": "local-dir:/somewhere"},
        {"architecture": "timm/test_resnet"},
        {"architecture": ["test_resnet"]},
        {"tag": "hf-hub:somebody/model"},
        {"tag": ["r160_in1k"]},
        {"arguments": ["checkpoint_path"]},
        {"checkpoint_path": "/somewhere/model.pth"},
        {"arguments": {"checkpoint_path": "/somewhere/model.pth"}},
        {"arguments": {"pretrained": True}},
        {"arguments": {"pretrained_cfg": {"url": "file:///somewhere"}}},
        {"arguments": {"pretrained_cfg_overlay": {"hf_hub_id": "somebody/model"}}},
        {"arguments": {"global_pool": {"a": "dict"}}},
        {"arguments": {"act_layer": "torch.nn.ReLU"}},
    ],
    ids=lambda smuggled: str(next(iter(smuggled.values()))),
)
def test_what_zoo_never_writes_is_refused_before_timm_sees_it(spec, smuggled, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("timm was asked to build it"))
    hostile = replace(spec, construction={**spec.construction, **smuggled})

    with pytest.raises(ConfigError, match=r"is no (architecture|tag) of timm|zoo never writes|must be a mapping"):
        registry().provider("timm").build(hostile, weights=None)

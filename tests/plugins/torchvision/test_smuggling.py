"""A spec may come from a stranger's bundle: what zoo never writes into one is refused before torchvision sees it."""

from dataclasses import replace

import pytest
import torchvision

from zoo.errors import ZooError
from zoo.reference import Reference
from zoo.registry import registry


@pytest.mark.parametrize(
    "smuggled",
    [
        {"architecture": "fcn_resnet50"},
        {"architecture": "https://somewhere/model.pth"},
        {"arguments": {"weights": "DEFAULT"}},
        {"arguments": {"weights_backbone": "DEFAULT"}},
        {"arguments": {"pretrained": True}},
        {"arguments": {"progress": True}},
        {"arguments": {"norm_layer": {"a": "dict"}}},
        {"arguments": {"num_classes": 1000000000}},
        {"in_channels": "three"},
        {"drop_path": 0.5},
        {"tag": "IMAGENET1K_V9"},
        {"tag": ["IMAGENET1K_V1"]},
        {"surplus": 1},
    ],
    ids=lambda smuggled: str(next(iter(smuggled.values()))),
)
def test_what_zoo_never_writes_is_refused_before_torchvision_sees_it(smuggled, monkeypatch):
    spec = registry().provider("torchvision").spec(Reference.parse("torchvision:resnet18"))
    monkeypatch.setattr(torchvision.models, "get_model", lambda *a, **k: pytest.fail("torchvision was asked"))
    hostile = replace(spec, construction={**spec.construction, **smuggled})

    with pytest.raises(ZooError):
        registry().provider("torchvision").build(hostile, weights=None)

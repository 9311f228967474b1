"""torchvision called directly: the independent truth that the provider is compared with.

Every path is written out here, so that a mistake in the provider's own table shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from zoo.reference import Reference
from zoo_torchvision.backbone import TorchvisionBackbone
from zoo_torchvision.provider import TorchvisionProvider


@dataclass(frozen=True)
class Case:
    """One architecture: what its library calls the last layer and the ends of the stages."""

    name: str
    last: str
    stages: tuple[tuple[str, str], ...]
    size: int = 64
    layout: str = "NCHW"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    library: dict[str, Any] = field(default_factory=dict, hash=False)
    dropped: tuple[str, ...] = ()


def _stages(*paths: str, stem: str | None = None) -> tuple[tuple[str, str], ...]:
    first = (("stem", stem),) if stem else ()
    return (*first, *((f"s{number}", path) for number, path in enumerate(paths, 1)))


def _features(*numbers: int, stem: str | None = None) -> tuple[tuple[str, str], ...]:
    return _stages(*(f"features.{number}" for number in numbers), stem=stem)


RESNET = _stages("layer1", "layer2", "layer3", "layer4", stem="relu")
REGNET = _stages(*(f"trunk_output.block{n}" for n in (1, 2, 3, 4)), stem="stem")
PRETRAINED = {"init_weights": False, "transform_input": True, "aux_logits": True}

CASES = (
    Case("alexnet", "classifier.6", _features(2, 5, 12)),
    Case("convnext_tiny", "classifier.2", _features(1, 3, 5, 7)),
    Case(
        "densenet121",
        "classifier",
        _stages(*(f"features.denseblock{n}" for n in (1, 2, 3, 4)), stem="features.relu0"),
    ),
    Case("efficientnet_b0", "classifier.1", _features(1, 2, 3, 5, 7)),
    Case("efficientnet_v2_s", "classifier.1", _features(1, 2, 3, 5, 6)),
    Case(
        "googlenet",
        "fc",
        _stages("conv3", "inception3b", "inception4e", "inception5b", stem="conv1"),
        library=PRETRAINED,
        dropped=("aux1", "aux2"),
    ),
    Case(
        "inception_v3",
        "fc",
        _stages("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c", stem="Conv2d_2b_3x3"),
        size=96,
        library=PRETRAINED,
        dropped=("AuxLogits",),
    ),
    Case("maxvit_t", "classifier.5", _stages(*(f"blocks.{n}" for n in range(4)), stem="stem"), size=224),
    Case("mnasnet0_5", "classifier.1", _stages(*(f"layers.{n}" for n in (7, 8, 9, 11, 13)))),
    Case("mobilenet_v2", "classifier.1", _features(1, 3, 6, 13, 17)),
    Case("mobilenet_v3_large", "classifier.3", _features(1, 3, 6, 12, 16)),
    Case("mobilenet_v3_small", "classifier.3", _features(1, 3, 8, 12, stem="features.0")),
    Case("regnet_x_400mf", "fc", REGNET),
    Case("regnet_y_400mf", "fc", REGNET),
    Case("resnet18", "fc", RESNET),
    Case("resnet50", "fc", RESNET, size=96),
    Case("resnext50_32x4d", "fc", RESNET),
    Case("wide_resnet50_2", "fc", RESNET),
    Case("shufflenet_v2_x0_5", "fc", _stages("stage2", "stage3", "stage4", stem="maxpool")),
    Case("squeezenet1_0", "classifier.1", _features(5, 10, 12, stem="features.1")),
    Case("squeezenet1_1", "classifier.1", _features(4, 7, 12, stem="features.1")),
    Case("swin_t", "head", _features(1, 3, 5, 7), layout="NHWC"),
    Case("swin_v2_t", "head", _features(1, 3, 5, 7), layout="NHWC"),
    Case("vgg11", "classifier.6", _features(2, 5, 10, 15, 20)),
    Case("vgg11_bn", "classifier.6", _features(3, 7, 14, 21, 28)),
    Case(
        "vit_b_32",
        "heads.head",
        _stages(*(f"encoder.layers.encoder_layer_{n}" for n in (2, 5, 8, 11))),
        layout="tokens",
        options={"img_size": 64},
        library={"image_size": 64},
    ),
)


@lru_cache(maxsize=2)
def model(case: Case) -> nn.Module:
    """Build the library's model with random weights, its batch statistics no longer 0 and 1."""
    torch.manual_seed(0)
    built = torchvision.models.get_model(case.name, weights=None, **case.library)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return built.eval()


def trunk_state(case: Case) -> dict[str, Tensor]:
    """Give the library's state dict without the last layer and auxiliary classifiers."""
    gone = tuple(path + "." for path in (case.last, *case.dropped))
    return {key: tensor for key, tensor in model(case).state_dict().items() if not key.startswith(gone)}


@torch.no_grad()
def activations(case: Case, image: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Run the library's model; give its logits, what its last layer received, and its stages' outputs as NCHW."""
    library, seen = model(case), {}

    def keep(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, output.clone())

    handles = [library.get_submodule(path).register_forward_hook(keep(stage)) for stage, path in case.stages]
    received: list[Tensor] = []
    last = library.get_submodule(case.last)
    handles.append(last.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0].clone())))
    try:
        logits = library(image)
    finally:
        for handle in handles:
            handle.remove()
    return logits, received[0], {stage: _nchw(case, output) for stage, output in seen.items()}


def _nchw(case: Case, output: Tensor) -> Tensor:
    if case.layout == "NHWC":
        return output.permute(0, 3, 1, 2)
    if case.layout == "tokens":
        batch, tokens, channels = output.shape
        side = case.size // 32
        assert tokens == side * side + 1
        return output[:, 1:].reshape(batch, side, side, channels).permute(0, 3, 1, 2)
    return output


@dataclass(frozen=True)
class Truth:
    """What the library gives for one picture, and our backbone with the same weights."""

    case: Case
    image: Tensor
    logits: Tensor
    received: Tensor
    maps: dict[str, Tensor]
    backbone: TorchvisionBackbone

    @property
    def last(self) -> nn.Module:
        return model(self.case).get_submodule(self.case.last)


# A smaller member of each of these families runs in the quick loop.
LARGE = {"efficientnet_v2_s", "resnext50_32x4d", "maxvit_t", "swin_v2_t", "vgg11", "vgg11_bn", "wide_resnet50_2"}
PARAMS = [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * (case.name in LARGE)) for case in CASES]


@pytest.fixture(scope="session", params=PARAMS)
def truth(request) -> Truth:
    case = request.param
    image = torch.rand(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    logits, received, maps = activations(case, image)
    provider = TorchvisionProvider()
    backbone = provider.build(provider.spec(reference(case.name, **case.options)), weights=None).eval()
    backbone.native.load_state_dict(trunk_state(case), strict=True)
    return Truth(case, image, logits, received, maps, backbone)


def reference(name: str, **options) -> Reference:
    """Name an architecture with its default tag."""
    tag = "" if "." in name else f".{torchvision.models.get_model_weights(name).DEFAULT.name}"
    return Reference("torchvision", name + tag, options=options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def provider() -> TorchvisionProvider:
    return TorchvisionProvider()


@pytest.fixture
def make(provider):
    """Build a backbone by name and options."""

    def built(name: str, *, weights=None, **options) -> TorchvisionBackbone:
        return provider.build(provider.spec(reference(name, **options)), weights=weights).eval()

    return built

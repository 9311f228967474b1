"""The families of torchvision's classification models, one row each."""

from __future__ import annotations

from typing import Any

from zoo_torchvision.anatomy import Anatomy

__all__ = ["CLASSIFIERS"]


def _in(parent: str, *children: int | str) -> tuple[str, ...]:
    return tuple(f"{parent}.{child}" for child in children)


def _vgg(name: str, *pools: int) -> Anatomy:
    return Anatomy(
        members=(name,),
        conv="features.0",
        begins="features.0",
        ends=_in("features", *pools),
        classifier="classifier.6",
        trunk=("features",),
        pooling="average to 7 by 7, flattened, two hidden layers",
        least=32,
        rates=("dropout",),
    )


def _squeezenet(name: str, least: int, *ends: int) -> Anatomy:
    return Anatomy(
        members=(name,),
        conv="features.0",
        stem="features.1",
        begins="features.2",
        ends=_in("features", *ends),
        classifier="classifier.1",
        inert=("classifier.2",),
        trunk=("features",),
        pooling="global average of what the convolutional classifier sees",
        least=least,
        rates=("dropout",),
    )


def _mobilenet(*members: str, ends: tuple[int, ...], classifier: int, stem: bool = False, **more: Any) -> Anatomy:
    return Anatomy(
        members=members,
        conv="features.0.0",
        stem="features.0" if stem else None,
        begins="features.1",
        ends=_in("features", *ends),
        classifier=f"classifier.{classifier}",
        trunk=("features",),
        rates=("dropout",),
        **more,
    )


def _vit(member: str, *, depth: int, patch: int) -> Anatomy:
    ends = [f"encoder_layer_{depth * quarter // 4 - 1}" for quarter in (1, 2, 3, 4)]
    return Anatomy(
        members=(member,),
        conv="conv_proj",
        begins="encoder.layers.encoder_layer_0",
        ends=_in("encoder.layers", *ends),
        classifier="heads.head",
        layout="tokens",
        tokens="encoder",
        pooling="class token after the last norm",
        step=patch,
        size_keyword="image_size",
        rates=("dropout", "attention_dropout"),
    )


CLASSIFIERS: tuple[Anatomy, ...] = (
    Anatomy(
        members=("vgg16.IMAGENET1K_FEATURES",),  # the file holds no numbers for the hidden layers
        conv="features.0",
        begins="features.0",
        ends=_in("features", 4, 9, 16, 23, 30),
        dropped=("avgpool", "classifier"),
        left_out=("classifier",),
        trunk=("features",),
        pooling="global average of the last map",
        least=32,
    ),
    Anatomy(
        members=("alexnet",),
        conv="features.0",
        begins="features.0",
        ends=_in("features", 2, 5, 12),
        classifier="classifier.6",
        trunk=("features",),
        pooling="average to 6 by 6, flattened, two hidden layers",
        least=63,
        rates=("dropout",),
    ),
    Anatomy(
        members=("convnext_*",),
        conv="features.0.0",
        begins="features.1",
        ends=_in("features", 1, 3, 5, 7),
        classifier="classifier.2",
        pooling="global average, then layer norm",
        least=32,
        trunk=("features",),
        drop_path="keyword",
    ),
    Anatomy(
        members=("densenet*",),
        conv="features.conv0",
        stem="features.relu0",
        begins="features.pool0",
        ends=_in("features", "denseblock1", "denseblock2", "denseblock3", "denseblock4"),
        classifier="classifier",
        trunk=("features",),
        least=29,
        rates=("drop_rate",),
        checkpoint_flag="memory_efficient",
    ),
    _mobilenet("efficientnet_v2_s", ends=(1, 2, 3, 5, 6), classifier=1, least=33, drop_path="keyword"),
    _mobilenet("efficientnet_v2_[ml]", ends=(1, 2, 3, 5, 7), classifier=1, least=33, drop_path="keyword"),
    _mobilenet("efficientnet_b?", ends=(1, 2, 3, 5, 7), classifier=1, drop_path="keyword"),
    Anatomy(
        members=("googlenet",),
        conv="conv1.conv",
        stem="conv1",
        begins="maxpool1",
        ends=("conv3", "inception3b", "inception4e", "inception5b"),
        classifier="fc",
        left_out=("aux1", "aux2"),
        least=15,
        rates=("dropout",),
        arguments={"aux_logits": False, "init_weights": True},
        shifts_input=True,
    ),
    Anatomy(
        members=("inception_v3",),
        conv="Conv2d_1a_3x3.conv",
        stem="Conv2d_2b_3x3",
        begins="maxpool1",
        ends=("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
        classifier="fc",
        left_out=("AuxLogits",),
        least=75,
        rates=("dropout",),
        arguments={"aux_logits": False, "init_weights": True},
        shifts_input=True,
    ),
    Anatomy(
        members=("maxvit_t",),
        conv="stem.0.0",
        stem="stem",
        begins="blocks.0",
        ends=_in("blocks", 0, 1, 2, 3),
        classifier="classifier.5",
        pooling="global average, layer norm, one hidden layer",
        step=224,
        size_keyword="input_size",
        rates=("attention_dropout", "mlp_dropout"),
        drop_path="modules",
    ),
    Anatomy(
        members=("mnasnet*",),
        conv="layers.0",
        begins="layers.3",
        ends=_in("layers", 7, 8, 9, 11, 13),
        classifier="classifier.1",
        trunk=("layers",),
        rates=("dropout",),
    ),
    _mobilenet("mobilenet_v2", ends=(1, 3, 6, 13, 17), classifier=1),
    _mobilenet(
        "mobilenet_v3_large",
        ends=(1, 3, 6, 12, 16),
        classifier=3,
        pooling="global average, one hidden layer",
    ),
    _mobilenet(
        "mobilenet_v3_small",
        ends=(1, 3, 8, 12),
        classifier=3,
        stem=True,
        pooling="global average, one hidden layer",
    ),
    Anatomy(
        members=("regnet_*",),
        conv="stem.0",
        stem="stem",
        begins="trunk_output.block1",
        ends=_in("trunk_output", "block1", "block2", "block3", "block4"),
        classifier="fc",
    ),
    Anatomy(
        members=("resnet*", "resnext*", "wide_resnet*"),
        conv="conv1",
        stem="relu",
        begins="maxpool",
        ends=("layer1", "layer2", "layer3", "layer4"),
        classifier="fc",
    ),
    Anatomy(
        members=("shufflenet_v2_*",),
        conv="conv1.0",
        stem="maxpool",
        begins="stage2",
        ends=("stage2", "stage3", "stage4"),
        classifier="fc",
    ),
    _squeezenet("squeezenet1_0", 21, 5, 10, 12),
    _squeezenet("squeezenet1_1", 17, 4, 7, 12),
    Anatomy(
        members=("swin_*",),
        conv="features.0.0",
        begins="features.1",
        ends=_in("features", 1, 3, 5, 7),
        classifier="head",
        trunk=("features",),
        layout="NHWC",
        pooling="layer norm, then global average",
        least=4,
        rates=("dropout", "attention_dropout"),
        drop_path="modules",
    ),
    _vgg("vgg11", 2, 5, 10, 15, 20),
    _vgg("vgg11_bn", 3, 7, 14, 21, 28),
    _vgg("vgg13", 4, 9, 14, 19, 24),
    _vgg("vgg13_bn", 6, 13, 20, 27, 34),
    _vgg("vgg16", 4, 9, 16, 23, 30),
    _vgg("vgg16_bn", 6, 13, 23, 33, 43),
    _vgg("vgg19", 4, 9, 18, 27, 36),
    _vgg("vgg19_bn", 6, 13, 26, 39, 52),
    _vit("vit_b_16", depth=12, patch=16),
    _vit("vit_b_32", depth=12, patch=32),
    _vit("vit_l_16", depth=24, patch=16),
    _vit("vit_l_32", depth=24, patch=32),
    _vit("vit_h_14", depth=32, patch=14),
)

"""Segmentation: the pyramid, losses and metrics by hand, what masks mean, what is predicted, what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext
from zoo.contracts.masks import MISSING
from zoo.errors import CapabilityError, ConfigError, DataError, ShapeError, UnknownName
from zoo.registry import registry
from zoo.spec import HeadSpec, StageSpec
from zoo.testing import check_head
from zoo_heads.label_map import run_lengths
from zoo_heads.pyramid import Pyramid
from zoo_heads.segmentation import dice_loss

CLASSES = ["ground", "red", "blue"]
HEAD = {"type": "segmentation", "name": "map", "classes": CLASSES, "dim": 8}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def paint(streams):
    """Build a segmentation on the stream a, which has maps of reduction 4, 8 and 16."""

    def build(*names, **config):
        torch.manual_seed(0)
        given = {"classes": CLASSES, "dim": 8, **config}
        return streams(*names or ("a",)).build(HeadSpec(type="segmentation", name="map", config=given)).eval()

    return build


# --- the decoder


@torch.no_grad()
def test_the_pyramid_is_what_the_papers_say():
    torch.manual_seed(0)
    pyramid = Pyramid({"fine": 4, "middle": 5, "coarse": 6}, dim=8).eval()
    maps = {"fine": drawn(2, 4, 7, 9), "middle": drawn(2, 5, 4, 5), "coarse": drawn(2, 6, 2, 2)}

    def lateral(name):
        layer = pyramid.lateral[name]
        return torch.einsum("oc,bchw->bohw", layer.weight[..., 0, 0], maps[name]) + layer.bias[:, None, None]

    def smooth(name, level):
        conv, norm, _ = pyramid.smooth[name]
        padded = F.pad(level, (1, 1, 1, 1))
        height, width = level.shape[-2:]
        found = sum(
            torch.einsum("oc,bchw->bohw", conv.weight[..., y, x], padded[..., y : y + height, x : x + width])
            for y in range(3)
            for x in range(3)
        )
        grouped = found.reshape(2, norm.num_groups, -1)
        spread = (grouped.var(dim=2, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return ((grouped - grouped.mean(dim=2, keepdim=True)) / spread).reshape(found.shape).clamp(min=0)

    def nearest(level, height, width):
        rows = [y * level.shape[2] // height for y in range(height)]
        columns = [x * level.shape[3] // width for x in range(width)]
        return level[:, :, rows][:, :, :, columns]

    coarse = lateral("coarse")
    middle = lateral("middle") + nearest(coarse, 4, 5)
    fine = lateral("fine") + nearest(middle, 7, 9)
    expected = smooth("fine", fine) + sum(
        F.interpolate(smooth(name, level), size=(7, 9), mode="bilinear", align_corners=False)
        for name, level in (("middle", middle), ("coarse", coarse))
    )

    torch.testing.assert_close(pyramid(maps), expected)


@torch.no_grad()
def test_logits_are_as_large_as_the_picture(paint, draw_streams):
    head, features = paint(), draw_streams(2, "a")

    output = head(features)["map"]

    merged = head.pyramid(features["a"].maps)
    assert output.shape == (2, 3, 32, 32)  # the finest map has 8 rows, at reduction 4
    torch.testing.assert_close(
        output, F.interpolate(head.classify(merged), scale_factor=4, mode="bilinear", align_corners=False)
    )


def test_a_sample_is_the_same_alone_and_every_parameter_learns(paint, draw_streams):
    head, features = paint(loss="both"), draw_streams(3, "a")
    output = head(features)["map"]
    alone = head({"a": Features(maps={name: one[1:2] for name, one in features["a"].maps.items()})})["map"]

    head.loss(output, torch.randint(0, 3, (3, 32, 32), generator=torch.Generator().manual_seed(0))).backward()

    torch.testing.assert_close(alone, output[1:2])
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize(
    ("given", "config", "expected"),
    [
        ((2, 4, 8, 16, 32), {}, (4, 8, 16, 32)),
        ((8, 16), {}, (8, 16)),
        ((16, 16, 16), {}, (16,)),
        ((14,), {}, (14,)),
        ((2, 4, 8), {"reductions": [2, 8]}, (2, 8)),
    ],
)
def test_it_reads_the_usual_reductions_that_there_are(context, given, config, expected):
    stages = (
        StageSpec(name="stem"),
        *(StageSpec(name=f"s{n}", channels=3, reduction=float(r)) for n, r in enumerate(given)),
    )
    backbone = replace(context.streams["main"], stages=stages)
    told = HeadContext({"main": backbone}, context.lookup)
    spec = HeadSpec(type="segmentation", name="map", config={"classes": CLASSES, **config})

    assert told.needs(spec)["main"].reductions == expected
    assert tuple(told.build(spec).names) == tuple(sorted(expected))


def test_of_several_maps_of_one_reduction_the_last_is_read(paint):
    assert list(paint("b").names.values()) == ["s1", "s3"]


# --- masks


def test_pixel_values_become_classes_and_what_is_ignored_is_no_label(paint):
    head = paint(values=[0, 7, 300], ignore=9)

    target = head.encode([torch.tensor([[0, 7], [300, 9]]), None])

    assert target.tolist() == [[[0, 1], [2, MISSING]], [[MISSING, MISSING]] * 2]
    assert head.known(target).tolist() == [True, False]
    assert head.encode([None]).tolist() == [[[MISSING]]]


def test_a_pixel_value_that_no_class_has_is_named_with_those_that_are_known(paint):
    with pytest.raises(
        DataError,
        match=r"'map' knows no pixel value 3; its values are 0 \(ground\), 1 \(red\), 2 \(blue\), and 255 has",
    ):
        paint().encode([torch.tensor([[0, 3]])])
    with pytest.raises(DataError, match=r"no pixel value 255; its values are 0 \(ground\), 1 \(red\), 2 \(blue\)\.$"):
        paint(ignore=None).encode([torch.tensor([[0, 255]])])
    with pytest.raises(DataError, match=r"learns masks, .* got 'red'; read their column with"):
        paint().encode(["red"])
    with pytest.raises(ShapeError, match="integer dtype, got \\(2, 2\\) of float32"):
        paint().encode([torch.zeros(2, 2)])
    with pytest.raises(ShapeError, match="must have one size"):
        paint().encode([torch.zeros(2, 2).long(), torch.zeros(2, 3).long()])


def test_classes_are_taken_from_the_masks(context):
    spec = HeadSpec(type="segmentation", name="map", config={"target": "layout", "ignore": 4})
    complete = registry().head_class("segmentation").complete
    columns = {"layout": [torch.tensor([[5, 0], [4, 4]]), None, torch.tensor([[12]])]}

    done = complete(spec, columns, context)

    assert (done.config["classes"], done.config["values"]) == (["0", "5", "12"], [0, 5, 12])
    with pytest.raises(UnknownName, match="finds no label column 'layout'; there are"):
        complete(spec, {"other": []}, context)
    with pytest.raises(DataError, match=r"have the pixel values \[3\]; a segmentation needs 2 or more"):
        complete(spec, {"layout": [torch.tensor([[3, 4]])]}, context)


# --- loss and metrics


LOGITS = torch.tensor([[[[1.0, 0.0], [2.0, -1.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.5, 3.0]]]])
TARGET = torch.tensor([[[0, 1], [MISSING, 1]]])


def chances(y, x):
    powers = [math.exp(value) for value in LOGITS[0, :, y, x].tolist()]
    return [power / sum(powers) for power in powers]


KNOWN = [((0, 0), 0), ((0, 1), 1), ((1, 1), 1)]


def test_cross_entropy_is_the_mean_over_the_pixels_with_a_label(paint):
    expected = sum(-math.log(chances(*at)[kind]) for at, kind in KNOWN) / 3

    assert paint().loss(LOGITS, TARGET).item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_and_smoothing_are_those_of_the_cross_entropy(paint):
    weights, smoothing = [1.0, 3.0, 2.0], 0.3
    total = sum(
        (1 - smoothing) * weights[kind] * -math.log(chances(*at)[kind])
        + smoothing / 3 * sum(weight * -math.log(chance) for weight, chance in zip(weights, chances(*at), strict=True))
        for at, kind in KNOWN
    )

    loss = paint(class_weights=weights, label_smoothing=smoothing).loss(LOGITS, TARGET)

    assert loss.item() == pytest.approx(total / (1.0 + 3.0 + 3.0), rel=1e-5)


def dice_by_hand(weights=(1.0, 1.0)):
    sums = [sum(chances(*at)[kind] for at, _ in KNOWN) for kind in (0, 1)]
    ground = 2 * chances(0, 0)[0] / (sums[0] + 1)
    red = 2 * (chances(0, 1)[1] + chances(1, 1)[1]) / (sums[1] + 2)  # no pixel is blue, so blue is left out
    return 1 - (weights[0] * ground + weights[1] * red) / sum(weights)


def test_the_dice_loss_is_over_the_classes_that_occur(paint):
    assert paint(loss="dice").loss(LOGITS, TARGET).item() == pytest.approx(dice_by_hand(), rel=1e-5)
    weighted = paint(loss="dice", class_weights=[1.0, 3.0, 5.0]).loss(LOGITS, TARGET)
    assert weighted.item() == pytest.approx(dice_by_hand((1.0, 3.0)), rel=1e-5)
    perfect = F.one_hot(TARGET.clamp(min=0), 3).movedim(-1, 1) * 100.0
    assert dice_loss(perfect, TARGET).item() == pytest.approx(0, abs=1e-6)


def test_both_losses_are_added(paint):
    both = paint(loss="both").loss(LOGITS, TARGET)

    torch.testing.assert_close(both, paint().loss(LOGITS, TARGET) + paint(loss="dice").loss(LOGITS, TARGET))


def test_logits_of_another_size_are_resized_to_the_target(paint):
    target = torch.randint(0, 3, (1, 5, 7), generator=torch.Generator().manual_seed(0))
    larger = F.interpolate(LOGITS, size=(5, 7), mode="bilinear", align_corners=False)

    torch.testing.assert_close(paint().loss(LOGITS, target), paint().loss(larger, target))


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "both"])
def test_a_picture_without_a_mask_adds_nothing_and_none_at_all_give_a_connected_zero(paint, loss):
    head = paint(loss=loss)
    none = torch.full_like(TARGET, MISSING)
    alone = head.loss(LOGITS, TARGET)

    beside = head.loss(torch.cat([LOGITS, LOGITS + 1]), torch.cat([TARGET, none]))
    nothing = head.loss(LOGITS.clone().requires_grad_(), none)

    torch.testing.assert_close(alone, beside)
    assert nothing.item() == 0
    assert nothing.requires_grad


def test_miou_and_accuracy_leave_out_what_has_no_label(paint):
    head = paint()
    metrics = head.metrics()
    # predicted: 0 1 / 0 2; targets: 0 1 / - 1: ground 1/1, red 1/2, blue 0/1
    head.update(metrics, LOGITS, TARGET)
    head.update(metrics, LOGITS, torch.full_like(TARGET, MISSING))

    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx({"miou": (1 + 0.5 + 0) / 3, "pixel_accuracy": 2 / 3})


def test_a_class_that_is_neither_there_nor_predicted_does_not_count(paint):
    head = paint()
    metrics = head.metrics()
    head.update(metrics, LOGITS[..., :1, :], TARGET[:, :1])

    assert metrics.compute()["miou"].item() == 1


# --- predictions


def test_a_prediction_has_the_pixel_values_of_the_masks(paint):
    [found] = paint(values=[0, 7, 300]).decode(LOGITS)

    assert found.mask.tolist() == [[0, 7], [0, 300]]
    assert found.mask.dtype == torch.int64
    assert paint().decode(LOGITS)[0].mask.dtype == torch.uint8
    assert found.as_json() == {
        "size": [2, 2],
        "pixels": {"ground": 2, "red": 1, "blue": 1},
        "shares": {"ground": 0.5, "red": 0.25, "blue": 0.25},
        "masks": {
            "ground": {"size": [2, 2], "counts": [0, 2, 2]},
            "red": {"size": [2, 2], "counts": [2, 1, 1]},
            "blue": {"size": [2, 2], "counts": [3, 1]},
        },
    }


def test_run_lengths_give_the_mask_back():
    mask = drawn(13, 9) > 0.3

    flat = [bool(n % 2) for n, length in enumerate(run_lengths(mask)) for _ in range(length)]

    assert torch.equal(torch.tensor(flat).reshape(9, 13).T, mask)
    assert run_lengths(torch.ones(2, 3, dtype=torch.bool)) == [0, 6]
    assert run_lengths(torch.zeros(2, 3, dtype=torch.bool)) == [6]


# --- inside other heads


@torch.no_grad()
def test_the_scores_of_two_streams_are_averaged_pixel_by_pixel():
    head = {"type": "two_stream", "name": "map", "head": {**HEAD}}
    model = zoo.build({"a": "timm:test_resnet", "b": "timm:test_resnet"}, head, inputs="image", weights=None, seed=0)

    outputs = model(drawn(1, 3, 64, 64))

    each = [output.softmax(dim=1) for name, output in outputs.items() if name != "map"]
    assert len(each) == 2
    torch.testing.assert_close(outputs["map"].softmax(dim=1), sum(each) / 2)
    assert model.task("map").masks.classes == tuple(CLASSES)


def test_scores_of_two_sizes_are_not_averaged():
    head = {"type": "two_stream", "name": "map", "head": {**HEAD}}
    model = zoo.build({"a": "timm:test_resnet", "b": "timm:test_resnet"}, head, weights=None, seed=0)

    with pytest.raises(ShapeError, match=r"must have one shape, .*; fuse features instead"):
        model({"a": drawn(1, 3, 64, 64), "b": drawn(1, 3, 96, 96)})


@pytest.mark.slow
def test_it_conforms_on_the_maps_of_two_backbones():
    check_head(
        {"type": "feature_fusion", "name": "all", "head": {**HEAD}, "method": "maps", "dim": 8},
        {"a": "timm:test_resnet", "b": "timm:test_vit"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "config"),
    [
        ("timm:test_resnet", {}),
        ("timm:test_vit", {"loss": "both", "class_weights": [1.0, 2.0, 3.0]}),
        ("timm:test_efficientnet", {"loss": "dice", "values": [0, 7, 300], "dropout": 0.1, "dim": 5}),
    ],
    ids=["resnet", "vit", "efficientnet"],
)
def test_segmentations_conform(backbone, config):
    check_head({**HEAD, **config}, backbone)


# --- what is refused


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"classes": None}, "must know its classes"),
        ({"classes": ["one"]}, "classes must be 2 or more"),
        ({"values": [0, 1]}, "values must be one for each of the 3 classes, got 2"),
        ({"values": [0, 1, 1]}, "values must be different pixel values"),
        ({"values": [0, 1, -1]}, "values must be different pixel values, 0 or more"),
        ({"classes": None, "values": [0, 1]}, "values are those of the classes"),
        ({"ignore": 1}, "ignore=1 is the pixel value of the class 'red'; set another, or None"),
        ({"ignore": -1}, "ignore must be a pixel value, 0 or more, or None"),
        ({"dim": 0}, "dim must be 1 or more"),
        ({"reductions": []}, "reductions must be one or more different numbers"),
        ({"reductions": [4, 4]}, "reductions must be one or more different numbers"),
        ({"loss": "focal"}, "loss: Input should be 'cross_entropy', 'dice' or 'both'"),
        ({"label_smoothing": 1}, "label_smoothing must be in"),
        ({"label_smoothing": 0.1, "loss": "dice"}, "label_smoothing is of the cross-entropy"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"class_weights": [1.0, 1.0]}, "one factor for each of the 3 classes, got 2"),
        ({"class_weights": [1.0, 0.0, 1.0]}, "class_weights must be above 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(paint, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        paint(**config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "config", "missing"),
    [("timm:test_resnet", {"reductions": [4, 64]}, "maps@64"), ("hf:clip#text", {}, "maps@4")],
)
def test_a_backbone_without_the_maps_is_refused_before_weights_are_looked_for(backbone, config, missing):
    with pytest.raises(CapabilityError, match=rf"The head 'map' \(segmentation\) needs {missing}; {backbone}"):
        zoo.build(backbone, {**HEAD, **config})

"""The ways to make one stream of several: each beside plain tensor code with its own parameters."""

import pytest
import torch
from torch.nn import functional as F

from zoo.contracts.head import Needs
from zoo.spec import HeadSpec

KIND = {"type": "classifier", "classes": ["x", "y", "z"]}
POOL = {"type": "attention_pool", "classes": ["x", "y", "z"], "heads": 2}
NAMES = ("a", "b", "c")
POOLED = ("concat", "sum", "gated", "bilinear")
PIXELS = {"type": "pixels", "classes": ["x", "y"]}


# --- pooled vectors


def by_hand(head, vectors, method):
    """Fuse pooled vectors, stream name to ``(D,)`` for those that one sample has, by the method's formula."""
    names, fuser = head.streams, head.fuser
    widths = [{"a": 6, "b": 5, "c": 4}[name] for name in names]
    filled = torch.cat([vectors.get(name, torch.zeros(width)) for name, width in zip(names, widths, strict=True)])
    if method == "concat":
        return filled
    if method == "sum":
        parts = [fuser.project[name].weight @ x + fuser.project[name].bias for name, x in vectors.items()]
        return sum(parts) * len(names) / len(parts)
    if method == "bilinear":
        return torch.stack([fuser.factors[name].weight @ x for name, x in vectors.items()]).prod(dim=0)
    hidden = {name: torch.tanh(fuser.hidden[name].weight @ x) for name, x in vectors.items()}
    gate = torch.sigmoid(fuser.gate.weight @ filled)
    if len(names) == 2:
        if len(vectors) == 1:
            return next(iter(hidden.values()))
        return gate * hidden[names[0]] + (1 - gate) * hidden[names[1]]
    dim = len(gate) // len(names)
    gates = {name: gate[i * dim : (i + 1) * dim] for i, name in enumerate(names)}
    return sum(gates[name] * value for name, value in hidden.items())


@pytest.mark.parametrize("names", [("a", "b"), NAMES], ids=["two", "three"])
@pytest.mark.parametrize("method", POOLED)
def test_pooled_vectors_are_fused_by_the_formula(fuse, draw_streams, method, names, fused):
    head = fuse(*names, method=method, **({} if method == "concat" else {"dim": 7}))
    features = draw_streams(3, *names)

    found = fused(head, features)

    for row in range(3):
        expected = by_hand(head, {name: features[name].pooled[row] for name in names}, method)
        torch.testing.assert_close(found.pooled[row], expected)
    assert found.pooled.shape[1] == head.inner.layers[0].in_features
    assert found.tokens is None
    assert not found.maps


@pytest.mark.parametrize("names", [("a", "b"), NAMES], ids=["two", "three"])
@pytest.mark.parametrize("method", POOLED)
def test_a_pooled_vector_that_a_sample_lacks_is_left_out(fuse, draw_streams, method, names, lacking, fused):
    head = fuse(*names, method=method, missing="mask")
    features = lacking(draw_streams(4, *names), a=[1, 3], b=[2, 3])

    found = fused(head, features)

    assert head.may_miss() == set(names)
    for row, lost in enumerate([(), ("a",), ("b",)]):
        vectors = {name: features[name].pooled[row] for name in names if name not in lost}
        torch.testing.assert_close(found.pooled[row], by_hand(head, vectors, method))
    assert torch.isfinite(found.pooled).all()  # the last has no stream at all if there are two


def test_a_gate_decides_between_two_streams(fuse, draw_streams, fused):
    head, features = fuse("a", "b", method="gated", dim=4), draw_streams(2, "a", "b")
    with torch.no_grad():
        head.fuser.gate.weight.zero_()
        half = fused(head, features).pooled
        head.fuser.gate.weight[:, 0] = 1e4 * features["a"].pooled[0, 0].sign()
        open_ = fused(head, features).pooled[0]

    hidden = {name: torch.tanh(features[name].pooled @ head.fuser.hidden[name].weight.T) for name in ("a", "b")}
    torch.testing.assert_close(half, (hidden["a"] + hidden["b"]) / 2)
    torch.testing.assert_close(open_, hidden["a"][0])


def test_bilinear_fusion_and_a_linear_head_are_a_bilinear_form_of_low_rank(fuse, draw_streams):
    head, features = fuse("a", "b", method="bilinear", dim=2), draw_streams(3, "a", "b")

    output = head(features)["kind"]

    left, right = (head.fuser.factors[name].weight for name in ("a", "b"))
    layer = head.inner.layers[0]
    forms = torch.einsum("jr,rx,ry->jxy", layer.weight, left, right)
    expected = torch.einsum("bx,jxy,by->bj", features["a"].pooled, forms, features["b"].pooled) + layer.bias
    torch.testing.assert_close(output, expected)
    assert all(torch.linalg.matrix_rank(form) == 2 for form in forms)


# --- tokens


def attention_by_hand(fuser, sequence, mask, heads):
    """Run the layer on one sample's sequence ``(1 + N, dim)``, loop by loop."""
    dim = sequence.shape[1]
    normed = F.layer_norm(sequence, (dim,), fuser.norm_mix.weight, fuser.norm_mix.bias)
    query, key, value = (normed @ fuser.mix.weight.T + fuser.mix.bias).split(dim, dim=1)
    parts = []
    for h in range(heads):
        own = slice(h * dim // heads, (h + 1) * dim // heads)
        scores = query[:, own] @ key[:, own].T / (dim // heads) ** 0.5
        scores = scores.masked_fill(~mask, float("-inf"))
        parts.append(scores.softmax(dim=1) @ value[:, own])
    x = sequence + torch.cat(parts, dim=1) @ fuser.out.weight.T + fuser.out.bias
    normed = F.layer_norm(x, (dim,), fuser.norm_feed.weight, fuser.norm_feed.bias)
    hidden = F.gelu(normed @ fuser.feed[0].weight.T + fuser.feed[0].bias)
    x = x + hidden @ fuser.feed[2].weight.T + fuser.feed[2].bias
    return F.layer_norm(x, (dim,), fuser.norm.weight, fuser.norm.bias)


@pytest.mark.parametrize("missing", ["error", "mask"])
def test_the_tokens_of_all_streams_are_mixed_by_one_layer(fuse, draw_streams, missing, lacking, fused):
    head = fuse(*NAMES, head=POOL, method="attention", dim=8, attention_heads=2, missing=missing)
    features = draw_streams(4, *NAMES)
    if missing == "mask":
        features = lacking(features, a=[1], b=[1, 2], c=[1, 3])

    found = fused(head, features)

    fuser = head.fuser
    given = {
        "a": features["a"].maps["s3"].flatten(2).transpose(1, 2),  # its coarsest map stands for its tokens
        "b": features["b"].tokens,
        "c": features["c"].tokens,
    }
    assert found.tokens.shape == (4, 4 + 9 + 7, 8)
    for row in range(4):
        sequence, mask = [fuser.query[None]], [torch.tensor([True])]
        for i, name in enumerate(NAMES):
            lost = features[name].present is not None and not features[name].present[row]
            tokens = torch.zeros_like(given[name][row]) if lost else given[name][row]
            sequence.append(tokens @ fuser.project[name].weight.T + fuser.project[name].bias + fuser.origin[i])
            real = (
                torch.ones(len(tokens), dtype=torch.bool) if features[name].mask is None else features[name].mask[row]
            )
            mask.append(real & (not lost))
        mask = torch.cat(mask)
        expected = attention_by_hand(fuser, torch.cat(sequence), mask, heads=2)
        torch.testing.assert_close(found.pooled[row], expected[0])
        torch.testing.assert_close(found.tokens[row], expected[1:])
        assert torch.equal(found.mask[row], mask[1:])


def test_what_stands_at_padding_changes_nothing(fuse, draw_streams):
    head = fuse("b", "c", method="attention", dim=8)
    features = draw_streams(3, "b", "c")
    before = head(features)["kind"]
    features["c"].tokens[~features["c"].mask] = 99.0

    assert torch.equal(head(features)["kind"], before)


def test_without_padding_there_is_no_mask(fuse, draw_streams, fused):
    assert fused(fuse("a", "b", method="attention"), draw_streams(2, "a", "b")).mask is None


def test_attention_asks_for_tokens_or_the_coarsest_map(streams):
    spec = HeadSpec(type="feature_fusion", name="kind", config={"head": KIND, "method": "attention"})

    needs = streams(*NAMES).needs(spec)

    assert needs == {"a": Needs(reductions=(16,)), "b": Needs(tokens=True), "c": Needs(tokens=True)}


# --- maps


def level_by_hand(level, maps, size, how, there):
    """Fuse the maps of one sample, stream name to ``(C, H, W)``."""
    parts = []
    for name, x in maps.items():
        layer = level.project[name]
        weight = layer.weight[:, :, 0, 0]
        resized = F.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]
        part = torch.einsum("oc,chw->ohw", weight, resized) + layer.bias[:, None, None]
        parts.append(part if there[name] else torch.zeros_like(part))
    count = sum(there.values())
    if how == "concat":
        return torch.cat(parts)
    if how == "sum":
        return sum(parts) * len(parts) / count
    scores = torch.stack([torch.einsum("c,chw->hw", level.value.weight[0, :, 0, 0], part) for part in parts])
    scores[[not one for one in there.values()]] = float("-inf")
    return (scores.softmax(dim=0)[:, None] * torch.stack(parts)).sum(dim=0)


@pytest.mark.parametrize("missing", ["error", "mask"])
@pytest.mark.parametrize("how", ["sum", "concat", "attention"])
def test_maps_are_fused_at_each_reduction_on_the_finest_grid(fuse, draw_streams, how, missing, lacking, fused):
    head = fuse("a", "b", head=PIXELS, method="maps", maps=how, dim=4, missing=missing)
    features = draw_streams(3, "a", "b")
    if missing == "mask":
        features = lacking(features, a=[1], b=[2])

    found = fused(head, features)

    sources = {"s1": ("s2", "s1", (6, 6)), "s2": ("s3", "s3", (3, 3))}  # reductions 8 and 16
    assert {name: tuple(one.shape) for name, one in found.maps.items()} == {
        name: (3, 8 if how == "concat" else 4, *size) for name, (_, _, size) in sources.items()
    }
    assert found.pooled is None
    for stage, (of_a, of_b, size) in sources.items():
        for row in range(3):
            there = {n: features[n].present is None or bool(features[n].present[row]) for n in ("a", "b")}
            maps = {"a": features["a"].maps[of_a][row], "b": features["b"].maps[of_b][row]}
            maps = {name: torch.nan_to_num(one) for name, one in maps.items()}
            expected = level_by_hand(head.fuser.levels[stage], maps, size, how, there)
            torch.testing.assert_close(found.maps[stage][row], expected)


@pytest.mark.parametrize("how", ["sum", "concat", "attention"])
def test_maps_of_a_sample_without_any_stream_are_finite(fuse, draw_streams, how, lacking):
    head = fuse("a", "b", head=PIXELS, method="maps", maps=how, missing="mask")

    output = head(lacking(draw_streams(2, "a", "b"), a=[1], b=[1]))["kind"]
    output.square().sum().backward()

    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_a_head_on_the_pooled_vector_gets_the_mean_of_the_coarsest_fused_map(fuse, draw_streams, fused):
    head, features = fuse("a", "b", method="maps", dim=4), draw_streams(2, "a", "b")

    found = fused(head, features)

    assert list(found.maps) == ["s2"]
    torch.testing.assert_close(found.pooled, found.maps["s2"].mean(dim=(2, 3)))


def test_maps_ask_every_stream_for_the_reductions_that_the_head_inside_reads(streams):
    both = [{"name": "kind", **KIND}, {"name": "pixels", **PIXELS, "hidden": 8}]
    spec = HeadSpec(
        type="feature_fusion",
        name="all",
        config={"head": {"type": "multi_task", "heads": both}, "method": "maps"},
    )

    needs = streams("a", "b").needs(spec)

    assert needs == {"a": Needs(reductions=(8, 16)), "b": Needs(reductions=(8, 16))}

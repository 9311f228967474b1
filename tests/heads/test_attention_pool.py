"""Attention pooling against the pooling head of SigLIP in transformers, with equal weights."""

import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

import zoo
from zoo.contracts.features import Features
from zoo.contracts.head import HeadContext
from zoo.errors import CapabilityError, ConfigError
from zoo.spec import HeadSpec
from zoo.testing import check_head
from zoo_heads.attention_pool import AttentionPooling

CLASSES = ["cat", "cow", "dog"]
WIDTH = 12


@pytest.fixture
def tokens_context(context) -> HeadContext:
    from dataclasses import replace

    spec = replace(context.streams["main"], token_dim=WIDTH, capabilities=("pooled", "tokens"))
    return HeadContext({"main": spec}, context.lookup)


@pytest.fixture
def pool(tokens_context):
    def build(**config):
        torch.manual_seed(0)
        given = {"classes": CLASSES, "heads": 3, **config}
        return tokens_context.build(HeadSpec(type="attention_pool", name="kind", config=given)).eval()

    return build


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_pooled_vector_is_that_of_the_pooling_head_of_siglip():
    config = SiglipVisionConfig(
        hidden_size=WIDTH, num_attention_heads=3, intermediate_size=4 * WIDTH, hidden_act="gelu", layer_norm_eps=1e-5
    )
    theirs = SiglipMultiheadAttentionPoolingHead(config).eval()
    for tensor in theirs.state_dict().values():
        tensor.copy_(draw(*tensor.shape, seed=tensor.numel()) * 0.3)
    ours = AttentionPooling(WIDTH, heads=3, mlp_ratio=4).eval()
    names = {"probe": "query", "layernorm": "norm", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2", "attention": "attention"}
    state = {}
    for key, value in theirs.state_dict().items():
        old, new = next((old, new) for old, new in names.items() if key.startswith(old))
        state[new + key.removeprefix(old)] = value
    ours.load_state_dict(state, strict=True)
    tokens = draw(4, 7, WIDTH)

    torch.testing.assert_close(ours(tokens), theirs(tokens))


@torch.no_grad()
def test_the_attention_is_softmax_of_scaled_products_of_a_query_and_the_tokens():
    pooling = AttentionPooling(WIDTH, heads=1, mlp_ratio=0).eval()
    tokens, layer = draw(2, 5, WIDTH), pooling.attention

    query, key, value = (
        given @ weight.T + bias
        for given, weight, bias in zip(
            (pooling.query, tokens, tokens), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    attention = (query @ key.transpose(1, 2) / WIDTH**0.5).softmax(dim=-1)
    torch.testing.assert_close(pooling(tokens), layer.out_proj(attention @ value)[:, 0])


@torch.no_grad()
def test_masked_tokens_add_nothing(pool):
    task, tokens = pool(), draw(2, 6, WIDTH)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    before = task.score(Features(tokens=tokens, mask=mask))

    changed = tokens.clone()
    changed[0, 4:] = 100.0
    after = task.score(Features(tokens=changed, mask=mask))
    cut = task.score(Features(tokens=tokens[:1, :4]))

    assert torch.equal(before, after)
    torch.testing.assert_close(before[:1], cut)
    assert not torch.allclose(before[0], task.score(Features(tokens=tokens))[0])


def test_a_sample_all_of_whose_tokens_are_masked_gives_numbers_and_gradients(pool):
    task, tokens = pool(), draw(2, 3, WIDTH)
    mask = torch.tensor([[False] * 3, [True] * 3])

    output = task.score(Features(tokens=tokens, mask=mask))
    output.sum().backward()

    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in task.parameters())
    nothing = task.pool.mlp(task.pool.norm(torch.zeros(1, WIDTH)))
    torch.testing.assert_close(output[:1], task.layers(nothing))


@torch.no_grad()
def test_the_order_of_the_tokens_does_not_matter(pool):
    task, tokens = pool(), draw(2, 6, WIDTH)

    torch.testing.assert_close(
        task.score(Features(tokens=tokens)), task.score(Features(tokens=tokens.flip(1))), atol=1e-6, rtol=1e-5
    )


def test_labels_losses_and_metrics_are_those_of_a_classifier(pool, make):
    config = {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 3.0]}
    task, plain = pool(**config), make("classifier", classes=CLASSES, **config)
    logits, labels = draw(4, 3), ["dog", None, "cat", "cow"]

    assert torch.equal(task.loss(logits, task.encode(labels)), plain.loss(logits, plain.encode(labels)))
    assert task.decode(logits) == plain.decode(logits)
    assert set(task.metrics()) == set(plain.metrics())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"heads": 5}, r"has heads=5, and none:six has tokens 12 wide; take a number .*: 1, 2, 3, 4, 6, 12\."),
        ({"heads": 0}, "heads must be 1 or more"),
        ({"mlp_ratio": -1}, "mlp_ratio must be 0 or more"),
        ({"scale": 3.0}, "set cosine=True"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(pool, config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        pool(**config)


def test_a_backbone_without_tokens_is_refused_before_weights_are_looked_for():
    with pytest.raises(
        CapabilityError, match=r"The head 'kind' \(attention_pool\) needs tokens; timm:test_resnet\S* gives"
    ) as caught:
        zoo.build("timm:test_resnet", {"type": "attention_pool", "name": "kind", "classes": CLASSES})

    hint = str(caught.value).partition("Backbones that give it: ")[2].removesuffix(".").split(", ")
    assert len(hint) == 3
    assert all("tokens" in zoo.list(reference)[0].entry.capabilities for reference in hint)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [{}, {"multi_label": True, "heads": 4, "mlp_ratio": 0}, {"cosine": True, "norm": True, "hidden": 8}],
    ids=["plain", "several labels", "cosine"],
)
def test_attention_pools_conform(config):
    check_head({"type": "attention_pool", "name": "kind", "classes": CLASSES, **config}, "timm:test_vit")

"""Small models of all three libraries, and what is needed to compare them with PEFT itself."""

import types
from collections.abc import Iterator

import pytest
import torch
import transformers
from torch import nn

import zoo
from zoo.contracts.examples import example_inputs

HEAD = zoo.head("classifier", name="kind", classes=["a", "b"])
TINY = {
    "vit": transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "bert": transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=60
    ),
}


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
    torch.set_num_threads(before)


@pytest.fixture
def build(tmp_path):
    """Build a model with random weights, always the same; ``hf:vit`` and the like are made from a small config."""

    def make(reference="timm:test_vit", *heads):
        library, _, kind = reference.partition(":")
        if library != "hf":
            return zoo.build(reference, heads or HEAD, weights=None, seed=0).eval()
        torch.manual_seed(0)
        folder = tmp_path / f"source-{kind}"
        transformers.AutoModel.from_config(TINY[kind]).save_pretrained(folder)
        return zoo.build(f"hf:{folder}", heads or HEAD).eval()

    return make


def batch(model, rows=2):
    """Draw a batch that a model takes."""
    inputs = example_inputs(model.backbones["main"].spec, rows)
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


def learn(model, scale=0.05):
    """Give adapters something that they could have learnt."""
    torch.manual_seed(1)
    for adapter in model.adapters:
        for name, parameter in adapter.parts.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=scale)
    return model


@torch.no_grad()
def run(model, inputs):
    return model(inputs)["kind"]


@pytest.fixture
def kit():
    """Give the functions of this file, which other files cannot import."""
    return types.SimpleNamespace(batch=batch, learn=learn, run=run)

"""Freezing as a property: any stages, any family, and whatever is done to the model between three training steps."""

from __future__ import annotations

import copy
import pickle
import types
from functools import cache

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from zoo.freezing import has_statistics, is_pinned, norms_of
from zoo.testing.backbones import example_inputs

pytestmark = pytest.mark.slow

_BERT = "hidden_size=32&num_hidden_layers=4&num_attention_heads=2&intermediate_size=64&vocab_size=99"
_SOUND = f"{_BERT}&conv_dim=[16, 16, 16, 16, 16, 16, 16]&num_conv_pos_embeddings=16&num_conv_pos_embedding_groups=2"
FAMILIES = {
    "mobilenetv3": "timm:mobilenetv3_small_050?drop_rate=0.3&drop_path_rate=0.3",
    "levit, BatchNorm1d": "timm:levit_128s?drop_path_rate=0.3",
    "swin": "timm:swin_tiny_patch4_window7_224?img_size=56&drop_path_rate=0.3",
    "vit": "timm:test_vit?drop_rate=0.3&drop_path_rate=0.3",
    "convnext": "timm:convnext_atto?drop_path_rate=0.3",
    "regnet": "timm:regnetx_002?drop_path_rate=0.3",
    "efficientnet": "timm:test_efficientnet?drop_path_rate=0.3",
    "torchvision resnet": "torchvision:resnet18",
    "torchvision efficientnet, stochastic depth": "torchvision:efficientnet_b0?stochastic_depth_prob=0.5",
    "hf resnet": "hf:resnet?embedding_size=8&hidden_sizes=[8, 12, 16, 20]&depths=[1, 1, 1, 1]",
    "hf vit, dropout in attention": "hf:vit?hidden_size=32&num_hidden_layers=4&num_attention_heads=2&image_size=32"
    "&intermediate_size=64&patch_size=8&attention_probs_dropout_prob=0.4&hidden_dropout_prob=0.4",
    "hf bert": f"hf:bert?{_BERT}",
    "hf t5, a dropout that runs twice": "hf:t5?d_model=32&num_layers=4&num_heads=2&d_kv=16&d_ff=64&vocab_size=99"
    "&dropout_rate=0.4",
    "hf wav2vec2, layers dropped by their parent": f"hf:wav2vec2?{_SOUND}&layerdrop=0.5",
    "hf whisper, dropout of the parent": "hf:whisper?d_model=32&encoder_layers=4&decoder_layers=1&vocab_size=99"
    "&encoder_attention_heads=2&decoder_attention_heads=2&encoder_ffn_dim=64&decoder_ffn_dim=64&max_source_positions=50"
    "&num_mel_bins=16&dropout=0.4&encoder_layerdrop=0.4&pad_token_id=1&bos_token_id=0&eos_token_id=2",
}


@cache
def built(family):
    """Build a model once; its norms get statistics that a training step would move."""
    head = zoo.head("classifier", name="kind", classes=["a", "b"])
    model = zoo.build(FAMILIES[family], head, weights=None, seed=0)
    for module in model.modules():
        if has_statistics(module):
            module.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return model


@cache
def inputs_of(family):
    spec = built(family).spec.streams["main"].backbone
    first = spec.inputs[0]
    if first.kind == "image" and not first.fixed_size:
        return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return example_inputs(spec, batch=4)


def tensors(native):
    """Give every tensor there is, buffers that no state dict keeps as well."""
    return {**dict(native.named_parameters()), **dict(native.named_buffers())}


def outputs(model, inputs, stages):
    """Give what the modules give in which stages end, and the pooled vector where all stages are meant."""
    backbone, seen = model.backbones["main"], {}

    def keep(name, _module, _inputs, given):
        found = given if isinstance(given, Tensor) else next(iter(given.values() if isinstance(given, dict) else given))
        seen.setdefault(name, found.detach().clone())

    hooks = [
        backbone.native.get_submodule(stage.module).register_forward_hook(
            lambda *given, name=stage.name: keep(name, *given)
        )
        for stage in backbone.spec.stages
        if stage.name in stages and stage.module
    ]
    with torch.no_grad():
        pooled = model.features(inputs)["main"].pooled
    for hook in hooks:
        hook.remove()
    return {**seen, "pooled": pooled} if len(stages) == len(backbone.spec.stages) else seen


def step(model, inputs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    sum(model.losses(model(inputs), {"kind": torch.tensor([0, 1, 0, 1])}).values()).backward()
    optimizer.step()
    model.zero_grad()


def every_part(model):
    for module in model.modules():
        module.train()
    return model


def applied(model):
    return model.apply(lambda module: module.train())


def written(model):
    """Write the flags, as some loops do."""
    for module in model.modules():
        module.training = True
    return model


def synchronised(model):
    """Exchange the norms as each library says; torch's own function would lose timm's activations."""
    backbone = model.backbones["main"]
    timms = any(isinstance(module, timm.layers.BatchNormAct2d) for module in model.modules())
    convert = timm.layers.convert_sync_batchnorm if timms else nn.SyncBatchNorm.convert_sync_batchnorm
    backbone.native = convert(backbone.native)
    return written(model)


ACTS = {
    "train": lambda model: model.train(),
    "eval, then train": lambda model: model.eval().train(),
    "train the native module": lambda model: (model.train(), model.backbones["main"].native.train())[0],
    "train every part": every_part,
    "apply train": applied,
    "write the flags": written,
    "deepcopy": lambda model: copy.deepcopy(model).train(),
    "pickle": lambda model: pickle.loads(pickle.dumps(model)).train(),
    "to float64 and back": lambda model: model.double().float().train(),
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_frozen_and_whatever_is_done_what_is_frozen_rests(family, data):
    model, inputs = copy.deepcopy(built(family)), inputs_of(family)
    names = [stage.name for stage in model.backbones["main"].spec.stages]
    upto = data.draw(st.integers(1, len(names)), "leading stages")
    more = data.draw(st.sets(st.sampled_from(names)), "more stages")
    leading, frozen = names[:upto], frozenset({*names[:upto], *more})
    acts = [data.draw(st.sampled_from(list(ACTS)), "act") for _ in range(3)]
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    model.set_frozen("main", frozen)
    stage_of = model.backbones["main"].stage_of
    before = {
        name: t.clone() for name, t in tensors(model.backbones["main"].native).items() if stage_of(name) in frozen
    }
    resting = outputs(model.eval(), inputs, leading)

    for number, act in enumerate(acts):
        model = ACTS[act](model)
        torch.manual_seed(number)
        step(model, inputs)
        again = outputs(model, inputs, leading)
        assert again.keys() == resting.keys()
        assert all(torch.equal(again[name], resting[name]) for name in resting), (act, frozen)

    after = tensors(model.backbones["main"].native)
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("family", FAMILIES)
def test_without_freezing_the_same_steps_would_change_it(family):
    model, inputs = copy.deepcopy(built(family)), inputs_of(family)
    backbone = model.backbones["main"]
    before = {name: tensor.clone() for name, tensor in tensors(backbone.native).items()}
    model.train()
    for number in range(3):
        torch.manual_seed(number)
        step(model, inputs)
    after = tensors(backbone.native)

    moved = {backbone.stage_of(name) for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    having = {backbone.stage_of(name) for name, _ in backbone.native.named_parameters()}
    assert moved == having


@pytest.mark.parametrize("family", ["mobilenetv3", "levit, BatchNorm1d", "torchvision resnet", "hf resnet"])
def test_norms_that_were_exchanged_for_synchronised_ones_rest_from_the_next_pass_on(family):
    model, inputs = copy.deepcopy(built(family)).freeze(), inputs_of(family)
    before = {name: t.clone() for name, t in tensors(model.backbones["main"].native).items()}
    with torch.no_grad():
        pooled = model.eval().features(inputs)["main"].pooled
    synchronised(model.train())
    step(model, inputs)

    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(model.backbones["main"].native).items())
    with torch.no_grad():
        assert torch.equal(model.features(inputs)["main"].pooled, pooled)
    assert all(is_pinned(norm) for norm in norms_of(model.backbones["main"]).values())


def test_a_pickled_pin_holds_the_copy_and_not_the_original():
    model = copy.deepcopy(built("torchvision resnet")).freeze("s2")
    back = pickle.loads(pickle.dumps(model)).train()
    native = back.backbones["main"].native

    assert not native.layer1.training
    assert not native.layer1.train().training
    assert native.layer1.train() is native.layer1
    assert native.layer4.training
    assert all(module.training for module in back.unfreeze().modules())


@pytest.mark.parametrize("family", ["hf wav2vec2, layers dropped by their parent", "hf whisper, dropout of the parent"])
def test_the_parent_of_frozen_and_other_stages_trains_again_behind_the_last_frozen_one(family):
    model, inputs = copy.deepcopy(built(family)), inputs_of(family)
    model.freeze("s1").train()
    backbone = model.backbones["main"]
    first, last = (backbone.native.get_submodule(backbone.spec.stage(name).module) for name in ("s1", "s3"))
    parents = [m for m in backbone.native.modules() if any(c is not m and c is last for c in m.modules())]
    parents = [m for m in parents if any(part is first for part in m.modules()) and not isinstance(m, nn.ModuleList)]
    modes = []
    first.register_forward_pre_hook(lambda *_: modes.append([parent.training for parent in parents]))
    original = backbone.extract

    def extract(self, tensors, want):
        given = original(tensors, want)
        modes.append([parent.training for parent in parents])
        return given

    backbone.extract = types.MethodType(extract, backbone)
    model(inputs)

    assert parents
    assert modes[0] == [False] * len(parents)
    assert modes[-1] == [True] * len(parents)


def test_a_pass_that_fails_leaves_the_modes_as_they_were():
    model = copy.deepcopy(built("torchvision resnet")).freeze("s1").train()
    native = model.backbones["main"].native
    native.layer1.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))

    with pytest.raises(RuntimeError, match="stop"):
        model(inputs_of("torchvision resnet"))
    assert native.training
    assert not native.layer1.training

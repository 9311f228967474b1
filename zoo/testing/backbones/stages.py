"""Checks of stages: the unit of maps, freezing and learning rates."""

from __future__ import annotations

from typing import Any

import torch

from zoo.contracts.features import Want
from zoo.errors import UnknownName
from zoo.freezing import freeze_stages
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject, everything
from zoo.testing.rules import raises, rule, same

__all__: list[str] = []


@check("Every module, parameter and buffer belongs to one of the spec's stages.")
def stages_total(subject: Subject) -> None:
    """See that nothing escapes freezing and learning rates."""
    names, backbone = [stage.name for stage in subject.spec.stages], subject.backbone
    native = backbone.native
    parts = [name for name, _ in (*native.named_parameters(), *native.named_buffers(), *native.named_modules()) if name]
    for name in parts:
        try:
            found = backbone.stage_of(name)
        except Exception as error:
            raise AssertionError(f"The stage of {name} must be one of the spec's, got {error}") from error
        rule(found in names, f"The stage of {name} must be one of the spec's, got {found!r}.")
    with raises(UnknownName, "The stage of what is not there must raise UnknownName"):
        backbone.stage_of("no_such_module.weight")
    for stage in subject.spec.stages:
        if stage.module:
            modules = [name for name in parts if name == stage.module]
            rule(bool(modules), f"The stage {stage.name} must end in a module that is there, got {stage.module!r}.")


@check("Modules run in the order of their stages.")
def stage_order(subject: Subject) -> None:
    """See that freezing the early stages freezes what runs early."""
    names, backbone = [stage.name for stage in subject.spec.stages], subject.backbone
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
        for path, module in backbone.native.named_modules()
        if path and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        subject.run(backbone, everything(subject.spec))
    finally:
        for hook in hooks:
            hook.remove()
    order = list(dict.fromkeys(ran))
    last = 0
    for path in order:
        place = names.index(backbone.stage_of(path))
        text = f"{path} of the stage {names[place]} must not run after the stage {names[last]} began."
        rule(place >= last, text)
        last = place


@check("A stage's map depends on that stage and on no later one.", needs=("maps",))
def map_gradients(subject: Subject) -> None:
    """See that a map is taken where its stage ends."""
    names, backbone = [stage.name for stage in subject.spec.stages], subject.twin()
    maps = tuple(stage.name for stage in subject.spec.maps)
    found = backbone(subject.inputs, Want(pooled=False, maps=maps)).maps
    named = [(name, p) for name, p in backbone.native.named_parameters() if p.requires_grad]
    own = {stage: [name for name, _ in named if backbone.stage_of(name) == stage] for stage in names}
    for stage in maps:
        if not found[stage].requires_grad:
            rule(not own[stage], f"The map {stage} must depend on the parameters of its stage.")
            continue
        slopes = torch.autograd.grad(
            found[stage].square().sum(), [p for _, p in named], retain_graph=True, allow_unused=True
        )
        moved = [name for (name, _), slope in zip(named, slopes, strict=True) if slope is not None]
        later = [name for name in moved if names.index(backbone.stage_of(name)) > names.index(stage)]
        rule(not later, f"The map {stage} must depend on no later stage; it depends on {later[:3]}.")
        mine = [name for name in moved if backbone.stage_of(name) == stage]
        rule(bool(mine) or not own[stage], f"The map {stage} must depend on the parameters of its stage.")


@check("Three training steps leave a frozen stage bit-equal, buffers too, and change the others.")
def freezing(subject: Subject) -> None:
    """See that frozen means frozen, also after ``.train()`` on the backbone or on the module in it."""
    backbone = subject.twin()
    having = {backbone.stage_of(name) for name, _ in backbone.native.named_parameters()}
    holding = [stage.name for stage in subject.spec.stages if stage.name in having]
    if len(holding) < 2:
        raise Unfit("one stage has all parameters")
    cut = subject.spec.stages.index(subject.spec.stage(holding[len(holding) // 2]))
    frozen = frozenset(stage.name for stage in subject.spec.stages[:cut])
    freeze_stages(backbone, frozen)
    before = {name: tensor.clone() for name, tensor in backbone.native.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in backbone.native.named_buffers()}
    # only the sign of a gradient counts: random weights may make it tiny
    optimizer = torch.optim.Rprop([p for p in backbone.parameters() if p.requires_grad], lr=0.001)
    backbone.train()
    backbone.native.train()
    inputs = subject.examples(batch=4)
    for _ in range(3):
        optimizer.zero_grad()
        pooled: Any = backbone(inputs).pooled
        pooled.square().mean().backward()
        optimizer.step()
    after = {**dict(backbone.native.named_buffers()), **backbone.native.state_dict()}
    for name, tensor in {**buffers, **before}.items():
        if backbone.stage_of(name) in frozen:
            same(tensor, after[name], f"{name} is in a frozen stage and must not change in training.")
    moved = [
        name for name, p in backbone.native.named_parameters() if p.requires_grad and not torch.equal(before[name], p)
    ]
    rule(bool(moved), "Training must change the stages that are not frozen.")

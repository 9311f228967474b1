"""Checks of gradients, of what is cut off, and of checkpointing."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Want
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject, everything, tensors_of
from zoo.testing.rules import near, rule, same

__all__: list[str] = []


@check("Every parameter gets a gradient from all that the backbone gives, once the rest is cut off.")
def gradients(subject: Subject) -> None:
    """See that nothing hangs in the model that no output depends on; DDP refuses such parameters."""
    backbone = subject.twin()
    whole = set(backbone.state_dict())
    backbone.trim(everything(subject.spec))
    idle = _idle(subject, backbone, everything(subject.spec))
    if set(backbone.state_dict()) == whole and type(backbone).cut is Backbone.cut and idle:
        raise Unfit(f"nothing is ever cut off it, and {idle[0]} gets no gradient")
    rule(not idle, f"Every parameter must get a gradient once the rest is cut off; {len(idle)} get none: {idle[:3]}.")


@check("After trim for one thing, every parameter that is left gets a gradient from it.")
def trim_gradients(subject: Subject) -> None:
    """See that trim cuts off all that the pooled vector, a map or the tokens do not run through."""
    whole_for: list[str] = []
    for what, want in subject.wants():
        backbone = subject.twin()
        whole = set(backbone.state_dict())
        backbone.trim(want)
        idle = _idle(subject, backbone, want)
        if idle and set(backbone.state_dict()) == whole:
            whole_for.append(what)  # a provider that cannot cut leaves the backbone whole
            continue
        text = f"Trimmed for {what}, every parameter must get a gradient; {len(idle)} get none: {idle[:3]}."
        rule(not idle, text)
    if len(whole_for) == len(subject.wants()) or (whole_for and type(subject.backbone).cut is Backbone.cut):
        raise Unfit(f"nothing is cut off it for {', '.join(whole_for)}")
    rule(not whole_for, f"Trim cuts for some and leaves all for {', '.join(whole_for)}, where parameters are idle.")


@check("Trim keeps keys, tensors and features, and knows whether anything was cut off.")
def trim(subject: Subject) -> None:
    """See that a trimmed backbone is the same backbone, only smaller."""
    for what, want in subject.wants():
        backbone = subject.twin()
        before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
        backbone.trim(want)
        after = dict(backbone.state_dict())
        new = [key for key in after if key not in before]
        rule(not new, f"Trimmed for {what}, a backbone must have no new keys, got {new[:3]}.")
        for key, tensor in after.items():
            same(before[key], tensor, f"Trimmed for {what}, {key} must stay as it is.")
        found = tensors_of(subject.run(backbone, want))
        for name, tensor in tensors_of(subject.run(subject.backbone, want)).items():
            rule(name in found, f"Trimmed for {what}, {name} must still be given.")
            same(tensor, found[name], f"Trimmed for {what}, {name} must be bit-equal to the whole backbone's.")
        gone = [key for key in before if key not in after]
        rule(not gone or backbone.kept is not None, f"cut must give True where tensors go, as {gone[:3]} for {what}.")
        for name, _ in backbone.native.named_parameters():
            backbone.stage_of(name)


@check("Gradient checkpointing works just where it is declared: less is kept, and gradients are equal.")
def grad_checkpointing(subject: Subject) -> None:
    """See that ``set_grad_checkpointing`` answers the truth and changes no gradient."""
    declared = "grad_checkpointing" in subject.spec.capabilities
    backbone = subject.twin()
    answer = backbone.set_grad_checkpointing(True)
    rule(answer is declared, f"set_grad_checkpointing(True) must give {declared}, as declared, got {answer!r}.")
    rule(backbone.set_grad_checkpointing(False) is False, "set_grad_checkpointing(False) must give False.")
    if not declared:
        raise Unfit("it is not declared, and not done")
    plain, kept = _slopes(subject, backbone)
    backbone = subject.twin()
    backbone.set_grad_checkpointing(True)
    cheap, less = _slopes(subject, backbone)
    rule(less < kept, f"With checkpointing, fewer tensors must be kept for the backward pass than {kept}, got {less}.")
    for name, slope in plain.items():
        rule(name in cheap, f"{name} must get a gradient with checkpointing too.")
        near(slope, cheap[name], f"The gradient of {name} must be the same with checkpointing.", 1e-3)


def _idle(subject: Subject, backbone: Backbone, want: Want) -> list[str]:
    """Name the parameters that get no gradient from what is wanted."""
    total = torch.zeros(())
    for tensor in tensors_of(backbone(subject.inputs, want)).values():
        if tensor.requires_grad:
            total = total + tensor.float().square().sum()
    if total.requires_grad:
        total.backward()
    return [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]


def _slopes(subject: Subject, backbone: Backbone) -> tuple[dict[str, Tensor], int]:
    """Give the gradients of a pass in training mode, and how many numbers were kept for the backward pass."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    backbone.train()
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pooled = backbone(subject.examples(batch=4)).pooled
    assert pooled is not None
    pooled.square().sum().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}, kept

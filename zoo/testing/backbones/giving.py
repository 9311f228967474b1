"""Checks of what a backbone gives."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject, everything, tensors_of
from zoo.testing.rules import near, raises, rule, same

__all__: list[str] = []


@check("The pooled vector is (B, pooled_dim) and finite.", needs=("pooled",))
def pooled(subject: Subject) -> None:
    """See that every head finds the vector that the spec promises."""
    found = subject.run(subject.backbone).pooled
    expected = (2, subject.spec.pooled_dim)
    got = None if found is None else tuple(found.shape)
    rule(got == expected, f"pooled must have the shape that the spec declares, {expected}, got {got}.")
    assert found is not None
    rule(bool(torch.isfinite(found).all()), "The pooled vector must be finite.")


@check("The pooled vector is the same whatever else is wanted.", needs=("pooled",))
def pooled_alone(subject: Subject) -> None:
    """See that one pass for all heads gives each what it would get alone."""
    alone = subject.run(subject.backbone).pooled
    assert alone is not None
    same(subject.pooled, alone, "The pooled vector must be the same whether or not maps and tokens are wanted.")
    for stage in subject.spec.maps:
        found = subject.run(subject.backbone, Want(maps=(stage.name,))).pooled
        rule(found is not None, f"pooled must be given where the map {stage.name} is wanted too.")
        assert found is not None
        same(found, alone, f"The pooled vector must be the same whether or not the map {stage.name} is wanted.")


@check("What is not wanted is not given.")
def nothing_unwanted(subject: Subject) -> None:
    """See that nothing is computed, kept or sent for nobody."""
    for what, want in subject.wants():
        found = subject.run(subject.backbone, want)
        more = [
            *(["pooled"] if found.pooled is not None and not want.pooled else []),
            *(["tokens"] if found.tokens is not None and not want.tokens else []),
            *(["prefix"] if found.prefix is not None and not want.tokens else []),
            *(["embed"] if found.embed is not None and not want.embed else []),
            *(f"the map {name}" for name in found.maps if name not in want.maps),
        ]
        rule(not more, f"What is not wanted must not be given: where {what} was wanted, got {', '.join(more)} too.")
        missing = [name for name in want.maps if name not in found.maps]
        rule(not missing, f"The map {', '.join(missing)} must be given where it is wanted.")


@check("What the spec does not declare is refused by name.")
def undeclared(subject: Subject) -> None:
    """See that a head on the wrong backbone is told so."""
    with raises(CapabilityError, "A map that is not there must raise CapabilityError"):
        subject.run(subject.backbone, Want(maps=("no_such_stage",)))
    if "tokens" not in subject.spec.capabilities:
        with raises(CapabilityError, "Tokens that are not declared must raise CapabilityError"):
            subject.run(subject.backbone, Want(tokens=True))
    if "embed" not in subject.spec.capabilities:
        with raises(CapabilityError, "An embedding that is not declared must raise CapabilityError"):
            subject.run(subject.backbone, Want(embed=True))


@check("Maps are (B, C, H, W), with the channels and the reduction that the spec declares.", needs=("maps",))
def maps(subject: Subject) -> None:
    """See that dense heads find the pyramid that the spec promises, at the size that it was measured with."""
    spec, entry = subject.spec, subject.spec.inputs[0]
    inputs = subject.inputs if entry.size is None else subject.sized(entry.size)
    features = subject.run(subject.backbone, Want(pooled=False, maps=tuple(stage.name for stage in spec.maps)), inputs)
    rows, sides = inputs[subject.main].shape[0], inputs[subject.main].shape[-2:]
    for stage in spec.maps:
        found = features.maps.get(stage.name)
        rule(found is not None, f"The map {stage.name} must be given where it is wanted.")
        assert found is not None
        right = found.ndim == 4 and found.shape[0] == rows and found.shape[1] == stage.channels
        rule(right, f"Map {stage.name} must be (B, C, H, W) with {stage.channels} channels, got {tuple(found.shape)}.")
        expected = [side / (stage.reduction or 1) for side in sides]
        fits = all(abs(side - got) < 1.01 for side, got in zip(expected, found.shape[-2:], strict=True))
        rule(fits, f"Map {stage.name} must be 1/{stage.reduction:g} of {tuple(sides)}, got {tuple(found.shape)}.")


@check("Tokens have the width, the prefix and the grid that they say.", needs=("tokens",))
def tokens(subject: Subject) -> None:
    """See that token heads need not guess."""
    spec, found = subject.spec, subject.features
    got = None if found.tokens is None else tuple(found.tokens.shape)
    rule(
        got is not None and len(got) == 3 and got[0] == 2 and got[2] == spec.token_dim,
        f"tokens must have the shape that the spec declares, (2, N, {spec.token_dim}), got {got}.",
    )
    assert got is not None
    if spec.inputs[0].kind == "image":
        rule(found.grid is not None, "grid must be given with the tokens of a picture.")
    if found.grid is not None:
        cells = found.grid[0] * found.grid[1]
        rule(got[1] == cells, f"Tokens must fill the grid {found.grid}, got {got[1]} of them.")
    count = 0 if found.prefix is None else found.prefix.shape[1]
    rule(count == spec.prefix_tokens, f"There must be {spec.prefix_tokens} prefix tokens, got {count}.")


@check("The embedding is (B, E) and has length 1.", needs=("embed",))
def embed(subject: Subject) -> None:
    """See that the projected vector of a dual-tower model is what zero-shot heads expect."""
    found = subject.features.embed
    got = None if found is None else tuple(found.shape)
    rule(got is not None and len(got) == 2 and got[0] == 2, f"embed must be (B, E), got {got}.")
    assert found is not None
    near(found.norm(dim=1), torch.ones(2), "embed must be normalised to length 1.", 1e-4)


@check("The mask is carried, and what it leaves out changes nothing.", needs=("mask",))
def mask(subject: Subject) -> None:
    """See that padding a batch does not change what a row gives."""
    spec = subject.spec
    name = next(entry.name for entry in spec.inputs if entry.kind == "mask")
    main = subject.inputs[subject.main]
    real = main.shape[-1] - 3
    if spec.inputs[0].fixed_length and spec.inputs[0].kind != "tokens":
        raise Unfit("its input has one length only")
    if main.ndim != 2:
        raise Unfit(f"padding of an input of rank {main.ndim} is the feature extractor's own")
    kept = torch.zeros_like(main, dtype=torch.int64)
    kept[:, :real] = 1
    other = main.clone()
    other[:, real:] = 1 if not main.is_floating_point() else 0
    found = subject.run(subject.backbone, inputs={**subject.inputs, name: kept})
    again = subject.run(subject.backbone, inputs={**subject.inputs, subject.main: other, name: kept})
    rule(found.mask is not None, "The mask must be carried in the features.")
    assert found.mask is not None
    rule(found.mask.dtype == torch.bool and found.mask.shape[0] == 2, "The mask must be (B, N) of bool.")
    assert found.pooled is not None
    assert again.pooled is not None
    near(found.pooled, again.pooled, "What the mask leaves out must not change the pooled vector.", 1e-3)
    if not spec.inputs[0].fixed_length and not main.is_floating_point():
        short = {subject.main: main[:, :real], name: kept[:, :real]}
        alone = subject.run(subject.backbone, inputs={**subject.inputs, **short})
        assert alone.pooled is not None
        near(found.pooled, alone.pooled, "Padding that is masked must not change the pooled vector.", 1e-3)


@check("The same input gives the same features in eval mode.")
def determinism(subject: Subject) -> None:
    """See that a prediction can be repeated, whatever the generators of random numbers did meanwhile."""
    first = subject.run(subject.backbone, everything(subject.spec))
    torch.manual_seed(1234)
    again = subject.run(subject.backbone, everything(subject.spec))
    _equal(first, again, "{} must be the same in eval mode when the pass is repeated.")


@check("A pass leaves nothing behind: another batch or picture size changes no later one.")
def nothing_left(subject: Subject) -> None:
    """See that a module does not fit itself to what it saw last, as some do to a small picture."""
    entry, other = subject.spec.inputs[0], subject.twin()
    seen = [subject.examples(batch=1)]
    if "dynamic_size" in subject.spec.capabilities and entry.kind == "image":
        height, width = subject.inputs[subject.main].shape[-2:]
        least = -(-max(entry.least, 1) // entry.divisor) * entry.divisor
        step = entry.divisor * -(-32 // entry.divisor)
        seen += [subject.sized((height + step, width)), subject.sized((least, least))]
    for inputs in seen:
        with contextlib.suppress(Exception):  # whether it takes this picture is for another check to say
            subject.run(other, everything(subject.spec), inputs)
        again = subject.run(other, everything(subject.spec))
        size = tuple(inputs[subject.main].shape)
        _equal(subject.features, again, "{} must be the same after a pass over " + f"{size}.")


@check("A row gives the same alone as in a batch.")
def batch_independence(subject: Subject) -> None:
    """See that a picture's prediction does not depend on its neighbours."""
    for row in range(2):
        one = {name: tensor[row : row + 1] for name, tensor in subject.inputs.items()}
        alone = tensors_of(subject.run(subject.backbone, everything(subject.spec), one))
        for name, tensor in tensors_of(subject.features).items():
            text = f"Row {row} of {name} must be the same alone as in a batch."
            near(alone[name], tensor[row : row + 1], text, 1e-3)


@check("Training mode and back changes nothing, and a pass leaves the mode as it is.")
def mode(subject: Subject) -> None:
    """See that ``.train()`` and ``.eval()`` mean what they mean in torch."""
    other = subject.twin()
    for training in (False, True):
        other.train(training)
        before = {name: module.training for name, module in other.named_modules()}
        subject.run(other)
        after = {name: module.training for name, module in other.named_modules()}
        changed = [name for name, value in before.items() if after[name] != value]
        rule(not changed, f"A pass must leave the training mode as it is; {changed[:3]} changed.")
    other = subject.twin().train().eval()
    _equal(subject.features, subject.run(other, everything(subject.spec)), "{} must be the same after .train().eval().")


def _equal(one: Features, other: Features, text: str) -> None:
    found: dict[str, Tensor] = tensors_of(other)
    for name, tensor in tensors_of(one).items():
        rule(name in found, text.format(name))
        same(tensor, found[name], text.format(name))

"""Checks of other ways to run: another layout, another precision, exported, compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone
from zoo.contracts.features import Features, Want
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject, everything, tensors_of
from zoo.testing.rules import near, rule

__all__: list[str] = []


@check("Channels-last pictures and weights give equal features.")
def channels_last(subject: Subject) -> None:
    """See that the memory layout, which makes convolutions fast, changes no value."""
    if subject.inputs[subject.main].ndim != 4:
        raise Unfit("its input is no picture")
    inputs = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in subject.inputs.items()
    }
    other: Backbone = subject.twin().to(memory_format=torch.channels_last)
    for backbone in (subject.backbone, other):
        found = tensors_of(subject.run(backbone, everything(subject.spec), inputs))
        for name, tensor in tensors_of(subject.features).items():
            near(tensor, found[name], f"{name} must be the same with channels last.", 1e-3)


@check("In bfloat16 it runs and gives bfloat16.", needs=("pooled",))
def half_precision(subject: Subject) -> None:
    """See that nothing in it insists on float32."""
    backbone = subject.twin().to(torch.bfloat16)
    inputs = {name: t.bfloat16() if t.is_floating_point() else t for name, t in subject.inputs.items()}
    try:
        subject.run(backbone)  # inputs are converted
        found = subject.run(backbone, everything(subject.spec), inputs)
    except Exception as error:
        _native_alone(subject, "in bfloat16", lambda native, main: native.bfloat16()(main.bfloat16()))
        raise AssertionError(f"It must run in bfloat16, got {type(error).__name__}: {error}") from error
    for name, tensor in tensors_of(found).items():
        got = str(tensor.dtype).removeprefix("torch.")
        rule(tensor.dtype == torch.bfloat16, f"{name} must be bfloat16 where the weights are, got {got}.")
        rule(bool(torch.isfinite(tensor).all()), f"{name} must be finite in bfloat16.")


@check("torch.export gives a program for any batch with equal features, where it does of the native module.", long=True)
def export(subject: Subject) -> None:
    """See that the interface adds nothing that cannot be exported, and no batch of one size only."""
    try:
        own = _exported(subject, _any_batch, "for a batch of any size")
    except Unfit:
        own = _exported(subject, lambda given: None, "alone")
    _equal(subject, own, "torch.export")


def _exported(subject: Subject, shapes: Callable[[Any], Any], how: str) -> Any:
    """Run a backbone through its exported program.

    Raises:
        Unfit: If the native module cannot be exported so either.
    """

    def run(module: nn.Module, *given: Any) -> Any:
        return torch.export.export(module, given, dynamic_shapes=shapes(given)).module()(*given)

    try:
        with _quiet():
            return run(_Fixed(subject.twin(), everything(subject.spec)), subject.inputs)
    except Exception as error:
        _native_alone(subject, f"by torch.export {how}", run)
        raise AssertionError(
            f"The native module can be exported {how}, but not as a backbone: {type(error).__name__}: {_first(error)}"
        ) from error


def _any_batch(given: Any) -> Any:
    """Say of all tensors that their first axis is the batch."""
    if isinstance(given, tuple):
        return tuple(_any_batch(one) for one in given)
    if isinstance(given, dict):
        return {name: _any_batch(one) for name, one in given.items()}
    return {0: torch.export.Dim("batch")} if isinstance(given, Tensor) else None


@check("torch.compile makes one graph, without a break, where it does of the native module alone.", long=True)
def compiled(subject: Subject) -> None:
    """See that the interface breaks no graph; dynamo's tracing is what is tested, so no C++ is compiled."""

    def run(module: nn.Module, *given: Any) -> Any:
        torch.compiler.reset()
        with torch.no_grad():
            return torch.compile(module, fullgraph=True, backend="eager")(*given)

    try:
        with _quiet():
            found = run(_Fixed(subject.twin(), everything(subject.spec)), subject.inputs)
    except Exception as error:
        _native_alone(subject, "by torch.compile(fullgraph=True)", run)
        raise AssertionError(
            f"The native module compiles to one graph alone, but not as a backbone: {type(error).__name__}: "
            f"{_first(error)}"
        ) from error
    finally:
        torch.compiler.reset()
    _equal(subject, found, "torch.compile")


class _Fixed(nn.Module):
    """A backbone with what is wanted fixed, as a model has it."""

    def __init__(self, backbone: Backbone, want: Want) -> None:
        super().__init__()
        self.backbone = backbone
        self.want = want

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        return self.backbone(inputs, self.want)


def _native_alone(subject: Subject, how: str, run: Callable[..., Any]) -> None:
    """Run the native module alone in the same way; if it cannot, the check does not apply.

    Raises:
        Unfit: If it cannot.
    """
    native = subject.twin().native
    try:
        with _quiet(), torch.no_grad():
            run(native, subject.inputs[subject.main])
    except Exception as error:
        raise Unfit(f"the native module alone does not run {how}: {type(error).__name__}: {_first(error)}") from error


def _quiet() -> Any:
    """Let torch warn of its own internals to nobody."""
    return warnings.catch_warnings(action="ignore")


def _first(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def _equal(subject: Subject, found: Features, how: str) -> None:
    rule(isinstance(found, Features), f"After {how} there must be Features, got {type(found).__name__}.")
    others = tensors_of(found)
    for name, tensor in tensors_of(subject.features).items():
        rule(name in others, f"After {how}, {name} must still be given.")
        near(tensor, others[name].detach(), f"{name} must be the same after {how}.", 1e-4)

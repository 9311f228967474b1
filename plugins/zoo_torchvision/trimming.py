"""Cutting off the layers behind the last one that is wanted; what is left keeps its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

__all__ = ["cut_after"]


def cut_after(native: nn.Module, stage_of: Callable[[str], str], stages: Sequence[str], last: str) -> list[str]:
    """Put the identity in the place of every module that belongs, with all that is in it, to a later stage.

    Args:
        native: The module; it is changed.
        stage_of: Path of a module, parameter or buffer to its stage.
        stages: Names of the stages, in the order of execution.
        last: The last stage that is wanted.

    Returns:
        The paths at which the identity stands now, in the order of definition.
    """
    later = frozenset(stages[stages.index(last) + 1 :])
    cut: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in list(module.named_children()):
            inner = f"{path}.{name}" if path else name
            if not all(stage_of(one) in later for one in _names(child, inner)):
                visit(child, inner)
            elif not isinstance(child, nn.Identity):
                native.set_submodule(inner, nn.Identity().train(native.training))
                cut.append(inner)

    visit(native, "")
    return cut


def _names(module: nn.Module, path: str) -> list[str]:
    tensors = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    inner = [*(name for name, _ in module.named_modules() if name), *tensors]
    return [path, *(f"{path}.{name}" for name in inner)]

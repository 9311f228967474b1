"""Freezing that freezes: weights, running statistics, dropout, through any later ``.train()``.

``requires_grad=False`` alone lets BatchNorm statistics drift, and ``.eval()`` is undone by the next ``.train()`` of the
model or of a part of it. Here a frozen module's mode is pinned: its own ``train`` answers by staying in eval. No class
is swapped and no key renamed, so bundles, exports and copies see the model as it was.

Two things pass a pin by, and are set right when the backbone is called: a module that took a pinned one's place
(``SyncBatchNorm.convert_sync_batchnorm``), or whose flag was written; and a module that holds frozen stages and others,
whose own dropout and layer drop rest until its last frozen stage has been run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.contracts.backbone import Backbone
from zoo.errors import UnknownName

__all__ = ["NormPins", "freeze_module", "freeze_stages", "has_statistics", "is_pinned", "norms_of"]

NormPins = Mapping[str, bool]
"""Stage to whether the weights of its pinned norms are frozen, too."""


def train(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stay in eval, whatever is asked; stands in for ``module.train`` while the module is frozen."""
    return type(module).train(module, False)


def is_pinned(module: nn.Module) -> bool:
    """Say whether a module's mode is pinned."""
    return "train" in vars(module)


def has_statistics(module: nn.Module) -> bool:
    """Say whether a module is a norm with running statistics, of whatever library and class."""
    return all(isinstance(module._buffers.get(name), torch.Tensor) for name in ("running_mean", "running_var"))


def norms_of(backbone: Backbone) -> dict[str, nn.Module]:
    """Give the norms with running statistics of a backbone by their path in the native module."""
    return {name: module for name, module in backbone.native.named_modules() if has_statistics(module)}


def freeze_stages(backbone: Backbone, frozen: frozenset[str], norms: NormPins | None = None) -> None:
    """Make exactly the named stages of a backbone frozen, and all others trainable.

    A parameter is frozen if its stage is. A module is pinned if everything in it is frozen: its parameters, its
    buffers and, where it has none, its place in the order of execution, so that dropout rests too.

    Args:
        backbone: The backbone; its training mode is kept for what is not frozen.
        frozen: Names of stages; unknown ones have no effect.
        norms: The stages whose norms with running statistics are pinned even where the stage trains, and whether their
            weights are frozen with them; None for no stage.
    """
    norms = dict(norms or {})
    resting = {name for name in _pinned(backbone, norms) if norms[_stage_of(backbone, name)]}
    for name, parameter in backbone.native.named_parameters():
        rests = _stage_of(backbone, name) in frozen or name.rpartition(".")[0] in resting
        parameter.requires_grad_(not rests)
        if rests:
            parameter.grad = None
    _pin_stages(backbone, frozen, norms)


def _pin_stages(backbone: Backbone, frozen: frozenset[str], norms: NormPins) -> None:
    """Pin the modes of the very modules that are to rest, and watch them."""
    mode, pinned = backbone.training, _pinned(backbone, norms)
    held = {name: frozenset(_stages_within(backbone, name, m)) for name, m in backbone.native.named_modules()}
    for name, module in backbone.native.named_modules():
        vars(module).pop("train", None)
        if frozen >= held[name] or name in pinned:
            _pin(module)
    _watch(backbone, frozen, norms, held)
    backbone.train(mode)


def _pinned(backbone: Backbone, norms: NormPins) -> set[str]:
    """Name the norms with running statistics of some stages."""
    return {name for name in norms_of(backbone) if _stage_of(backbone, name) in norms} if norms else set()


def freeze_module(module: nn.Module, *, frozen: bool, training: bool) -> None:
    """Freeze a whole module and all in it, such as a head, or let it train again.

    Args:
        module: The module.
        frozen: Whether it is to be frozen.
        training: The mode that it has if it is not frozen.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None
    for part in module.modules():
        vars(part).pop("train", None)
        if frozen:
            _pin(part)
    module.train(training)


def _pin(module: nn.Module) -> None:
    """Put the mode to rest; what stands in is a partial, since a bound method would lose its module when pickled."""
    vars(module)["train"] = partial(train, module)


def _stage_of(backbone: Backbone, name: str) -> str:
    """Give the stage of a path; of what came to a module later, that of the module."""
    while True:
        try:
            return backbone.stage_of(name)
        except UnknownName:
            if not (name := name.rpartition(".")[0]):
                raise


def _stages_within(backbone: Backbone, name: str, module: nn.Module) -> Iterator[str]:
    prefix = name + "." if name else ""
    if name:
        yield _stage_of(backbone, name)
    for child, _ in module.named_modules():
        if child:
            yield _stage_of(backbone, prefix + child)
    for tensor, _ in (*module.named_parameters(), *module.named_buffers()):
        yield _stage_of(backbone, prefix + tensor)


@dataclass
class _Watch:
    """Looks before each pass in training whether what is frozen still rests; a hook that copies and pickles.

    Args:
        frozen: The frozen stages.
        norms: The stages whose norms are pinned.
        places: Where each pinned module stands: its parent's children, its name there, and itself.
        around: Modules that hold frozen stages and others, and their own children without tensors.
        woken: Those of them that are to train once the last frozen stage has been run; filled in each pass.
    """

    frozen: frozenset[str]
    norms: NormPins
    places: list[tuple[dict[str, Any], str, nn.Module]]
    around: list[nn.Module]
    woken: list[nn.Module] = field(default_factory=list)

    def __call__(self, backbone: Backbone, inputs: Any) -> None:
        """Set right what has changed, and let the modules around frozen stages rest for now."""
        if not backbone.training or torch.compiler.is_compiling():
            return
        if any(children.get(name) is not module or module.training for children, name, module in self.places):
            _pin_stages(backbone, self.frozen, self.norms)  # with a watch of its own, whose turn it is in this pass
            next(hook for hook in backbone._forward_pre_hooks.values() if isinstance(hook, _Watch)).rest()
        else:
            self.rest()

    def rest(self) -> None:
        """Let the modules around frozen stages rest for now."""
        self.woken = [module for module in self.around if module.training]
        for module in self.woken:
            module.training = False

    def wake(self) -> None:
        """Let the modules around frozen stages train for the rest of the pass, or for what comes after it."""
        for module in self.woken:
            module.training = True
        self.woken = []


@dataclass
class _Wake:
    """The other end of a :class:`_Watch`, before or behind a module."""

    watch: _Watch

    def __call__(self, *_: Any) -> None:
        """Wake what rests for now."""
        if self.watch.woken:
            self.watch.wake()


def _watch(backbone: Backbone, frozen: frozenset[str], norms: NormPins, held: Mapping[str, frozenset[str]]) -> None:
    """Hang the hooks up anew; where nothing rests there is none."""
    _take_down(backbone)
    native = backbone.native
    places = [
        (parent._modules, name, child)
        for parent in (backbone, *native.modules())
        for name, child in parent._modules.items()
        if child is not None and is_pinned(child)
    ]
    spanning = [m for name, m in native.named_modules() if held[name] & frozen and not held[name] <= frozen]
    loose = [child for m in spanning if not isinstance(m, _CONTAINERS) for child in m.children() if _is_bare(child)]
    around = [module for module in (*spanning, *loose) if not is_pinned(module)]
    if not places and not around:
        return
    watch = _Watch(frozen, norms, places, around)
    backbone.register_forward_pre_hook(watch)
    if not around:
        return
    backbone.register_forward_hook(_Wake(watch), always_call=True)
    ends = [stage.module for stage in backbone.spec.stages if stage.name in frozen]
    end = _inside(native, ends[-1]) if ends and ends[-1] else None
    if end is not None:
        end.register_forward_hook(_Wake(watch))
        return
    for child in (child for module in spanning for child in module.children()):  # whichever of them comes first
        if child not in spanning and not is_pinned(child) and not _is_bare(child):
            for part in child if isinstance(child, nn.ModuleList) else [child]:
                part.register_forward_pre_hook(_Wake(watch))


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""What runs its children and does nothing of its own."""


def _is_bare(module: nn.Module) -> bool:
    """Say whether a module has no tensor, as dropout; its parent may run it in any stage, and more than once."""
    return not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())


def _take_down(backbone: Backbone) -> None:
    for module in (backbone, *backbone.native.modules()):
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number in [number for number, hook in hooks.items() if isinstance(hook, (_Watch, _Wake))]:
                del hooks[number]
                module._forward_hooks_always_called.pop(number, None)


def _inside(native: nn.Module, path: str) -> nn.Module | None:
    """Find a module by its path; None where it was cut off."""
    try:
        return native.get_submodule(path)
    except AttributeError:
        return None

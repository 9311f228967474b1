"""A torchvision model as a zoo backbone: one pass gives the pooled vector, tokens and NCHW maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError, ShapeError
from zoo.spec import BackboneSpec
from zoo_torchvision.anatomies import anatomy_of
from zoo_torchvision.anatomy import Anatomy

__all__ = ["Recorder", "TorchvisionBackbone", "to_map"]

Slots = dict[str, Tensor | None]
TOKENS = "tokens"
_SLOTS: ContextVar[Slots | None] = ContextVar("zoo_torchvision_slots", default=None)


class Recorder:
    """Takes the outputs of some modules during one pass.

    Its hooks stand on the modules for good and do nothing outside :meth:`run`: hooks that come and go would break the
    graph of ``torch.compile`` and would be seen by every thread. What a pass takes belongs to that pass alone, also
    when several threads run one module or a pass raises.

    Args:
        native: The module that runs.
        taps: Name to the path of the module whose output is taken.
    """

    def __init__(self, native: nn.Module, taps: Mapping[str, str]) -> None:
        self.traced: Slots | None = None
        for name, path in taps.items():
            native.get_submodule(path).register_forward_hook(_Tap(self, name))

    def run(self, native: nn.Module, image: Tensor, wanted: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the module once; give its output and what the wanted taps took."""
        slots: Slots = dict.fromkeys(wanted)
        if torch.compiler.is_compiling():  # a compiler follows an attribute, but no context variable
            self.traced = slots
            try:
                output = native(image)
            finally:
                self.traced = None
        else:
            token = _SLOTS.set(slots)
            try:
                output = native(image)
            finally:
                _SLOTS.reset(token)
        return output, {name: taken for name, taken in slots.items() if taken is not None}


class _Tap:
    """The hook on one module; a class, so that a backbone can be copied and pickled with it."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder = recorder
        self.name = name

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        slots = self.recorder.traced if torch.compiler.is_compiling() else _SLOTS.get()
        if slots is not None and self.name in slots:
            slots[self.name] = output


class TorchvisionBackbone(Backbone):
    """A torchvision model, its classifier replaced by the identity and its keys untouched.

    The pooled vector is what the library's own last layer receives; where the library puts dropout before that layer,
    it acts in training as it does there.
    """

    def __init__(self, spec: BackboneSpec, native: nn.Module, stages: StageMap) -> None:
        super().__init__(spec, native, stages)
        self._anatomy = _known(spec)
        self._patch = _patch(native, self._anatomy)
        taps = {stage.name: stage.module for stage in spec.maps}
        if self._anatomy.tokens is not None:
            taps[TOKENS] = self._anatomy.tokens
        self._recorder = Recorder(native, taps)

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the library's own forward once; taps in it give maps and tokens."""
        image = inputs["image"]
        self._check_least(image)
        if not want.maps and not want.tokens:
            return Features(pooled=self.native(image))
        wanted = (*want.maps, *((TOKENS,) if want.tokens else ()))
        pooled, taken = self._recorder.run(self.native, image, wanted)
        self._check_taken(taken, wanted)
        grid = (image.shape[-2] // self._patch, image.shape[-1] // self._patch)
        features = Features(maps={name: to_map(taken[name], self._anatomy, grid) for name in want.maps})
        if want.pooled:
            features.pooled = pooled
        if want.tokens:
            prefix = self.spec.prefix_tokens
            features.tokens, features.prefix = taken[TOKENS][:, prefix:], taken[TOKENS][:, :prefix]
            features.grid = grid
        return features

    def _check_least(self, image: Tensor) -> None:
        least = self._anatomy.least
        if image.shape[-2] < least or image.shape[-1] < least:
            raise ShapeError(
                f"{self.spec.reference} takes pictures of {least} by {least} pixels or more, "
                f"got {image.shape[-2]} by {image.shape[-1]}; enlarge them."
            )

    def _check_taken(self, taken: Mapping[str, Tensor], wanted: Iterable[str]) -> None:
        for name in wanted:
            if name not in taken:
                raise CapabilityError(
                    f"{self.spec.reference} could not take {name!r}: the module in which it ends was replaced; "
                    "change modules inside a stage, not the stage itself."
                )

    def set_grad_checkpointing(self, enable: bool = True) -> bool:
        """Turn DenseNet's own checkpointing on; no other torchvision family has one."""
        flag = self._anatomy.checkpoint_flag
        if flag is None:
            return False
        for module in self.native.modules():
            if flag in vars(module):
                setattr(module, flag, enable)
        return enable

    def native_files(self) -> dict[str, object]:
        """Give a ``config.json`` from which plain torchvision rebuilds the module.

        ``torchvision.models.get_model(architecture, **arguments)``, the first convolution ``conv`` for ``in_channels``
        channels, and the identity at every path of ``identity``; then the weights fit strictly.
        """
        construction = self.spec.construction
        return {
            "config.json": {
                "library": "torchvision",
                "architecture": construction["architecture"],
                "arguments": dict(construction["arguments"]),
                "in_channels": construction["in_channels"],
                "conv": self._anatomy.conv,
                "identity": [self._anatomy.classifier, *self._anatomy.inert],
            }
        }


def to_map(output: Tensor, anatomy: Anatomy, grid: tuple[int, int]) -> Tensor:
    """Bring what a tap took into NCHW, by the layout that the family is known to have.

    Shape:
        - ``output``: ``(B, C, H, W)``, ``(B, H, W, C)``, or ``(B, 1 + N, C)`` with ``N == grid[0] * grid[1]``.
        - returns: ``(B, C, H, W)``.
    """
    if anatomy.layout == "NHWC":
        return output.permute(0, 3, 1, 2)
    if anatomy.layout == "tokens":
        return output[:, 1:].transpose(1, 2).unflatten(2, grid)
    return output


def _known(spec: BackboneSpec) -> Anatomy:
    anatomy = anatomy_of(spec.construction["architecture"])
    if anatomy is None:
        raise CapabilityError(f"{spec.reference}: {spec.construction['architecture']} is of no family known here.")
    return anatomy


def _patch(native: nn.Module, anatomy: Anatomy) -> int:
    conv: Any = native.get_submodule(anatomy.conv)
    return int(conv.kernel_size[0])

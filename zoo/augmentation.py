"""Training views: random crops, flips and colours of a picture, that end as the backbone's preprocessing does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zoo.errors import ConfigError, DataError, UnknownName
from zoo.preprocessing import Preprocessing, as_images, can_scale, mask_pixels, scaled_piece, to_mode

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    Chance: TypeAlias = int | torch.Generator | None

Operation = Callable[[Any], Any]

__all__ = ["Augmentation", "Views"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How training pictures are varied, as data; by default not at all.

    Args:
        scale: Least and largest share of the picture's area that a random crop keeps, in ``(0, 1]``; None for no
            random crop: the picture is scaled and cut as it is for prediction.
        ratio: Least and largest width divided by height of a random crop, before it is scaled to the size.
        flip: Chance that a view is mirrored left to right, in ``[0, 1]``.
        vertical_flip: Chance that it is mirrored top to bottom, in ``[0, 1]``.
        brightness: Most that the brightness changes, as a share of itself, 0 or more.
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: Most that the hue turns, in turns, in ``[0, 0.5]``.
        jitter: Chance that brightness, contrast, saturation and hue change at all, in ``[0, 1]``.
        grey: Chance that a view loses its colours, in ``[0, 1]``.
        blur: Chance that it is blurred by a Gaussian, in ``[0, 1]``.
        sigma: Least and largest standard deviation of that Gaussian, in pixels of the view, above 0.
        solarize: Chance that its values of 128 and more are inverted, in ``[0, 1]``.
        policy: ``trivial`` (one operation of any strength), ``rand`` (two operations of strength ``magnitude``) or
            ``auto`` (the policy that was learned on ImageNet); None for none.
        magnitude: Strength of ``rand``, 0 to 30; 9 by default.
        erasing: Chance that a rectangle of the finished tensor is set to 0, in ``[0, 1]``.
        size: Height and width of a view in pixels, 1 or more, where it is not to have the backbone's; it needs
            ``scale``.

    Raises:
        ConfigError: If a number is out of its range, a magnitude comes without ``rand``, or a size without ``scale``.

    Example:
        >>> Augmentation.preset("light").flip
        0.5

    Source:
        The training recipe of torchvision's classification references, by ``torchvision.transforms.v2``.
        TrivialAugment: Müller and Hutter, 2021, arXiv:2103.10158; RandAugment: Cubuk et al., 2019, arXiv:1909.13719;
        AutoAugment: Cubuk et al., 2018, arXiv:1805.09501; random erasing: Zhong et al., 2017, arXiv:1708.04896.
        Jitter, grey, blur (Pillow's): Chen et al., 2020, arXiv:2002.05709; solarising: Grill et al., arXiv:2006.07733.
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    vertical_flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    policy: Literal["trivial", "rand", "auto"] | None = None
    magnitude: int | None = None
    erasing: float = 0.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"Augmentation: scale must be two shares of the area in (0, 1], got {self.scale}.")
        for name in ("ratio", "sigma"):
            pair = getattr(self, name)
            if not 0 < pair[0] <= pair[1] < math.inf:
                raise ConfigError(f"Augmentation: {name} must be two numbers above 0, the lesser first, got {pair}.")
        for name in _CHANCES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Augmentation: {name} must be a chance in [0, 1], got {getattr(self, name)}.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"Augmentation: {name} must be 0 or more, got {getattr(self, name)}.")
        if not 0 <= self.hue <= 0.5:
            raise ConfigError(f"Augmentation: hue must be in [0, 0.5], got {self.hue}.")
        if self.size is not None and (self.scale is None or min(self.size) < 1):
            got = f"got {self.size} and the scale {self.scale}"
            raise ConfigError(f"Augmentation: size must be two numbers of 1 or more and needs a scale, {got}.")
        if self.policy not in (None, "trivial", "rand", "auto"):
            raise ConfigError(f"Augmentation: policy must be trivial, rand, auto or None, got {self.policy!r}.")
        if self.magnitude is not None and (self.policy != "rand" or not 0 <= self.magnitude <= 30):
            raise ConfigError(
                f"Augmentation: magnitude must be 0 to 30 and needs the policy 'rand', got {self.magnitude} "
                f"and {self.policy!r}."
            )

    @classmethod
    def preset(cls, name: str) -> Augmentation:
        """Give a recipe by name.

        Args:
            name: ``none``; ``light``: random crops and mirror images; ``standard``: those, TrivialAugment, and erasing
                with a chance of 0.1; ``simclr``: those of ``light``, strong changes of colour, grey and blur.

        Raises:
            UnknownName: If there is no such preset.
        """
        try:
            return cls(**_PRESETS[name])
        except KeyError:
            raise UnknownName(f"There is no augmentation {name!r}; it is one of {', '.join(_PRESETS)}.") from None

    @classmethod
    def of(cls, given: Augmentation | str | None) -> Augmentation:
        """Read what a user gives: a recipe, a preset's name, or None for none.

        Raises:
            UnknownName: If there is no such preset.
            ConfigError: If it is none of these.
        """
        if given is None or isinstance(given, str):
            return cls.preset(given or "none")
        if isinstance(given, Augmentation):
            return given
        raise ConfigError(f"An augmentation must be an Augmentation or the name of a preset, got {given!r}.")

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        plain = Augmentation()
        return replace(self, ratio=plain.ratio, jitter=plain.jitter, sigma=plain.sigma) == plain

    @property
    def only_moves(self) -> bool:
        """Whether it cuts and mirrors and leaves colours alone, apart from erasing."""
        return self.policy is None and not any(getattr(self, name) for name in (*_COLOURS, "grey", "blur", "solarize"))

    def views(self, preprocessing: Preprocessing) -> Views:
        """Make what gives training views for a backbone.

        Args:
            preprocessing: The backbone's; the views end in its size, order of channels and normalisation.
        """
        return Views(self, preprocessing)


_CHANCES = ("flip", "vertical_flip", "jitter", "grey", "blur", "solarize", "erasing")
_COLOURS = ("brightness", "contrast", "saturation", "hue")
_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "light": {"scale": (0.08, 1.0), "flip": 0.5},
    "standard": {"scale": (0.08, 1.0), "flip": 0.5, "policy": "trivial", "erasing": 0.1},
    "simclr": {
        **{"scale": (0.08, 1.0), "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5},
        **{"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
    },
}
# pydantic reads it, the dataclass does not know it
setattr(Augmentation, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010


@dataclass(frozen=True, slots=True)
class Views:
    """From a picture to one of its views, ``(channels, H, W)`` float32.

    Args:
        augmentation: How pictures are varied.
        preprocessing: How they end.
    """

    augmentation: Augmentation
    preprocessing: Preprocessing
    _before: list[Operation] = field(init=False, repr=False, compare=False)
    _last: Preprocessing = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the operations once."""
        last = self.preprocessing
        if self.augmentation.size is not None:
            last = replace(last, size=self.augmentation.size)
        object.__setattr__(self, "_before", _operations(self.augmentation, last))
        if self.augmentation.scale is not None:  # the random crop has scaled it
            last = replace(last, resize=None, fit="plain", multiple=1, snap="down")
        object.__setattr__(self, "_last", last)

    def __call__(self, picture: Image.Image, chance: Chance = None, *, spend: bool = False) -> Tensor:
        """Give one view.

        Args:
            picture: A Pillow image of any mode; it is not altered.
            chance: What decides the view: a seed, 0 to 2**63 - 1, or a generator on the CPU, from which one seed is
                drawn; equal ones give equal views, and torch's global generator stays as it was. None draws from the
                global generator, as torchvision's transforms do. Seeds borrow the global generator meanwhile, so they
                hold in processes, not in threads.
            spend: Whether speed goes before the last bit, and the picture may be used up: a JPEG that is not decoded
                yet is decoded at a half, a quarter or an eighth where its random crop needs no more, and the
                normalisation is one multiplication and one addition. The crop is the same, to a pixel of that scale.

        Raises:
            DataError: If it is no picture, cannot be decoded, or cannot become an image of this many channels.
        """
        import torch
        from PIL import Image

        if not isinstance(picture, Image.Image):
            raise DataError(
                f"An augmentation takes single Pillow pictures, got {type(picture).__name__}; leave it out for others."
            )
        quick = spend and self.augmentation.scale is not None and can_scale(picture)
        image = picture if quick else self._moded(picture)
        with _seeded(chance):
            if not quick:
                return self._view(image, self._before, fused=spend)
            piece = self._cut(picture)
            operations = [] if isinstance(piece, torch.Tensor) else self._before[1:]
            return self._view(self._mirrored(piece), operations, fused=True)

    def mask(self, mask: Image.Image | Tensor, chance: Chance = None, *, fill: int = 255) -> Tensor:
        """Give the mask of a view: what is cut, mirrored and moved there is so here, to the nearest pixel.

        Colours change nothing, and a pixel that is erased keeps its number.

        Args:
            mask: As for ``Preprocessing.apply_mask``, of the picture's size.
            chance: What decided the picture's view.
            fill: What stands where the picture has nothing.

        Shape:
            - returns: ``(H, W)``, int64; as high and wide as the view.

        Raises:
            DataError: If a picture's pixels are not one number each.
            ShapeError: If a tensor has another rank or dtype.
        """
        import numpy as np
        from PIL import Image

        image = Image.fromarray(mask_pixels(mask).numpy().astype(np.int32))
        with _seeded(chance):
            for operation in _operations(self.augmentation, self._last, fill):
                image = operation(image)
        return self._last.apply_mask(image, fill=fill)

    def _moded(self, picture: Image.Image) -> Image.Image:
        return to_mode(picture, self.preprocessing.channels, alpha=self.preprocessing.alpha)

    def _cut(self, jpeg: Image.Image) -> Image.Image | Tensor:
        """Cut and scale a random piece of a JPEG, decoded no larger than the piece needs.

        It is a tensor where nothing but mirroring is to come, which is the same for tensors.
        """
        import torch

        crop: Any = self._before[0]
        place = crop.make_params([jpeg])
        area = place["left"], place["top"], place["width"], place["height"]
        piece = scaled_piece(jpeg, area, self._last.size, self._last.interpolation)
        if isinstance(piece, torch.Tensor):
            if self.augmentation.only_moves and piece.shape[0] == self.preprocessing.channels:
                return piece
            piece = as_images(piece[None], piece.shape[0])[0]
        return self._moded(piece)

    def _mirrored(self, piece: Image.Image | Tensor) -> Image.Image | Tensor:
        """Mirror a tensor by the numbers that torchvision's operations draw; pictures are left to these."""
        import torch

        if isinstance(piece, torch.Tensor):
            for chance, axis in ((self.augmentation.flip, -1), (self.augmentation.vertical_flip, -2)):
                if chance and bool(torch.rand(1) < chance):
                    piece = piece.flip(axis)
        return piece

    def _view(self, image: Image.Image | Tensor, operations: Sequence[Operation], *, fused: bool) -> Tensor:
        for operation in operations:
            image = operation(image)
        tensor = self._last.apply_fused(image) if fused else self._last.apply(image)
        if not self.augmentation.erasing:
            return tensor
        from torchvision.transforms import v2

        return v2.RandomErasing(p=self.augmentation.erasing)(tensor)


@contextmanager
def _seeded(chance: Chance) -> Iterator[None]:
    """Let torch's global generator on the CPU give what a chance decides, and put it back."""
    if chance is None:
        yield
        return
    import torch

    seed = chance if isinstance(chance, int) else int(torch.randint(2**63 - 1, (), generator=chance))
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)  # the CPU's alone; those of devices keep their course
        yield
    finally:
        torch.set_rng_state(state)


def _operations(
    augmentation: Augmentation, preprocessing: Preprocessing, mask_fill: int | None = None
) -> list[Operation]:
    """Make torchvision's operations on pictures, in the order of its reference recipe.

    With ``mask_fill`` they are those on masks: they draw the same numbers, and move pixels only.
    """
    from torchvision.transforms import InterpolationMode, v2

    of_mask = mask_fill is not None
    made: list[Operation] = []
    if augmentation.scale is not None:
        interpolation = InterpolationMode("nearest" if of_mask else preprocessing.interpolation)
        made.append(
            v2.RandomResizedCrop(
                list(preprocessing.size), augmentation.scale, augmentation.ratio, interpolation=interpolation
            )
        )
    if augmentation.flip:
        made.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.vertical_flip:
        made.append(v2.RandomVerticalFlip(augmentation.vertical_flip))
    made += [partial(_beside, colour) if of_mask else colour for colour in _colouring(augmentation)]
    if augmentation.policy is not None:
        policy = _policy(augmentation, mask_fill)
        if of_mask:
            setattr(policy, _HOOK, partial(_moved, getattr(policy, _HOOK)))
        made.append(policy)
    return made


def _colouring(augmentation: Augmentation) -> Iterator[Operation]:
    """Make the operations that change colours and leave every pixel in its place."""
    from torchvision.transforms import v2

    colours = {name: getattr(augmentation, name) for name in _COLOURS}
    if any(colours.values()) and augmentation.jitter:
        jitter = v2.ColorJitter(**colours)
        yield jitter if augmentation.jitter == 1 else v2.RandomApply([jitter], augmentation.jitter)
    if augmentation.grey:
        yield v2.RandomGrayscale(augmentation.grey)
    if augmentation.blur:
        yield partial(_blurred, augmentation.blur, augmentation.sigma)
    if augmentation.solarize:
        yield v2.RandomSolarize(128, augmentation.solarize)


def _blurred(chance: float, sigma: tuple[float, float], image: Image.Image) -> Image.Image:
    """Blur a picture with a chance; what it draws does not depend on the picture."""
    import torch
    from PIL import ImageFilter

    drawn, share = torch.rand(2).tolist()
    return image.filter(ImageFilter.GaussianBlur(sigma[0] + share * (sigma[1] - sigma[0]))) if drawn < chance else image


_HOOK = "_apply_image_or_video_transform"
"""What a policy of torchvision calls for each operation: picture, name, strength, filter and fill."""
_MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def _beside(colour: Operation, mask: Image.Image) -> Image.Image:
    """Draw what a change of colours draws, and leave the mask alone."""
    from PIL import Image

    colour(Image.new("RGB", (1, 1)))
    return mask


def _moved(apply: Callable[..., Image.Image], mask: Image.Image, name: str, *strength: Any, **how: Any) -> Image.Image:
    """Do to a mask what moves pixels, and no other operation of a policy."""
    return apply(mask, name, *strength, **how) if name in _MOVES else mask


def _policy(augmentation: Augmentation, mask_fill: int | None) -> Operation:
    from torchvision.transforms import InterpolationMode, v2

    filter_ = InterpolationMode.BILINEAR if mask_fill is None else InterpolationMode.NEAREST
    if augmentation.policy == "trivial":
        return v2.TrivialAugmentWide(interpolation=filter_, fill=mask_fill)
    if augmentation.policy == "auto":
        return v2.AutoAugment(interpolation=filter_, fill=mask_fill)
    magnitude = 9 if augmentation.magnitude is None else augmentation.magnitude
    return v2.RandAugment(magnitude=magnitude, interpolation=filter_, fill=mask_fill)

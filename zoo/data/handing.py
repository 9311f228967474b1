"""From what a user hands over to what a model takes: things become samples, and samples the tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.samples import FileSample, PictureSample, Sample, TensorSample, TextSample
from zoo.errors import ConfigError, DataError, ShapeError
from zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Inputs", "Preparer", "as_rows"]

Inputs = Mapping[str, Sample | None]
"""Input name to the sample of one row; None where the row has none."""

_WORDS = {"image": "pictures", "video": "clips", "text": "texts", "audio": "sounds"}


@dataclass(frozen=True, slots=True)
class Preparer:
    """From the samples of one input to what a backbone takes of it; it pickles and holds no weights.

    Args:
        input: Name of the input.
        modality: What its samples are: ``image``, ``video``, ``text`` or ``audio``.
        prepare: The backbone's function from a sample to its input, and from a list of texts or sounds to a batch.
        recipe: What that function does as data; None where it is the library's own.
        size: Height and width in pixels of a picture that stands for a missing one; None for other inputs.
        optional: Whether a row may lack the input.
    """

    input: str
    modality: str
    prepare: Callable[[Any], Any]
    recipe: Preprocessing | None = None
    size: tuple[int, int] | None = None
    optional: bool = False

    def one(self, sample: Sample | None) -> Any:
        """Open a sample, and make a tensor of a picture; texts and sounds wait for their batch.

        Returns:
            The tensor, ``(C, H, W)`` for a picture; what was opened; or None for a sample that is missing.

        Raises:
            DataError: If it cannot be read, is missing and must not be, or is of another sort than the input.
            ShapeError: If it is a tensor that does not fit.
        """
        if sample is None:
            if self.optional:
                return None
            raise DataError(f"A row has nothing for the input {self.input!r}, which the model needs of every row.")
        opened = sample.open()
        text = isinstance(opened, str)
        if text != (self.modality == "text"):
            is_ = "a text" if text else "no text"
            raise DataError(f"{sample.name} is {is_}; the input {self.input!r} takes {_WORDS[self.modality]}.")
        return opened if self._waits else self._tensor(opened)

    def batch(self, made: Sequence[Any]) -> tuple[Tensor | dict[str, Tensor], Tensor | None]:
        """Make a batch of what :meth:`one` gave, and say which rows have the input.

        Shape:
            - returns: ``(B, …)``, or the backbone's input names to such tensors; and ``(B,)`` bool, None where the
              input is never missing.

        Raises:
            ShapeError: If the pictures differ in size.
        """
        import torch

        present = torch.tensor([one is not None for one in made]) if self.optional else None
        if self._waits:
            return self.prepare(["" if one is None else one for one in made]), present
        there = next((one for one in made if one is not None), None)
        blank = torch.zeros_like(self._blank() if there is None else there)
        tensors = [blank if one is None else one for one in made]
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise ShapeError(
                f"The pictures of one batch must have one size, got {sorted(sizes)}; "
                "name a size in the reference ('?img_size=224'), or give pictures of one shape."
            )
        return torch.stack(tensors), present

    def like(self, other: Preparer) -> bool:
        """Say whether another one makes the same of every sample."""
        if self.recipe is not None or other.recipe is not None:
            return self.recipe == other.recipe
        return self.prepare == other.prepare

    @property
    def _waits(self) -> bool:
        return self.modality in ("text", "audio")

    def _tensor(self, opened: Any) -> Tensor:
        made = self.prepare(opened)
        if isinstance(made, Mapping):
            raise ConfigError(
                f"The backbone makes {', '.join(made)} of a picture, and one tensor is needed; "
                "call the model with tensors."
            )
        prepared: Tensor = made
        return prepared

    def _blank(self) -> Tensor:
        from PIL import Image

        height, width = self.size or (224, 224)
        return self._tensor(Image.new("RGB", (width, height)))


def as_rows(given: Any, modalities: Mapping[str, str]) -> tuple[list[Inputs], bool]:
    """Wrap what a user hands over as rows of samples.

    Args:
        given: For one input: a path, a Pillow image, a ``(C, H, W)`` tensor, a text or a sample; or a sequence of them,
            or a ``(B, C, H, W)`` tensor. For several: input name to one of these, None where there is none; or a
            sequence of such mappings.
        modalities: Input name to what its samples are.

    Returns:
        The rows, and whether it was a single one.

    Raises:
        DataError: If something is of no such sort, or an input is missing or not known.
    """
    if isinstance(given, Mapping):
        return [_as_inputs(given, modalities)], True
    several = len(modalities) > 1
    single = not several and _is_one(given)
    things = [given] if single or not isinstance(given, Iterable) else list(given)
    if several or any(isinstance(thing, Mapping) for thing in things):
        return [_as_inputs(thing, modalities) for thing in things], False
    name, modality = next(iter(modalities.items()))
    return [{name: _as_sample(thing, modality)} for thing in things], single


def _as_inputs(given: Any, modalities: Mapping[str, str]) -> Inputs:
    """Wrap one row of several inputs."""
    names = ", ".join(modalities)
    if not isinstance(given, Mapping):
        raise DataError(f"A row must give the inputs {names} by name, got {type(given).__name__}.")
    for name in given:
        if name not in modalities:
            raise DataError(f"The model has no input {name!r}; its inputs are {names}.")
    return {
        name: None if given.get(name) is None else _as_sample(given[name], modality)
        for name, modality in modalities.items()
    }


def _is_one(given: Any) -> bool:
    import torch
    from PIL import Image

    if isinstance(given, torch.Tensor):
        return given.ndim == 3
    return isinstance(given, (str, Path, Sample, Image.Image)) or not isinstance(given, Iterable)


def _as_sample(thing: Any, modality: str) -> Sample:
    """Wrap one thing as a sample.

    Raises:
        DataError: If it is none of what the input takes.
    """
    import torch
    from PIL import Image

    if isinstance(thing, Sample):
        return thing
    if modality == "text":
        if isinstance(thing, str):
            return TextSample("a text", thing)
        raise DataError(f"A text must be a str, got {type(thing).__name__}.")
    if isinstance(thing, (str, Path)):
        return FileSample(Path(thing))
    if isinstance(thing, torch.Tensor):
        return TensorSample("a tensor", thing)
    if isinstance(thing, Image.Image):
        return PictureSample(getattr(thing, "filename", "") or "an image", thing)
    raise DataError(f"A picture must be a path, a Pillow image or a tensor, got {type(thing).__name__}.")

"""Samples: one input of one row each, opened only when it is needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from zoo.data.pictures import decode, glance, unreadable, upright
from zoo.errors import DataError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Opened: TypeAlias = Image.Image | str | torch.Tensor

__all__ = ["BytesSample", "DatasetSample", "FileSample", "PictureSample", "Sample", "TensorSample", "TextSample"]


class Indexed(Protocol):
    """Anything that gives an item for a row number."""

    def __getitem__(self, index: int, /) -> Any:
        """Give the item of one row."""


class Sample(ABC):
    """One input of one row: a picture, a text or a tensor that is opened on demand.

    Attributes:
        name: What a person reads: the path, or "row 12 of <source>".
    """

    __slots__ = ()

    name: str

    @abstractmethod
    def open(self) -> Opened:
        """Open the sample.

        Returns:
            A picture (fully decoded, EXIF orientation applied, mode as stored), a text, or a tensor.

        Raises:
            UnreadableSample: If there is nothing to open, or it cannot be decoded.
        """

    def glance(self) -> Opened:
        """Open the sample for one training view, which uses it up.

        Returns:
            As :meth:`open`; of an upright JPEG the picture before it is decoded, so that a view can have it decoded at
            the scale that it needs.

        Raises:
            UnreadableSample: As :meth:`open`; of a JPEG whose head is whole, not before it is decoded.
        """
        return self.open()

    @abstractmethod
    def digest(self) -> str:
        """Identify the content, whatever it is called.

        Returns:
            The sha256 in hex of the encoded bytes if there are any, else of the picture, text or tensor.

        Raises:
            UnreadableSample: If the content cannot be had.
        """


@final
@dataclass(frozen=True, slots=True)
class FileSample(Sample):
    """A picture in a file.

    Args:
        path: The file; it need not exist yet.

    Example:
        >>> FileSample(Path("cats/tom.jpg")).name
        'cats/tom.jpg'
    """

    path: Path
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "name", str(self.path))

    def open(self) -> Image.Image:
        """Read and decode the file."""
        return decode(self._bytes(), self.name)

    def glance(self) -> Image.Image:
        """Read the file, and decode it unless it is a JPEG."""
        return glance(self._bytes(), self.name)

    def digest(self) -> str:
        """Hash the file's bytes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise unreadable(self.name, error) from error


@final
@dataclass(frozen=True, slots=True)
class BytesSample(Sample):
    """An encoded picture in memory.

    Args:
        name: What a person reads.
        data: The bytes of a JPEG, PNG or other encoded picture.
    """

    name: str
    data: bytes = field(repr=False)

    def open(self) -> Image.Image:
        """Decode the bytes."""
        return decode(self.data, self.name)

    def glance(self) -> Image.Image:
        """Decode the bytes, unless they are a JPEG."""
        return glance(self.data, self.name)

    def digest(self) -> str:
        """Hash the encoded bytes; equal to that of a file which holds them."""
        return hashlib.sha256(self.data).hexdigest()


@final
@dataclass(frozen=True, slots=True, eq=False)
class PictureSample(Sample):
    """A picture that is decoded already.

    Args:
        name: What a person reads.
        image: The picture.
    """

    name: str
    image: Image.Image = field(repr=False)

    def open(self) -> Image.Image:
        """Give the picture, upright."""
        try:
            return upright(self.image)
        except Exception as error:  # an opened file is decoded only now
            raise unreadable(self.name, error) from error

    def digest(self) -> str:
        """Hash mode, size, palette and pixels."""
        return _digest(self.open())


@final
@dataclass(frozen=True, slots=True)
class TextSample(Sample):
    """A text.

    Args:
        name: What a person reads.
        text: The text.
    """

    name: str
    text: str = field(repr=False)

    def open(self) -> str:
        """Give the text."""
        return self.text

    def digest(self) -> str:
        """Hash the text."""
        return _digest(self.text)


@final
@dataclass(frozen=True, slots=True, eq=False)
class TensorSample(Sample):
    """A tensor that is ready as it is.

    Args:
        name: What a person reads.
        tensor: The input, without a batch axis.

    Shape:
        - ``tensor``: ``(C, H, W)`` for a picture; any dtype.
    """

    name: str
    tensor: torch.Tensor = field(repr=False)

    def open(self) -> torch.Tensor:
        """Give the tensor."""
        return self.tensor

    def digest(self) -> str:
        """Hash dtype, shape and bytes."""
        return _digest(self.tensor)


@final
@dataclass(frozen=True, slots=True, eq=False)
class DatasetSample(Sample):
    """One row of a data set that is indexed anew each time the sample is opened.

    Args:
        name: What a person reads.
        dataset: Anything that gives an item for a row number.
        index: The row number.
        pick: Takes the input out of the item: a picture, a text, a tensor, or a sample to open in its place. It must
            be picklable for loaders that start workers.
    """

    name: str
    dataset: Indexed = field(repr=False)
    index: int
    pick: Callable[[Any], Any] = field(repr=False)

    def open(self) -> Opened:
        """Index the data set and open what it gives."""
        item = self._item()
        return item.open() if isinstance(item, Sample) else item

    def digest(self) -> str:
        """Hash the content; a data set that transforms at random gives another digest each time."""
        item = self._item()
        return item.digest() if isinstance(item, Sample) else _digest(item)

    def _item(self) -> Sample | Opened:
        from PIL import Image

        try:
            item = self.pick(self.dataset[self.index])
            if isinstance(item, Image.Image):
                return upright(item)
        except Exception as error:  # a stranger's data set may raise anything
            raise unreadable(self.name, error) from error
        if isinstance(item, (Sample, str)):
            return item
        import torch

        if isinstance(item, torch.Tensor):
            return item
        raise DataError(f"{self.name!r} must be a PIL picture, a text or a tensor, got {type(item).__name__}.")


def _digest(opened: Opened) -> str:
    from PIL import Image

    if isinstance(opened, str):
        return hashlib.sha256(opened.encode()).hexdigest()
    if isinstance(opened, Image.Image):
        sha = hashlib.sha256(f"{opened.mode} {opened.width}x{opened.height} ".encode())
        sha.update(bytes(opened.getpalette() or ()))
        sha.update(opened.tobytes())
        return sha.hexdigest()
    import torch

    plain = opened.detach().cpu().resolve_conj().resolve_neg().contiguous()
    sha = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    sha.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()

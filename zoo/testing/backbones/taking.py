"""Checks of what a backbone takes and what it refuses."""

from __future__ import annotations

import torch

from zoo.errors import ShapeError
from zoo.testing.backbones.check import Unfit, check
from zoo.testing.backbones.subject import Subject
from zoo.testing.rules import raises, rule

__all__: list[str] = []


@check("An input of the wrong rank is refused.")
def wrong_rank(subject: Subject) -> None:
    """See that a picture without its batch dimension is told so."""
    with raises(ShapeError, "An input of the wrong rank must raise ShapeError"):
        subject.run(subject.backbone, inputs={**subject.inputs, subject.main: subject.inputs[subject.main][0]})


@check("An input with a channel too many is refused.")
def wrong_channels(subject: Subject) -> None:
    """See that channels are checked before the library sees them."""
    if subject.spec.inputs[0].channels is None:
        raise Unfit("its input has no channels")
    main = subject.inputs[subject.main]
    more = {**subject.inputs, subject.main: torch.cat([main, main[:, :1]], dim=1)}
    with raises(ShapeError, "An input with a channel too many must raise ShapeError"):
        subject.run(subject.backbone, inputs=more)


@check("An input of the wrong dtype is refused.")
def wrong_dtype(subject: Subject) -> None:
    """See that raw bytes of a picture, or floats for token ids, are refused."""
    main = subject.inputs[subject.main]
    other = main.to(torch.uint8) if main.is_floating_point() else main.float()
    with raises(ShapeError, "An input of the wrong dtype must raise ShapeError"):
        subject.run(subject.backbone, inputs={**subject.inputs, subject.main: other})


@check("An unknown input is refused.")
def unknown_input(subject: Subject) -> None:
    """See that a misspelt name is not ignored."""
    with raises(ShapeError, "An unknown input must raise ShapeError"):
        subject.run(subject.backbone, inputs={**subject.inputs, "nonsense": subject.inputs[subject.main]})


@check("A missing input is refused.")
def missing_input(subject: Subject) -> None:
    """See that a required input is asked for by name."""
    with raises(ShapeError, "A missing input must raise ShapeError"):
        subject.run(subject.backbone, inputs={n: t for n, t in subject.inputs.items() if n != subject.main})


@check("A picture of another size is refused where the size is fixed.")
def fixed_size(subject: Subject) -> None:
    """See that the one size that is taken stands in the message."""
    entry = subject.spec.inputs[0]
    if entry.size is None or not entry.fixed_size:
        raise Unfit("it takes other sizes too")
    height, width = entry.size
    with raises(ShapeError, "A picture of another size must raise ShapeError where the size is fixed"):
        subject.run(subject.backbone, inputs=subject.sized((height + entry.divisor, width + entry.divisor)))


@check("A picture of another size, not square, gives as wide a vector.", needs=("dynamic_size",))
def other_size(subject: Subject) -> None:
    """See that a backbone that says that it takes any size does."""
    entry = subject.spec.inputs[0]
    height, width = subject.inputs[subject.main].shape[-2:]
    step = entry.divisor * -(-32 // entry.divisor)
    size = (height + step, width + 2 * step)
    found = subject.run(subject.twin(), inputs=subject.sized(size)).pooled
    expected = (1, subject.spec.pooled_dim)
    got = None if found is None else tuple(found.shape)
    rule(got == expected, f"pooled must be {expected} for pictures of {size} pixels, got {got}.")


@check("A side that is not divisible is refused where the spec has a divisor.")
def divisor(subject: Subject) -> None:
    """See that the size to pad to stands in the message."""
    entry = subject.spec.inputs[0]
    if entry.size is None or entry.divisor == 1 or entry.fixed_size:
        raise Unfit("it takes any height and width")
    height, width = subject.inputs[subject.main].shape[-2:]
    with raises(ShapeError, f"A side that is no multiple of {entry.divisor} must raise ShapeError"):
        subject.run(subject.backbone, inputs=subject.sized((height, width + 1)))


@check("A picture that is too small is refused by name, and the least that the spec says is taken.")
def small_size(subject: Subject) -> None:
    """See that no library's own error comes of a small picture."""
    entry = subject.spec.inputs[0]
    if entry.size is None or entry.fixed_size:
        raise Unfit("it takes one size only")
    least = -(-max(entry.least, 1) // entry.divisor) * entry.divisor
    try:
        subject.run(subject.twin(), inputs=subject.sized((least, least)))
    except ShapeError as error:
        raise AssertionError(
            f"A picture of {least}×{least} must be taken, which the spec says, got: {error}"
        ) from error
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise AssertionError(f"A picture of {least}×{least} must be taken, or 'least' be higher, got {got}") from error
    if least > entry.divisor:
        with raises(ShapeError, "A picture that is too small must raise ShapeError"):
            subject.run(subject.backbone, inputs=subject.sized((least - entry.divisor,) * 2))


@check("An input that is too long is refused where the spec has a length.")
def length(subject: Subject) -> None:
    """See that text beyond the position embeddings is refused before the library fails."""
    entry = subject.spec.inputs[0]
    if entry.length is None or entry.kind == "image" or (entry.kind == "video" and not entry.fixed_length):
        raise Unfit("it has no limit")
    main = subject.inputs[subject.main]
    at = 2 if entry.kind == "video" else main.ndim - 1
    times = [1] * main.ndim
    times[at] = -(-(entry.length + 1) // main.shape[at])
    longer = main.repeat(times).narrow(at, 0, entry.length + 1)
    with raises(ShapeError, f"An input longer than {entry.length} must raise ShapeError"):
        subject.run(subject.backbone, inputs={subject.main: longer})

"""Training views: pictures per second of ours beside Pillow and torchvision v2, from JPEG files to batches' tensors.

Each round makes one view of every picture by either way, in turn, on one core: ours as ``zoo.fit`` does, theirs
``Image.open`` and ``v2.Compose([RandomResizedCrop, RandomHorizontalFlip, ToImage, ToDtype, Normalize])``, to the same
size with the same crops' distribution and the same filter. The ratio is the median over rounds of their time to ours;
1.40 means 40 % more pictures per second. The pictures are pieces of the two photographs that scikit-learn brings,
500 x 375 pixels, as JPEGs. ``exact`` is what evaluation would do of it: the view of the wholly decoded picture.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, v2

from zoo.augmentation import Augmentation
from zoo.data import FileSample
from zoo.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(folder: Path, count: int, quality: int) -> list[Path]:
    """Write pieces of the sample photographs as JPEGs, each of another place."""
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        left, top = number * 7 % (source.width - 499), number * 5 % (source.height - 374)
        paths.append(folder / f"{number}.jpg")
        source.crop((left, top, left + 500, top + 375)).save(paths[-1], quality=quality)
    return paths


def peer(size: int) -> Callable[[Path, int], torch.Tensor]:
    """Make the views of Pillow and torchvision."""
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return lambda path, _: steps(Image.open(path).convert("RGB"))


def ours(size: int, *, exact: bool = False) -> Callable[[Path, int], torch.Tensor]:
    """Make our views, as training does or wholly decoded."""
    views = Augmentation.preset("light").views(Preprocessing(size=(size, size), resize=(size,), mean=MEAN, std=STD))
    if exact:
        return lambda path, seed: views(FileSample(path).open(), seed)
    return lambda path, seed: views(FileSample(path).glance(), seed, spend=True)


def rate(make: Callable[[Path, int], torch.Tensor], paths: Sequence[Path], seed: int) -> float:
    """Give pictures per second for one view of each."""
    start = time.perf_counter()
    for number, path in enumerate(paths):
        make(path, seed + number)
    return len(paths) / (time.perf_counter() - start)


def main() -> None:
    """Measure each size and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quality", type=int, default=90)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'size':>4} {'ours/s':>8} {'exact/s':>8} {'peer/s':>8} {'ratio':>7} {'exact':>7}")
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), arguments.pictures, arguments.quality)
        for size in arguments.sizes:
            ways = [ours(size), ours(size, exact=True), peer(size)]
            for way in ways:
                rate(way, paths[:10], 0)
            rounds: list[list[float]] = []
            for number in range(arguments.rounds):
                order = [(number + place) % 3 for place in range(3)]
                found = {turn: rate(ways[turn], paths, number * arguments.pictures) for turn in order}
                rounds.append([found[turn] for turn in range(3)])
            quick, exact, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratios = [statistics.median(one[turn] / one[2] for one in rounds) for turn in (0, 1)]
            told = f"{quick:8.0f} {exact:8.0f} {theirs:8.0f} {ratios[0]:7.2f} {ratios[1]:7.2f}"
            print(f"{size:4} {told}", flush=True)


if __name__ == "__main__":
    main()

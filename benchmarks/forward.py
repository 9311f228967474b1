"""Forward: a zoo model against the library's own module with the same weights, eager, in one process, run in turn.

For each architecture and batch the ratio is the median over rounds of ours to the mean of two of the library's own,
made alike, one before and one after it; 1.00 means that the uniform interface costs nothing. The control is the ratio
of those two to each other: what it is off 1.00 is due to where their weights lie in memory. With CUDA the device is
synchronised around each run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torchvision
import transformers

import zoo


def timm_peer(name: str) -> torch.nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=10)


def torchvision_peer(name: str) -> torch.nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=10)


class ViTPeer(torch.nn.Module):
    """transformers' own ViT classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give the logits."""
        return self.model(image).logits


CASES: dict[str, Callable[[], torch.nn.Module]] = {
    "timm:mobilenetv3_large_100": lambda: timm_peer("mobilenetv3_large_100"),
    "timm:vit_tiny_patch16_224": lambda: timm_peer("vit_tiny_patch16_224"),
    "torchvision:resnet18": lambda: torchvision_peer("resnet18"),
    "torchvision:swin_t": lambda: torchvision_peer("swin_t"),
    "hf:vit": ViTPeer,
}


def timed(module: torch.nn.Module, image: torch.Tensor) -> float:
    cuda = image.is_cuda
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    module(image)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Run all cases and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    print(f"{'backbone':30} batch   ours ms   peer ms   ratio control")
    for name, make in CASES.items():
        head = zoo.head("classifier", classes=[str(i) for i in range(10)])
        before = make().eval().to(device)  # a module made later lies better or worse in memory, by some 1 %
        ours = zoo.build(name, head, weights=None).to(device)
        runs = [ours, before, make().eval().to(device)]
        for batch in arguments.batches:
            image = torch.randn(batch, 3, 224, 224, device=device)
            times: list[list[float]] = [[], [], []]
            with torch.inference_mode():
                for _ in range(3):
                    for run in runs:
                        run(image)
                for number in range(arguments.rounds * (4 if batch == 1 else 1)):
                    for place in range(3):  # each finds the caches as each of the others left them
                        turn = (number + place if number % 2 else number - place) % 3
                        times[turn].append(timed(runs[turn], image))
            mine, peers = times[0], [(one + other) / 2 for one, other in zip(*times[1:], strict=True)]
            ratio = statistics.median(a / b for a, b in zip(mine, peers, strict=True))
            control = statistics.median(a / b for a, b in zip(*times[1:], strict=True))
            one, other = statistics.median(mine) * 1e3, statistics.median(peers) * 1e3
            print(f"{name:30} {batch:5} {one:9.2f} {other:9.2f} {ratio:7.3f} {control:7.3f}", flush=True)


if __name__ == "__main__":
    main()

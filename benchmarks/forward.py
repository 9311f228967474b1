"""Forward: a zoo model against the library's own module with the same weights, eager, in one process, run in turn.

For each architecture and batch the ratio is the median over rounds of ours to the mean of two of the library's own,
made alike, one before and one after it; 1.00 means that the uniform interface costs nothing. The control is the ratio
of those two to each other. All three have the very same tensors as weights, since where they lie in memory is worth 1 %
by itself; what is left of that is met by making all three several times at batch 1 and giving the median over these
sets. With CUDA the device is synchronised around each run.
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


def compared(name: str, batch: int, rounds: int, device: torch.device) -> list[tuple[float, float, float]]:
    """Make ours between two of the library's own, and time the three in turn; one triple a round."""
    head = zoo.head("classifier", classes=[str(i) for i in range(10)])
    before = CASES[name]().eval().to(device)  # a module made later lies better or worse in memory, by some 1 %
    ours = zoo.build(name, head, weights=None).to(device)
    runs = [ours, before, CASES[name]().eval().to(device)]
    weights = ours.backbones["main"].native.state_dict()
    for peer in runs[1:]:  # the same tensors, so that none lies better in memory
        held = getattr(getattr(peer, "model", peer), "vit", peer)
        if held.load_state_dict(weights, strict=False, assign=True).unexpected_keys:
            raise SystemExit(f"The weights of {name} are not those of the library's module.")
    image = torch.randn(batch, 3, 224, 224, device=device)
    times: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        for _ in range(3):
            for run in runs:
                run(image)
        for number in range(rounds):
            for place in range(3):  # each finds the caches as each of the others left them
                turn = (number + place if number % 2 else number - place) % 3
                times[turn].append(timed(runs[turn], image))
    return list(zip(*times, strict=True))


def main() -> None:
    """Run all cases and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sets", type=int, default=3, help="times that all three modules are made anew")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'backbone':30} batch   ours ms   peer ms   ratio control")
    for name in arguments.names:
        for batch in arguments.batches:
            rounds, sets = arguments.rounds * (4 if batch == 1 else 1), arguments.sets if batch == 1 else 1
            every = [compared(name, batch, rounds, torch.device(arguments.device)) for _ in range(sets)]
            ratios = [statistics.median(2 * a / (b + c) for a, b, c in times) for times in every]
            control = [statistics.median(b / c for _, b, c in times) for times in every]
            flat = [times for one in every for times in one]
            mine, peers = (statistics.median(found) for found in ([a for a, *_ in flat], [b for _, b, _ in flat]))
            told = f"{statistics.median(ratios):7.3f} {statistics.median(control):7.3f}"
            print(f"{name:30} {batch:5} {mine * 1e3:9.2f} {peers * 1e3:9.2f} {told}", flush=True)


if __name__ == "__main__":
    main()

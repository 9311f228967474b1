"""The network itself, plain torch: it stands for the library that a provider wraps, and knows nothing of zoo."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["TinyNet"]


class TinyNet(nn.Module):
    """A stem and three stages of strided convolutions.

    Args:
        width: Channels of the first stage, 1 or more; each later stage has twice as many.

    Shape:
        - input: ``(B, 3, H, W)`` float.
        - returns of ``forward``: ``(B, 4 * width)``.

    Example:
        >>> import torch
        >>> TinyNet(width=8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 32])
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = _block(3, width)
        self.stage1 = _block(width, width)
        self.stage2 = _block(width, 2 * width)
        self.stage3 = _block(2 * width, 4 * width)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Give the map of each stage, at 1/4, 1/8 and 1/16 of the picture."""
        first = self.stage1(self.stem(image))
        second = self.stage2(first)
        return {"s1": first, "s2": second, "s3": self.stage3(second)}

    def forward(self, image: Tensor) -> Tensor:
        """Give the pooled vector."""
        pooled: Tensor = self.pool(self.maps(image)["s3"])
        return pooled


def _block(channels: int, width: int) -> nn.Sequential:
    """Halve height and width."""
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())

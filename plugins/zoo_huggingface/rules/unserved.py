"""Model types that cannot be served, each with its reason."""

from __future__ import annotations

__all__ = ["UNSERVED"]

UNSERVED: dict[str, str] = {
    "timm_wrapper": "it holds a timm model; use 'timm:' and that model's name",
    "timm_backbone": "it holds a timm model; use 'timm:' and that model's name",
    "vision-encoder-decoder": "it is made of two models; name its encoder instead",
    "vision-text-dual-encoder": "it is made of two models; name one of them instead",
    "encoder-decoder": "it is made of two models; name its encoder instead",
    "speech-encoder-decoder": "it is made of two models; name its encoder instead",
}
"""Model type to the reason why it cannot be served."""

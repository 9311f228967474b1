"""The Hugging Face provider: encoders of transformers behind zoo's one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hooks import hookimpl

if TYPE_CHECKING:
    from zoo.contracts.provider import Provider


@hookimpl
def zoo_provider() -> Provider:
    """Give the provider; transformers itself is imported when a backbone is asked for."""
    from zoo_huggingface.provider import HuggingFaceProvider

    return HuggingFaceProvider()

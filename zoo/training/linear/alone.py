"""A model as its heads alone, for heads that learn on kept features: the loop walks over nothing that rests."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.utils.data import Dataset

from zoo.model import Model
from zoo.training.rows.batches import FeatureRows, Row

__all__ = ["HeadsAlone", "lightened"]


def lightened(model: Model, rows: Dataset[Row]) -> Model:
    """Give what an engine trains: the heads alone where the rows are features, else the model."""
    if isinstance(rows, FeatureRows) and not rows.prefixes:
        return cast(Model, HeadsAlone(model))
    return model


class HeadsAlone(nn.Module):
    """The heads of a model, with everything else asked of the model itself.

    In each step an engine sets the mode of all modules and looks at all parameters; in a backbone these are hundreds,
    and nothing happens there. Parameters and state have the names that they have in the model.

    Args:
        model: The model; its backbones rest, and stay where they are.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        vars(self)["whole"] = model
        self.heads = model.heads
        self.train(model.training)

    def train(self, mode: bool = True) -> HeadsAlone:
        """Set the mode of the heads, and what the model says of its own."""
        vars(self)["whole"].training = mode
        return super().train(mode)

    def __getattr__(self, name: str) -> Any:
        """Ask the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["whole"], name)

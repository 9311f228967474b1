"""Growth: a head takes new classes and keeps all that it knows of the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo.contracts.head import HeadContext
from zoo.errors import CapabilityError, UnknownName, nearest
from zoo.freezing import freeze_module

if TYPE_CHECKING:
    from zoo.contracts.head import Head
    from zoo.contracts.modules import ModuleMap
    from zoo.spec import ModelSpec

__all__ = ["Growing"]


class Growing(nn.Module):
    """The part of a model by which its heads take new classes."""

    spec: ModelSpec
    heads: ModuleMap[Head]
    _frozen_heads: frozenset[str]

    def grow(self, head: str, classes: Sequence[str], *, seed: int = 0) -> Growing:
        """Give a head new classes, behind those that it has; the weights of the old ones stay bit for bit.

        The head is made anew, so an optimizer over its old parameters must be, too. The spec has the new classes, so
        that a bundle of the model is built with them.

        Args:
            head: Name of a head of the model, such as a classifier.
            classes: The new classes, in their order; none that it has already.
            seed: Seed of the new weights.

        Returns:
            The model itself.

        Raises:
            UnknownName: If the model has no such head.
            CapabilityError: If the head cannot grow, or is inside another.
            ConfigError: If a class is there already, or a setting has a value for each class.

        Example:
            >>> import zoo
            >>> kind = zoo.head("classifier", name="kind", classes=["a", "b"])
            >>> model = zoo.build("timm:test_resnet", kind, weights=None)
            >>> model.grow("kind", ["c"]).tasks()["kind"].config.classes
            ('a', 'b', 'c')
        """
        if head not in self.heads:
            inside = [own for own, one in self.heads.items() if head in one.tasks()]
            if inside:
                raise CapabilityError(
                    f"The task {head!r} is inside the head {inside[0]!r} ({self.heads[inside[0]].spec.type}), which "
                    "cannot grow; give the model heads=[…] side by side."
                )
            raise UnknownName(
                f"The model has no head {head!r}; it has {', '.join(nearest(head, self.heads) or self.heads)}."
            )
        old = self.heads[head]
        spec = old.grown(classes)
        kind = type(old)
        context = HeadContext({s: e.backbone for s, e in self.spec.streams.items()}, lambda _: kind)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            new = kind(spec, kind.read_config(spec), context)
        _take_over(new, old)
        new.train(old.training)
        self.heads._modules[head] = new
        heads = tuple(spec if one.name == head else one for one in self.spec.heads)
        self.spec = replace(self.spec, heads=heads)
        if head in self._frozen_heads:
            freeze_module(new, frozen=True, training=self.training)
        return self


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Pour the tensors of a head into one with more classes, whose tensors begin with theirs."""
    given: Mapping[str, torch.Tensor] = old.state_dict(keep_vars=True)
    for name, tensor in new.state_dict(keep_vars=True).items():
        own = given[name]
        tensor.data = tensor.data.to(own)
        tensor.data[tuple(map(slice, own.shape))] = own.data
        tensor.requires_grad_(own.requires_grad)

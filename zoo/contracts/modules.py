"""A mapping of names to modules, for names that users choose."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar, cast

from torch import nn

__all__ = ["ModuleMap"]

M = TypeVar("M", bound=nn.Module)


class ModuleMap(nn.Module, Generic[M]):
    """Like ``nn.ModuleDict``, which refuses names such as ``type`` or ``float`` that label columns really have.

    Args:
        modules: Name to module; a name has no dot.
    """

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        self._modules.update(modules)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # the mode, also where a module is called so
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def __getitem__(self, name: str) -> M:
        return cast("M", self._modules[name])

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def keys(self) -> KeysView[str]:
        """Give the names, in order."""
        return self._modules.keys()

    def values(self) -> ValuesView[M]:
        """Give the modules, in order."""
        return cast("ValuesView[M]", self._modules.values())

    def items(self) -> ItemsView[str, M]:
        """Give the pairs, in order."""
        return cast("ItemsView[str, M]", self._modules.items())

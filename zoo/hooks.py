"""The whole plugin contract on one page.

A plugin is an installed package with one entry point in the group ``zoo``::

    [project.entry-points.zoo]
    acme = "zoo_acme"

The entry point's name is the plugin's name and, if it has a provider, the prefix of its references (``acme:…``). The
module that it names implements any of these hooks as functions marked with :data:`hookimpl`. Finding plugins reads
metadata only; a plugin's module is imported when something of it is asked for, so it should hold hooks only and import
its library in the functions that build.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zoo.contracts.provider import Provider

__all__ = ["GROUP", "ZooHooks", "hookimpl", "hookspec"]

GROUP = "zoo"
"""The entry-point group, and the name of pluggy's project."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class ZooHooks:
    """The hooks. Each is called at most once in a process, when something of the plugin is first asked for."""

    @hookspec(firstresult=True)
    def zoo_provider(self) -> Provider | None:
        """Give the plugin's backbone provider.

        Called when a reference with the plugin's name is built, or its catalog must be made anew. What it raises is
        reported as a ``PluginError`` that names the plugin.

        Returns:
            The provider, or None if the plugin has none.
        """

    @hookspec(firstresult=True)
    def zoo_heads(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Give the plugin's head types.

        Called when a head type is looked up or listed. What it raises is reported by ``zoo plugins``; other plugins'
        heads stay usable.

        Returns:
            Type name to ``"package.module:Class"``, the class being a ``zoo.Head``. The class is imported when a head
            of that type is built. A name that two plugins give is an error when it is used.
        """

    @hookspec(firstresult=True)
    def zoo_methods(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Give the plugin's training methods.

        Called when a method is looked up or listed; the same rules as for ``zoo_heads`` hold.

        Returns:
            Method name to ``"package.module:Class"``, the class being a ``zoo.Method``.
        """

"""The registry: which plugins there are, and the only way to what they give.

Discovery reads metadata only. A plugin is imported when something of it is asked for, inside a fence: whatever it
raises becomes a :class:`PluginError` that names its package, and breaks nothing else. Nobody but this module calls a
hook; every call has a typed method in front of it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from zoo.errors import PluginError, UnknownName, nearest
from zoo.hooks import GROUP, ZooHooks

if TYPE_CHECKING:
    from zoo.contracts.head import Head
    from zoo.contracts.method import Method
    from zoo.contracts.provider import Provider

__all__ = ["Plugin", "PluginStatus", "Registry", "list_plugins", "registry"]

Kind = Literal["heads", "methods"]
_asked: ContextVar[frozenset[str] | None] = ContextVar("zoo_asked_plugins", default=None)


@dataclass
class Plugin:
    """One installed plugin, not imported until something of it is asked for.

    Args:
        name: Its entry point's name.
        module: The module that has its hooks.
        distribution: The package that brought it.
        version: That package's version.
    """

    name: str
    module: str
    distribution: str
    version: str
    _manager: pluggy.PluginManager | None = field(default=None, repr=False)
    _error: PluginError | None = field(default=None, repr=False)

    def _call(self, hook: str) -> Any:
        """Call one hook inside the fence.

        Raises:
            PluginError: If the plugin cannot be imported, breaks the contract, or its hook raises.
        """
        if self._error is not None:
            raise self._error
        try:
            if self._manager is None:
                manager = pluggy.PluginManager(GROUP)
                manager.add_hookspecs(ZooHooks)
                manager.register(importlib.import_module(self.module), name=self.name)
                manager.check_pending()
                self._manager = manager
            return getattr(self._manager.hook, hook)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may even call sys.exit
            self._error = PluginError(
                f"The plugin {self.name!r} of {self.distribution} {self.version} is broken: "
                f"{type(error).__name__}: {error}. Update or uninstall it, or set ZOO_DISABLE_PLUGINS={self.name}."
            )
            raise self._error from error

    @cached_property
    def provider(self) -> Provider | None:
        """Its backbone provider, if it has one."""
        from zoo.contracts.provider import Provider

        provider = self._call("zoo_provider")
        if provider is not None and not isinstance(provider, Provider):
            raise self._breach("zoo_provider", f"a zoo.Provider, got {type(provider).__name__}")
        return provider

    @cached_property
    def heads(self) -> Mapping[str, str]:
        """Its head types: name to ``module:Class``."""
        return self._names("zoo_heads")

    @cached_property
    def methods(self) -> Mapping[str, str]:
        """Its training methods: name to ``module:Class``."""
        return self._names("zoo_methods")

    def _names(self, hook: str) -> Mapping[str, str]:
        names = self._call(hook)
        names = {} if names is None else names
        if not isinstance(names, Mapping) or not all(isinstance(t, str) for pair in names.items() for t in pair):
            raise self._breach(hook, f"a mapping of names to 'module:Class', got {names!r}")
        return dict(names)

    def _breach(self, hook: str, what: str) -> PluginError:
        return PluginError(f"The plugin {self.name!r} of {self.distribution}: {hook} must give {what}.")


class Registry:
    """All plugins of this environment.

    Args:
        claims: Plugin name to all that claim it; more than one claim is an error on use.
    """

    def __init__(self, claims: Mapping[str, tuple[Plugin, ...]]) -> None:
        self.claims = dict(claims)

    @classmethod
    def discover(cls) -> Registry:
        """Read the entry points of the installed packages; ``ZOO_DISABLE_PLUGINS`` (names, commas) leaves some out."""
        disabled = {name.strip() for name in os.environ.get("ZOO_DISABLE_PLUGINS", "").split(",")}
        found: dict[str, dict[tuple[str, str], Plugin]] = {}
        for entry in entry_points(group=GROUP):
            if entry.name not in disabled:
                plugin = _plugin(entry)
                found.setdefault(entry.name, {}).setdefault((plugin.distribution, plugin.module), plugin)
        return cls({name: tuple(claims.values()) for name, claims in sorted(found.items())})

    def plugin(self, name: str) -> Plugin:
        """Find a plugin by name.

        Raises:
            UnknownName: If none is installed under that name.
            PluginError: If two packages claim it.
        """
        claims = self.claims.get(name)
        if not claims:
            near = nearest(name, self.claims)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownName(f"No plugin is called {name!r}; installed: {', '.join(self.claims)}.{hint}")
        if len(claims) > 1:
            packages = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in claims)
            raise PluginError(f"The plugin name {name!r} is claimed by {packages}; uninstall one of them.")
        return claims[0]

    def provider(self, name: str) -> Provider:
        """Load the provider whose references begin with a name; no other plugin is imported.

        Raises:
            UnknownName: If there is no such plugin, or it has no provider.
            PluginError: If it is broken, or claimed twice.
        """
        provider = self.plugin(name).provider
        if provider is None:
            raise UnknownName(f"The plugin {name!r} has no backbones; references begin with another plugin's name.")
        return provider

    def head_class(self, name: str) -> type[Head]:
        """Load a head type.

        Raises:
            UnknownName: If no plugin has it; the message lists the nearest, and the plugins that failed.
            PluginError: If two plugins give it, or its class cannot be imported.
        """
        from zoo.contracts.head import Head

        return self._load(name, "heads", Head)

    def method_class(self, name: str) -> type[Method]:
        """Load a training method; raises as :meth:`head_class` does."""
        from zoo.contracts.method import Method

        return self._load(name, "methods", Method)

    def owner(self, kind: Kind, name: str) -> Plugin:
        """Find the one plugin that gives a head type or a method; raises as :meth:`head_class` does."""
        what = kind.removesuffix("s")
        owners: dict[str, list[Plugin]] = {}
        broken: list[PluginError] = []
        for plugin in self.usable():
            try:
                for given in getattr(plugin, kind):
                    owners.setdefault(given, []).append(plugin)
            except PluginError as error:
                broken.append(error)
        if name not in owners:
            near = nearest(name, owners)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            also = "".join(f" ({error})" for error in broken)
            raise UnknownName(f"No {what} is called {name!r}; there are {', '.join(sorted(owners))}.{hint}{also}")
        if len(owners[name]) > 1:
            packages = " and ".join(plugin.distribution for plugin in owners[name])
            raise PluginError(f"The {what} {name!r} is given by {packages}; uninstall one of them.")
        return owners[name][0]

    def names(self, kind: Kind) -> dict[str, Plugin]:
        """List the head types or methods of all plugins that work, each with the first plugin that gives it."""
        found: dict[str, Plugin] = {}
        for plugin in self.usable():
            try:
                for name in getattr(plugin, kind):
                    found.setdefault(name, plugin)
            except PluginError:
                continue  # reported by `zoo plugins`
        return dict(sorted(found.items()))

    def usable(self) -> list[Plugin]:
        """List the plugins whose name has one claim; inside :meth:`asking`, those of them that may be asked."""
        asked = _asked.get()
        return [
            claims[0] for name, claims in self.claims.items() if len(claims) == 1 and (asked is None or name in asked)
        ]

    @contextmanager
    def asking(self, names: Iterable[str]) -> Iterator[None]:
        """Ask only some plugins for heads and methods, in this thread; no other is imported to see what it gives.

        Args:
            names: Their names; those that are not installed are passed over.
        """
        token = _asked.set(frozenset(names))
        try:
            yield
        finally:
            _asked.reset(token)

    def _load(self, name: str, kind: Kind, base: Any) -> Any:
        plugin = self.owner(kind, name)
        target = getattr(plugin, kind)[name]
        try:
            found = pkgutil.resolve_name(target)
        except Exception as error:
            raise PluginError(
                f"The {kind.removesuffix('s')} {name!r} of {plugin.distribution} cannot be loaded from {target!r}: "
                f"{type(error).__name__}: {error}."
            ) from error
        if not (isinstance(found, type) and issubclass(found, base)):
            raise PluginError(f"{target!r} of {plugin.distribution} must be a zoo.{base.__name__}, got {found!r}.")
        return found


def _plugin(entry: EntryPoint) -> Plugin:
    distribution = entry.dist.metadata["Name"] if entry.dist is not None else "an unknown package"
    version = entry.dist.version if entry.dist is not None else "?"
    return Plugin(name=entry.name, module=entry.value, distribution=distribution, version=version)


@cache
def registry() -> Registry:
    """Give the registry of this process, discovered at the first call."""
    return Registry.discover()


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A plugin and how it is.

    Args:
        name: Its entry point's name.
        distribution: The package that brought it.
        version: That package's version.
        ok: Whether it can be used.
        problem: Why it cannot, in one sentence; None if it can.
        provider: Whether it has backbones.
        heads: Its head types, sorted.
        methods: Its training methods, sorted.
    """

    name: str
    distribution: str
    version: str
    ok: bool
    problem: str | None = None
    provider: bool = False
    heads: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


def list_plugins() -> list[PluginStatus]:
    """Load every plugin inside the fence and say how each is; never raises.

    Example:
        >>> [plugin.heads[:2] for plugin in list_plugins() if plugin.name == "heads"]
        [('attention_pool', 'classifier')]
    """
    found = []
    for name, claims in registry().claims.items():
        for plugin in claims:
            who = (plugin.name, plugin.distribution, plugin.version)
            try:
                given = registry().plugin(name)  # refuses a name that is claimed twice
                status = PluginStatus(
                    *who,
                    ok=True,
                    provider=given.provider is not None,
                    heads=tuple(sorted(given.heads)),
                    methods=tuple(sorted(given.methods)),
                )
            except Exception as error:
                status = PluginStatus(*who, ok=False, problem=" ".join(str(error).split()))
            found.append(status)
    return found

"""The catalog: which components exist, under which name, and who offers them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from attrs import Factory, define, frozen

from smolrecipe.components import KINDS, Component
from smolrecipe.errors import UserError, near_miss

C = TypeVar("C", bound=Component)


@frozen(kw_only=True)
class Provider:
    """The plugin that offers a component: its entry-point name, its distribution with version.

    ``hash_source()`` identifies the source that the plugin had when it was first asked; it reads files, so only a plan
    calls it. ``source_files()`` has the files of the source as they are now, each with its sha256.
    """

    plugin: str
    distribution: str = ""
    version: str = ""
    hash_source: Callable[[], str] = lambda: ""
    source_files: Callable[[], Mapping[str, str]] = dict
    hooks: frozenset[str] = frozenset()
    """The names of the hooks that the plugin implements."""

    def __str__(self) -> str:
        return f"plugin '{self.plugin}' ({self.distribution} {self.version})" if self.distribution else self.plugin


def hash_of_files(files: Mapping[str, str]) -> str:
    """One hash for files, of which each has its own: it changes with a file's name and with its content."""
    if not files:
        return ""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]}\n".encode())
    return digest.hexdigest()


class UnknownComponentError(UserError):
    """A name that no plugin, or more than one, offers."""


@define
class Catalog:
    """All offered components by descriptor class and name, each with its provider."""

    _offers: dict[type[Component], dict[str, list[tuple[Component, Provider]]]] = Factory(dict)
    set_aside: dict[str, str] = Factory(dict)
    """Plugins that could not be loaded, with the reason, for messages about names that nobody offers."""
    loaded: dict[str, Provider] = Factory(dict)
    """All loaded plugins by name, those that offer no component included."""

    def add(self, component: Component, provider: Provider) -> None:
        """Enter what ``provider`` offers."""
        self._offers.setdefault(type(component), {}).setdefault(component.name, []).append((component, provider))

    def names(self, kind: type[Component]) -> list[str]:
        """The names on offer for one descriptor class, sorted."""
        return sorted(self._offers.get(kind, {}))

    def get(self, kind: type[C], name: str) -> C:
        """The component of that name.

        Raises:
            UnknownComponentError: when no plugin offers it, or when several do.
        """
        offers = self._offers.get(kind, {}).get(name, [])
        if len(offers) == 1:
            component = offers[0][0]
            assert isinstance(component, kind)
            return component
        label = KINDS.get(kind, kind.__name__)
        if offers:
            raise UnknownComponentError(
                f"{label} '{name}' is offered by {' and by '.join(str(provider) for _, provider in offers)}: "
                "uninstall one of them, or leave one out with --plugins"
            )
        known = self.names(kind)
        hint = near_miss(name, known) or f"; known: {', '.join(known) or 'none'}"
        if self.set_aside:
            hint += (
                " (set aside, see 'smolrecipe plugins': "
                + ", ".join(f"{plugin}: {reason}" for plugin, reason in self.set_aside.items())
                + ")"
            )
        raise UnknownComponentError(f"unknown {label} '{name}'{hint}")

    def provider(self, component: Component) -> Provider:
        """Who offers the component."""
        for offered, provider in self._offers.get(type(component), {}).get(component.name, []):
            if offered is component:
                return provider
        raise UnknownComponentError(f"{KINDS[type(component)]} '{component.name}' is not in the catalog")

    def __iter__(self) -> Iterator[tuple[Component, Provider]]:
        for kind in KINDS:
            for name in self.names(kind):
                yield from self._offers[kind][name]

    def conflicts(self) -> Mapping[str, list[Provider]]:
        """Names that more than one plugin offers, for the list of plugins."""
        return {
            f"{KINDS[kind]} '{name}'": [provider for _, provider in offers]
            for kind, names in self._offers.items()
            for name, offers in names.items()
            if len(offers) > 1
        }

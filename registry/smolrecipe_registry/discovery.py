"""Finding plugins and collecting what they offer.

A plugin that fails to import, or whose hooks fail, is set aside with its traceback: it never takes the command line
down.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Collection, Iterable
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from attrs import Factory, define

from smolrecipe import hookspecs
from smolrecipe.catalog import Catalog, Provider, hash_of_files
from smolrecipe.components import (
    KINDS,
    Component,
    Generator,
    Launcher,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    RowFilter,
    Schedule,
    Source,
    StageKind,
    Tracker,
)
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe.hookspecs import PROJECT

GROUP = "smolrecipe"
"""The entry-point group that plugins are found in."""

_CATALOG_HOOKS: dict[str, type[Component]] = {
    "smolrecipe_stages": StageKind,
    "smolrecipe_model_components": ModelComponent,
    "smolrecipe_optimizers": Optimizer,
    "smolrecipe_schedules": Schedule,
    "smolrecipe_losses": Loss,
    "smolrecipe_sources": Source,
    "smolrecipe_packers": Packer,
    "smolrecipe_generators": Generator,
    "smolrecipe_filters": RowFilter,
    "smolrecipe_trackers": Tracker,
    "smolrecipe_launchers": Launcher,
}


@define(kw_only=True)
class FoundPlugin:
    """A plugin that is installed: who ships it and, where it was set aside, why."""

    name: str
    target: str
    distribution: str = ""
    version: str = ""
    error: str = ""
    """One line that says what failed, empty for a plugin that works."""
    traceback: str = ""


@define(kw_only=True)
class Registry:
    """All loaded plugins: their hooks, and the catalog of what they offer."""

    manager: pluggy.PluginManager
    catalog: Catalog = Factory(Catalog)
    plugins: dict[str, FoundPlugin] = Factory(dict)


def plugin_entries() -> dict[str, EntryPoint]:
    """The entry points of all installed plugins by name, sorted; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def package_of(entry: EntryPoint) -> str:
    """The top-level package of an entry point's target."""
    return entry.value.partition(":")[0].partition(".")[0].strip()


def source_of(entry: EntryPoint) -> Path | None:
    """The folder of the package that an entry point's target lies in, or the one module; nothing is imported.

    ``None`` where there is no such package here.
    """
    spec = importlib.util.find_spec(package_of(entry))
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)


def distribution_of(entry: EntryPoint) -> str:
    """The name of the distribution that an entry point belongs to."""
    return entry.dist.name if entry.dist is not None else ""


def load_registry(only: Collection[str] | None = None, extra: Iterable[tuple[str, Any]] = ()) -> Registry:
    """Load every installed plugin and collect what they offer.

    Args:
        only: names of the only plugins to load; ``None`` loads all.
        extra: further (name, plugin object) pairs that no entry point names, for tests and notebooks.

    Raises:
        RecipeError: when ``only`` names a plugin that is not installed.
    """
    registry = Registry(manager=pluggy.PluginManager(PROJECT))
    registry.manager.add_hookspecs(hookspecs)
    installed = plugin_entries()
    _refuse_unknown(only, installed)
    for name in installed:
        if only is None or name in only:
            _load(registry, installed[name])
    for name, plugin in extra:
        registry.plugins[name] = FoundPlugin(name=name, target=getattr(plugin, "__name__", repr(plugin)))
        _register(registry, name, plugin)
    registry.catalog.set_aside.update({name: found.error for name, found in registry.plugins.items() if found.error})
    return registry


def source_hash(plugin: Any) -> str:
    """A hash of the plugin's source files, so that a changed plugin gives its stages new digests."""
    return hash_of_files(source_files(plugin))


def source_files(plugin: Any) -> dict[str, str]:
    """The plugin's source files by their path in its package, each with its sha256.

    Every file of the whole package that the plugin lies in counts, its templates and data too; a module that lies in
    no package counts alone. For a plugin that is no module, the one that its class comes from. What Python compiles,
    and what is hidden or a backup (an editor's, a file manager's), is no source.
    """
    name = plugin.__name__ if isinstance(plugin, ModuleType) else str(getattr(plugin, "__module__", ""))
    parents = itertools.accumulate(name.split("."), lambda package, part: f"{package}.{part}")
    files = [getattr(module, "__file__", None) for module in (sys.modules.get(parent) for parent in parents)]
    outermost = next(filter(None, [*files, getattr(plugin, "__file__", None)]), None)  # namespace packages have none
    if outermost is None:
        return {}
    root = Path(outermost)
    package = root.name == "__init__.py"
    found = {path.relative_to(root.parent): path for path in (root.parent.rglob("*") if package else [root])}
    return {
        inside.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for inside, path in sorted(found.items())
        if _is_source(inside) and path.is_file()
    }


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.suffix != ".pyc" and not path.name.endswith("~")


def _refuse_unknown(only: Collection[str] | None, installed: Collection[str]) -> None:
    unknown = [name for name in only or () if name not in installed]
    known = f"; installed: {', '.join(sorted(installed))}"
    if unknown:
        raise RecipeError(f"no plugin '{name}' is installed{near_miss(name, installed) or known}" for name in unknown)


@functools.cache  # its file is parsed again whenever it is asked, and many plugins may be of one distribution
def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    return distribution.name, distribution.version


def _load(registry: Registry, entry: EntryPoint) -> None:
    found = FoundPlugin(name=entry.name, target=entry.value)
    if entry.dist is not None:
        found.distribution, found.version = _name_and_version(entry.dist)
    registry.plugins[entry.name] = found
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:
        _set_aside(found, error)
        return
    _register(registry, entry.name, plugin)


def _register(registry: Registry, name: str, plugin: Any) -> None:
    """Register the plugin's hooks and enter what it offers, or set it aside."""
    found = registry.plugins[name]
    try:
        registry.manager.register(plugin, name=name)
        _refuse_unknown_hooks(plugin)
        offers = _offers(registry.manager, name)
        hooks = {caller.name for caller in registry.manager.get_hookcallers(plugin) or ()}
    except (Exception, SystemExit) as error:
        if registry.manager.has_plugin(name):
            registry.manager.unregister(name=name)
        _set_aside(found, error)
        return
    provider = Provider(
        plugin=name,
        distribution=found.distribution,
        version=found.version,
        hash_source=functools.cache(lambda: source_hash(plugin)),
        source_files=lambda: source_files(plugin),
        hooks=frozenset(hooks),
    )
    registry.catalog.loaded[name] = provider
    for component in offers:
        registry.catalog.add(component, provider)


def _refuse_unknown_hooks(plugin: Any) -> None:
    known = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    for name, value in list(vars(plugin).items()) if hasattr(plugin, "__dict__") else ():
        if hasattr(value, f"{PROJECT}_impl") and name not in known:
            raise TypeError(f"implements the hook '{name}', which does not exist{near_miss(name, known)}")


def _offers(manager: pluggy.PluginManager, name: str) -> list[Component]:
    components: list[Component] = []
    for hook_name, kind in _CATALOG_HOOKS.items():
        for implementation in getattr(manager.hook, hook_name).get_hookimpls():
            if implementation.plugin_name != name:
                continue
            for component in implementation.function():
                if not isinstance(component, Component):
                    raise TypeError(f"{hook_name} returned {component!r}, which is no descriptor")
                if type(component) is not kind:
                    found = KINDS.get(type(component), f"{type(component).__name__}, which the core does not know")
                    raise TypeError(f"{hook_name} offers '{component.name}', a {found}: it takes a {KINDS[kind]} only")
                components.append(component)
    return components


def _set_aside(found: FoundPlugin, error: BaseException) -> None:
    found.error = f"{type(error).__name__}: {error}".splitlines()[0]
    found.traceback = "".join(traceback.format_exception(error))

"""Which modules exist for a plugin: those of its distribution, of what that declares, and of what this brings in."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement

from smolrecipe.provenance.packages import CORE, closure, declared, normal_name
from smolrecipe_registry.discovery import distribution_of, package_of, plugin_entries

KIT = "pytest"
"""The distribution that runs tests: it and what it needs exist wherever a plugin is tested."""

_NOBODYS = frozenset({"tests", "test", "docs", "examples", "benchmarks", "scripts", "conftest"})
"""Names of top-level modules that a distribution brings by mistake and that mean a checkout's own folders."""


def importable_with(distribution: str) -> frozenset[str]:
    """The distributions that exist for a plugin of ``distribution``: its own, what it declares, and the test runner.

    Every extra of its own counts; of those it needs, the extras that it asks for.
    """
    roots = [Requirement(CORE), Requirement(KIT), *declared(distribution)]
    return closure(roots) | {normal_name(distribution)}


def owners(module: str) -> frozenset[str]:
    """The normal names of the installed distributions that bring a top-level module; none where nobody knows.

    An editable installation does not say which modules it brings, but for the targets of its plugins.
    """
    return frozenset(map(normal_name, _modules().get(module, ())))


def undeclared_modules(distribution: str) -> dict[str, str]:
    """Third-party top-level modules that are installed here and that nothing which ``distribution`` declares brings.

    Returns:
        Each module's name with the distribution that it comes from.
    """
    allowed = importable_with(distribution)
    return {
        module: names[0]
        for module, names in _modules().items()
        if module not in sys.stdlib_module_names | _NOBODYS and not allowed & set(map(normal_name, names))
    }


def _modules() -> Mapping[str, list[str]]:
    """The installed top-level modules with the distributions that bring each."""
    return _modules_on(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _modules_on(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    known = {module: list(names) for module, names in packages_distributions().items()}
    for entry in plugin_entries().values():
        names = known.setdefault(package_of(entry), [])
        if distribution_of(entry) not in names:
            names.append(distribution_of(entry))
    return known

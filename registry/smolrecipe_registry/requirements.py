"""What a distribution declares that it needs, what that brings in, and which modules these are.

Names of distributions are compared in their normal form (PEP 503): ``spmd_types`` and ``spmd-types`` are one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from smolrecipe_registry.discovery import distribution_of, package_of, plugin_entries

CORE = "smolrecipe"
"""The distribution that brings the core and the registry: what it needs itself, every plugin may use."""

KIT = "pytest"
"""The distribution that runs tests: it and what it needs exist wherever a plugin is tested."""

_NOBODYS = frozenset({"tests", "test", "docs", "examples", "benchmarks", "scripts", "conftest"})
"""Names of top-level modules that a distribution brings by mistake and that mean a checkout's own folders."""


def normal_name(name: str) -> str:
    """The form of a distribution's or an extra's name that all its spellings share."""
    return canonicalize_name(name)


def extras_of(distribution: str) -> frozenset[str]:
    """The extras that an installed distribution offers; none where it is not installed."""
    found = _find(distribution)
    extras = found.metadata.get_all("Provides-Extra") if found is not None else None
    return frozenset(normal_name(extra) for extra in extras or ())


def declared(distribution: str, extras: Collection[str] | None = None) -> list[Requirement]:
    """The requirements of an installed distribution that hold on this machine.

    Args:
        distribution: its name; one that is not installed has no requirements.
        extras: those whose requirements count besides the plain ones; ``None`` for all.
    """
    found = _find(distribution)
    chosen = ["", *(extras_of(distribution) if extras is None else extras)]
    requirements = [Requirement(text) for text in (found.requires if found is not None else None) or ()]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in chosen)
    ]


def closure(requirements: Iterable[Requirement]) -> frozenset[str]:
    """The normal names of all distributions that the requirements bring in, themselves included."""
    done: dict[str, frozenset[str]] = {}
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name = normal_name(requirement.name)
        extras = done.get(name, frozenset()) | frozenset(map(normal_name, requirement.extras))
        if name not in done or extras != done[name]:
            done[name] = extras
            todo += declared(name, extras)
    return frozenset(done)


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


def _find(distribution: str) -> Distribution | None:
    try:
        return Distribution.from_name(distribution) if distribution else None
    except PackageNotFoundError:
        return None


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

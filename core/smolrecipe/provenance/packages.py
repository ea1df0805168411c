"""What installed distributions require, what that brings in, and in which versions it is here.

Names of distributions are compared in their normal form (PEP 503): ``spmd_types`` and ``spmd-types`` are one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

CORE = "smolrecipe"
"""The distribution that brings the core and the registry: what it needs itself, every plugin may use."""


def normal_name(name: str) -> str:
    """The form of a distribution's or an extra's name that all its spellings share."""
    return canonicalize_name(name)


def extras_of(distribution: str) -> frozenset[str]:
    """The extras that an installed distribution offers; none where it is not installed."""
    found = find_distribution(distribution)
    extras = found.metadata.get_all("Provides-Extra") if found is not None else None
    return frozenset(normal_name(extra) for extra in extras or ())


def declared(distribution: str, extras: Collection[str] | None = None) -> list[Requirement]:
    """The requirements of an installed distribution that hold on this machine.

    Args:
        distribution: its name; one that is not installed has no requirements.
        extras: those whose requirements count besides the plain ones; ``None`` for all.
    """
    found = find_distribution(distribution)
    chosen = ["", *(extras_of(distribution) if extras is None else extras)]
    requirements = [*filter(None, map(_requirement, (found.requires if found is not None else None) or ()))]
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


def versions(requirements: Iterable[str]) -> dict[str, str]:
    """The version of every installed distribution that the requirements bring in, by normal name."""
    return dict(_versions(frozenset(requirements), _installations()))


@functools.lru_cache(maxsize=256)
def _versions(requirements: frozenset[str], installations: tuple[tuple[str, int], ...]) -> Mapping[str, str]:
    """``versions``, remembered: reading the metadata of a hundred packages takes a second."""
    found = {name: find_distribution(name) for name in closure(map(Requirement, requirements))}
    return {name: distribution.version for name, distribution in sorted(found.items()) if distribution is not None}


def _installations() -> tuple[tuple[str, int], ...]:
    """Where packages lie, and when something was last installed or removed there."""
    folders = [Path(entry) for entry in sys.path]
    return tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir())


def find_distribution(name: str) -> Distribution | None:
    """The installed distribution of that name, ``None`` where there is none."""
    try:
        return Distribution.from_name(name) if name else None
    except PackageNotFoundError:
        return None


def _requirement(text: str) -> Requirement | None:
    """A requirement as metadata write it; those of packages from before PEP 508 that nobody can read are left out."""
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None

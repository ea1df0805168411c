"""The document of a plan on this machine: what a lock file holds, and what a run leaves in its run store.

It says nothing of when it was made: the same recipe, sources, packages and machine make the same document.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import smolrecipe
from smolrecipe.catalog import Catalog, Provider, hash_of_files
from smolrecipe.options import Use, walk
from smolrecipe.planning.digest import data_behind, providers_behind
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.provenance.machine import hardware
from smolrecipe.provenance.repository import git_state
from smolrecipe.recipe.converter import unstructure
from smolrecipe.recipe.structure import all_uses, iterate_uses

FORMAT = 1

ACTING_HOOKS = frozenset({"smolrecipe_before_stage", "smolrecipe_after_stage"})
"""Hooks with which a plugin can change what a stage does without being named in the recipe."""


def document(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """All that it takes to do the plan again."""
    folder = plan.recipe.file.absolute().parent
    used = {provider.plugin: provider for provider in _providers(plan, catalog)}
    return {
        "lock": FORMAT,
        "recipe": plan.recipe.name,
        "stages": {stage.name: _stage(plan, stage, folder, catalog) for stage in plan.stages},
        "around": _around(plan, folder),
        "smolrecipe": core_identity(),
        "plugins": {name: plugin_identity(used[name]) for name in sorted(used)},
        "packages": packages((use for _, use in all_uses(plan.recipe)), catalog),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "git": git_state(plan.recipe.file),
        "hardware": hardware(),
    }


def _stage(plan: Plan, stage: PlannedStage, folder: Path, catalog: Catalog) -> dict[str, Any]:
    return {
        "digest": stage.digest,
        "parents": {parent: plan.by_name[parent].digest for parent in stage.parents},
        "options": portable(stage.use, folder),
        "plugins": sorted({provider.plugin for provider in providers_behind(stage.use, catalog)}),
        "data": dict(sorted(data_behind(stage.use))),
        "seeds": seeds(stage.use),
    }


def portable(value: Any, folder: Path) -> Any:
    """Options as plain data, with paths below ``folder`` written from there, so that the folder may move."""

    def text(path: Path) -> str:
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    return unstructure(value, path_text=text)


def seeds(use: Use[Any]) -> dict[str, int]:
    """Every seed in a stage's options, by its path."""
    return {
        ".".join(map(str, path)): value
        for path, value, _ in walk(use)
        if path and isinstance(value, int) and str(path[-1]).endswith("seed")
    }


def core_identity() -> dict[str, str]:
    """The version of smolrecipe itself and a hash of its source."""
    return {"version": smolrecipe.__version__, "source": _core_source()}


def plugin_identity(provider: Provider) -> dict[str, Any]:
    """Which distribution and version a plugin is, and its source file by file."""
    files = dict(provider.source_files())
    return {
        "distribution": provider.distribution,
        "version": provider.version,
        "source": hash_of_files(files) or provider.hash_source(),
        "files": files,
    }


def packages(uses: Iterable[Use[Any]], catalog: Catalog) -> dict[str, str]:
    """The versions of what is installed of smolrecipe, of the components' plugins and of all that these require.

    Of a plugin's extras those count that its components run on.
    """
    # Every command imports this room, and few ask for packages: what reads requirements is imported for those.
    from smolrecipe.provenance.packages import CORE, extras_of, normal_name, versions

    wanted = {CORE}
    for use in uses:
        distribution, extra = catalog.provider(use.component).distribution, use.component.extra
        if distribution:
            known = normal_name(extra) in extras_of(distribution) if extra else False
            wanted.add(f"{distribution}[{extra}]" if known else distribution)
    return versions(wanted)


def acting(catalog: Catalog) -> Iterator[Provider]:
    """The loaded plugins whose hooks take part in every stage."""
    return (provider for _, provider in sorted(catalog.loaded.items()) if provider.hooks & ACTING_HOOKS)


def _providers(plan: Plan, catalog: Catalog) -> Iterator[Provider]:
    """Everyone who has a part in the plan's results."""
    for stage in plan.stages:
        yield from providers_behind(stage.use, catalog)
    yield from acting(catalog)


def _around(plan: Plan, folder: Path) -> Mapping[str, Any]:
    """What the recipe says besides its stages and changes no result."""
    around = {".".join(map(str, path)): portable(use, folder) for path, use in iterate_uses(plan.recipe)}
    return {path: value for path, value in around.items() if not path.startswith("stages.")}


@functools.cache
def _core_source() -> str:
    """A hash of the core's own files, without the recipes that are installed beside them."""
    root = Path(smolrecipe.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    return hash_of_files({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()})

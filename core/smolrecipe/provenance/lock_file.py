"""Lock files: the document of a plan beside its recipe, read strictly, because anybody may have edited it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.catalog import Catalog
from smolrecipe.errors import Place, RecipeError
from smolrecipe.provenance.document import FORMAT
from smolrecipe.provenance.repository import LOCK_SUFFIX
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.nodes import Path_
from smolrecipe.recipe.problems import structuring_problems
from smolrecipe.strict_json import read_mapping

_MOST_BYTES = 2**26


@frozen(kw_only=True)
class LockedStage:
    """A stage as it was locked."""

    digest: str
    parents: Mapping[str, str]
    options: Mapping[str, Any]
    plugins: list[str]
    data: Mapping[str, str]
    seeds: Mapping[str, int]


@frozen(kw_only=True)
class LockedSource:
    """A version and the hash of a source."""

    version: str
    source: str


@frozen(kw_only=True)
class LockedPlugin:
    """A plugin as it was locked, its source file by file."""

    distribution: str
    version: str
    source: str
    files: Mapping[str, str]


@frozen(kw_only=True)
class Lock:
    """What ``smolrecipe lock`` writes: see ``smolrecipe.provenance.document``."""

    lock: int
    recipe: str
    stages: Mapping[str, LockedStage]
    around: Mapping[str, Any]
    smolrecipe: LockedSource
    plugins: Mapping[str, LockedPlugin]
    packages: Mapping[str, str]
    python: str
    git: Mapping[str, Any] | None
    hardware: Mapping[str, Any]


def lock_text(document: Mapping[str, Any]) -> str:
    """A document as a lock file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"


def lock_path(recipe: Path) -> Path:
    """Where the lock file of a recipe lies: beside it."""
    return recipe.with_name(recipe.name.removesuffix(".yaml").removesuffix(".yml") + LOCK_SUFFIX)


def read_lock(path: Path, catalog: Catalog) -> Lock:
    """The lock file at ``path``.

    Raises:
        RecipeError: when there is none, or it is not what ``smolrecipe lock`` writes; the message says what to do.
    """
    if not path.is_file():
        raise RecipeError([f"there is no lock file {path}: 'smolrecipe lock' writes one, or name another with --lock"])
    try:
        content = read_mapping(path, most_bytes=_MOST_BYTES)
    except ValueError as error:
        raise RecipeError([f"{error}: it is no lock file; 'smolrecipe lock' writes one"]) from None
    if content.get("lock") != FORMAT:
        raise RecipeError(
            [f"{path} is no lock file that this smolrecipe reads ('lock' is not {FORMAT}): write it again with "
             "'smolrecipe lock'"]
        )  # fmt: skip
    return structure_lock(content, catalog, str(path))


def structure_lock(content: Mapping[str, Any], catalog: Catalog, name: str) -> Lock:
    """The content of a lock file, typed.

    Raises:
        RecipeError: when something in it is missing, unknown or of another type.
    """
    try:
        lock: Lock = make_converter(catalog).structure(content, Lock)
    except RecursionError:
        raise RecipeError([f"{name} is nested too deeply to be a lock file"]) from None
    except Exception as error:

        def place(path: Path_) -> Place:
            return Place(name)

        problems = list(structuring_problems(error, (), "the lock file", place))
        raise RecipeError(problems) from None
    if bad := [stage for stage, locked in lock.stages.items() if not isinstance(locked.options.get("use"), str)]:
        raise RecipeError(
            [f"{name}: the options of stage '{bad[0]}' have no 'use': write it again with 'smolrecipe lock'"]
        )
    return lock

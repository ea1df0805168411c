"""cattrs' tree of validation errors as sentences with places."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from smolrecipe.catalog import UnknownComponentError
from smolrecipe.errors import Place, Problem, near_miss
from smolrecipe.options import walk, yaml_key
from smolrecipe.recipe.converter import OWNER
from smolrecipe.recipe.nodes import Path_
from smolrecipe.recipe.wording import MOST_PROBLEMS

FindPlace = Callable[[Path_], Place]

_BOUNDS = {"at_least": operator.ge, "more_than": operator.gt, "at_most": operator.le}


def structuring_problems(error: Exception, path: Path_, owner: str, place: FindPlace) -> Iterator[Problem]:
    """Each problem in an exception that structuring the value at ``path`` raised.

    ``owner`` names the value in messages ("stage kind 'sft'"); ``place`` finds where a path was written.
    """
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        owner = getattr(error, OWNER, owner)
        for child in error.exceptions:
            if isinstance(child, Exception):
                yield from structuring_problems(child, (*path, *_step(child)), owner, place)
        return
    if isinstance(error, UnknownComponentError):
        yield Problem(str(error), place((*path, "use")))
        return
    cause = error.args[0] if error.args else ""
    if isinstance(error, ForbiddenExtraKeysError):
        cls: Any = error.cl
        known = [yaml_key(field.name) for field in attrs.fields(cls)]
        for key in sorted(error.extra_fields)[: MOST_PROBLEMS + 1]:
            hint = near_miss(key, known) or f"; known: {', '.join(known) or 'none'}"
            yield Problem(f"unknown key '{key}' in {_where(path, owner)}{hint}", place((*path, key)))
    elif isinstance(error, KeyError):
        # cattrs notes the missing field as the last step; its place is the mapping that lacks it.
        yield Problem(f"{_where(path[:-1], owner)} lacks the required key '{cause}'", place(path[:-1]))
    elif isinstance(error, ValueError):
        yield Problem(f"{_named(path, owner)} {cause}", place(path))
    else:
        raise error


def bound_problems(value: Any, path: Path_, place: FindPlace) -> Iterator[Problem]:
    """Numbers of a structured value that lie outside the bounds that their options declare."""
    for item_path, item, metadata in walk(value, path):
        if not isinstance(item, (int, float)) or isinstance(item, bool):
            continue
        for bound, holds in _BOUNDS.items():
            limit = metadata.get(bound)
            if limit is not None and not holds(item, limit):
                words = bound.replace("_", " ")
                yield Problem(f"{_named(item_path, '')} must be {words} {limit:g}, not {item}", place(item_path))


def _step(error: Exception) -> Path_:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (yaml_key(note.name),)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()


def _where(path: Path_, owner: str) -> str:
    return f"'{'.'.join(map(str, path))}' ({owner})" if path else owner


def _named(path: Path_, owner: str) -> str:
    if not path:
        return owner
    if isinstance(path[-1], int):
        return f"item {path[-1] + 1} of {_named(path[:-1], owner)}"
    return f"'{path[-1]}'"

"""Values of rows as plain data: texts, numbers, lists and mappings, or why they are not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy

DEPTH = 32
"""How deep lists and mappings may lie in each other: templates and their engine go through them by recursion."""

_SHOWN_CHARACTERS = 300
_SHOWN_NAMES = 8


class UnusableRowError(ValueError):
    """A row that cannot be rendered without losing something. The message continues a sentence that names the row."""


class EndlessRowError(UnusableRowError):
    """A row that takes so long that no other is waited for."""


def plain(value: Any, where: str, depth: int = DEPTH) -> Any:
    """The value in Python's own types, as a template may see it.

    Raises:
        UnusableRowError: for what is no plain data, or what text and JSON cannot hold; it says ``where`` that is.
    """
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UnusableRowError(f"has {value} in {where}")
    elif isinstance(value, (Mapping, list, tuple)):
        if not depth:
            raise UnusableRowError(f"is nested more than {DEPTH} deep in {shown(where)}")
        if isinstance(value, Mapping):
            return {_name(key, where): plain(item, f"{where}.{key}", depth - 1) for key, item in value.items()}
        return [plain(item, f"{where}[{number}]", depth - 1) for number, item in enumerate(value)]
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise UnusableRowError(f"has {kind(value)} in {where}, which is neither text nor a number, list or mapping")
    return value


def decoded(value: Any, key: str) -> Any:
    """What a text says as JSON; anything else as it is.

    Raises:
        UnusableRowError: for a text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except (ValueError, RecursionError):
        raise UnusableRowError(f"has '{key}' that is not JSON: {shown(value)!r}") from None


def kind(value: Any) -> str:
    """What a sentence calls the type of a value."""
    return "null" if value is None else type(value).__name__


def shown(text: str, most: int = 60) -> str:
    """A text that may be long, as far as a sentence shows it."""
    return text if len(text) <= most else f"{text[:most]}..."


def names(fields: Mapping[Any, Any]) -> str:
    """The keys of a row, as far as a sentence shows them."""
    first = [shown(str(key), 30) for key, _ in zip(fields, range(_SHOWN_NAMES), strict=False)]
    more = [f"{len(fields) - len(first)} more"] if len(fields) > len(first) else []
    return ", ".join([*first, *more]) or "nothing"


def printable(sentence: str) -> str:
    """A sentence that quotes a row, without what a terminal or a log would take for more than text."""
    cut = shown(sentence, _SHOWN_CHARACTERS)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableRowError(
            f"has half a surrogate pair in {shown(where)} (character {error.start}), which is no text"
        ) from None


def _name(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UnusableRowError(f"has the key {shown(repr(key))} in {shown(where)}, which is no name")
    _check_text(key, f"a key of {where}")
    return str(key)

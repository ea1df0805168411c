"""What may stand in a row of chats: what JSON can say to every program, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_DEEPEST = 64
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def not_json(value: Any, depth: int = 0) -> str:
    """What about a value, taken with all that is in it, JSON or Arrow cannot say, in words; nothing for a good one."""
    if isinstance(value, str):
        return _not_unicode(value)
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if _SMALLEST <= value <= _LARGEST else "a number of more than 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value}, which is no number"
    if depth == _DEEPEST:
        return f"lists or mappings nested more than {_DEEPEST} deep"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return "a mapping whose keys are not all text"
        return _first_problem([*value.keys(), *value.values()], depth + 1)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return _first_problem(value, depth + 1)
    return f"a {type(value).__name__}, which JSON does not have"


def _first_problem(values: Sequence[Any], depth: int) -> str:
    return next(filter(None, (not_json(value, depth) for value in values)), "")


def _not_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair, which is no character"
    return ""

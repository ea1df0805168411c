"""What a stage has left behind about itself, read by everyone who looks at a run: its record, and its events.

The files may be damaged, and a run folder may be a stranger's: nothing that stands in them is trusted to have the type,
or the shape, that publishing gives it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smolrecipe.strict_json import printable, read_bytes, read_mapping

DIGEST_DIGITS = 12
"""Hexadecimal digits of a stage's digest in the name of its folder."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_EVENT_BYTES = 2**32


def is_stage_name(name: Any) -> bool:
    """Whether this may be the name of a stage, which is also the beginning of its folder's name."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 200
        and name[0] != "."
        and all(character.isalnum() or character in "-_." for character in name)
    )


def read_record(file: Path) -> dict[str, Any]:
    """What a ``stage.json`` says.

    Raises:
        ValueError: when it is not what publishing writes; the message begins with the file.
    """
    record = read_mapping(file)
    for key, is_right in _KEYS.items():
        if key not in record:
            raise ValueError(f"{file} is not the record of a stage: it has no '{key}'")
        if not is_right(record[key]):
            raise ValueError(f"{file} is not the record of a stage: '{key}' is {printable(repr(record[key])[:500])}")
    return record


def read_events(file: Path) -> list[dict[str, Any]]:
    """All events in a ``metrics.jsonl``, of a stage that runs or has run; nothing where there is no such file.

    A line that a kill cut short is left out, and so is one that is no event. A "step" is a whole number.
    """
    try:
        content = read_bytes(file, most_bytes=_MOST_EVENT_BYTES)
    except ValueError:
        return []
    return [event for line in content.splitlines() if (event := parse_event(line)) is not None]


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line of a ``metrics.jsonl``, ``None`` where there is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not all(_is_whole(event[key]) for key in _COUNTS & event.keys()):
        return None
    return event


_COUNTS = {"step", "steps", "checkpoint"}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(is_stage_name(name) and is_digest(item) for name, item in value.items())


def is_digest(value: Any) -> bool:
    """Whether this is the digest of a stage."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_measure(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("name"))
        and _is_text(value.get("unit"))
        and value.get("better") in ("higher", "lower")
        and _is_number(value.get("after"))
        and (value.get("before") is None or _is_number(value["before"]))
        and (value.get("samples") is None or _is_whole(value["samples"]))
    )


def _are_measures(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_measure, value))


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("use"))


def _are_plugins(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(plugin, dict) for plugin in value.values())


_KEYS: Mapping[str, Callable[[Any], bool]] = {
    "recipe": _is_text,
    "stage": is_stage_name,
    "kind": _is_text,
    "digest": is_digest,
    "parents": _are_digests,
    "options": _are_options,
    "plugins": _are_plugins,
    "started": _is_text,
    "seconds": lambda value: _is_number(value) and math.isfinite(value),
    "measures": _are_measures,
    "summary": lambda value: isinstance(value, dict),
}

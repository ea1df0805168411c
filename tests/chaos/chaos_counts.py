"""What the chaos suite has done, told when it ends: how many of what, and what was found."""

from __future__ import annotations

import threading
from collections import Counter

_LOCK = threading.Lock()
_COUNTS: dict[str, Counter[str]] = {}
_FOUND: dict[str, list[str]] = {}


def count(what: str, kind: str, found: list[str] | None = None) -> None:
    """Count one more ``what`` of a ``kind``, and note what it has found wrong."""
    with _LOCK:
        _COUNTS.setdefault(what, Counter())[kind] += 1
        _FOUND.setdefault(what, []).extend(found or ())


def report() -> list[str]:
    """The counts in lines."""
    lines = []
    for what, kinds in sorted(_COUNTS.items()):
        wrong = len(_FOUND[what])
        lines.append(f"{what}: {kinds.total()}, which found {wrong or 'nothing'}")
        lines += [f"    {number:5d}  {kind}" for kind, number in sorted(kinds.items())]
    return lines

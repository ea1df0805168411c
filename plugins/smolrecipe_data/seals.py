"""Telling files that are what was written from those that were cut short or damaged, when an attempt goes on.

A seal is a small JSON file, written last and whole, with the size and the sha256 of each file that it stands for, and
with a sha256 of its own content. Nothing is forced to the disk for it: what a dying machine loses is found damaged, and
made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Files = Mapping[str, Mapping[str, Any]]
"""Name in a folder -> ``bytes`` and ``sha256``."""

_OWN = "seal"


def describe(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """What these files in the folder are now."""
    return {path.relative_to(folder).as_posix(): _found(path) for path in sorted(paths)}


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a seal: it has its name once it is whole. Its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    sealed = {**content, _OWN: _hash(content)}
    unfinished.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(path)


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What was sealed; ``None`` for a seal that is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.pop(_OWN)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    return content if isinstance(content, dict) and own == _hash(content) else None


def damage(folder: Path, files: Files) -> str:
    """Which of the files that a seal describes is not what it was, in words; nothing for none."""
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != described["bytes"] or _found(path) != described:
            return f"{name} is not what was written"
    return ""


def _found(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

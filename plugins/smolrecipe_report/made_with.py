"""What a run was made with: the document that its last run has left in ``provenance/``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe_report.last_run import documents

MADE_WITH_HEAD = ("what", "value")
_SHOWN = ("smolrecipe", "python", "git", "hardware", "packages")


def made_with_rows(run: Path) -> Iterator[tuple[str, str]]:
    """Smolrecipe itself, Python, commit, machine and packages, as the newest readable document has them."""
    document = next(documents(run), {})
    for key in _SHOWN:
        yield from _leaves(key, document.get(key))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name} {key}", inner)
    elif value not in (None, "", []):
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)

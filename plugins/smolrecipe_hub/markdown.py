"""Text of strangers in Markdown: names, ids and options stand in a card as they are, and do nothing there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_LONGEST = 300
_PLAIN = re.compile(r"[A-Za-z0-9 ,;=%+/_.()-]*")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+.!|~@:$^-])")
_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def text(value: Any) -> str:
    """Any value as words that Markdown shows as they are: one line, no link, no markup, no HTML, no table's bar."""
    shown = str(value)
    shown = shown if shown.isprintable() else ascii(shown)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    if "www." not in shown and "//" not in shown and "__" not in shown and _PLAIN.fullmatch(shown):
        return shown.replace("_", r"\_")
    return _SPECIAL.sub(r"\\\1", re.sub("[&<>]", lambda found: _ENTITIES[found[0]], shown))


def code(value: Any) -> str:
    """A name as code where it is plainly a name, and as ``text`` where it is anything else."""
    return f"`{value}`" if is_hub_name(str(value)) else text(value)


def is_hub_name(value: str) -> bool:
    """Whether this may be a name on the Hub (``name`` or ``org/name``), and is nothing else in Markdown or a URL."""
    return (
        len(value) <= _LONGEST and _NAME.fullmatch(value) is not None and value.strip(".-/") != "" and ".." not in value
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; columns with an index in ``right`` are aligned to the right."""
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))

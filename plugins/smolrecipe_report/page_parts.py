"""The parts that the page is made of. What is given as text is escaped; drawings and parts are HTML already."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from smolrecipe.strict_json import printable
from smolrecipe_report.style import STYLE

_SHORT_NUMBER = re.compile(r"\d[\d.]*[kMBT%]?")
_LONGEST_CELL = 400
"""Characters of a cell that are shown."""


def document(title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """The whole page: its sections by their headings, with links to them; a section without parts is left out."""
    there = {heading: parts for heading, parts in sections.items() if parts}
    links = "".join(f'<a href="#{_id(heading)}">{escape(heading)}</a>' for heading in there)
    body = "".join(
        f'<section id="{_id(heading)}"><h2>{escape(heading)}</h2>{"".join(parts)}</section>'
        for heading, parts in there.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<nav aria-label="sections">{links}</nav>{body}</main></body></html>'
    )


def _id(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def figure(label: str, svg: str, kind: str = "curve") -> str:
    """A drawing with its caption, that scrolls sideways where the page is narrow."""
    text = escape(label)
    box = f'<div class="wide {kind}" tabindex="0" role="img" aria-label="{text}">{svg}</div>'
    return f"<figure>{box}<figcaption>{text}</figcaption></figure>"


def folded(summary: str, part: str) -> str:
    """A part that is there for those who open it."""
    return f"<details><summary>{escape(summary)}</summary>{part}</details>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with its caption, without empty columns, that scrolls sideways where the page is narrow."""
    lines = [list(row) for row in rows]
    told = [at for at in range(len(head)) if not lines or any(line[at] != "" for line in lines)]
    head, lines = [head[at] for at in told], [[line[at] for at in told] for line in lines]
    kinds = [' class="number"' if _are_numbers([line[at] for line in lines]) else "" for at in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(word)}</th>' for word, kind in zip(head, kinds, strict=True))
    body = "".join(_row(line) for line in lines) or f'<tr><td colspan="{len(head)}">nothing recorded</td></tr>'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _are_numbers(cells: Sequence[Any]) -> bool:
    return any(_is_number(cell) for cell in cells) and all(_is_number(cell) or cell == "" for cell in cells)


def _is_number(cell: Any) -> bool:
    """Whether it is a number, or written like one in short: ``50k``, ``3.1%``."""
    if isinstance(cell, str):
        return _SHORT_NUMBER.fullmatch(cell) is not None
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _row(row: Sequence[Any]) -> str:
    first, *others = row
    return f'<tr><th scope="row">{_cell(first)}</th>' + "".join(map(_data_cell, others)) + "</tr>"


def _data_cell(cell: Any) -> str:
    kind = ' class="number"' if _is_number(cell) else ""
    return f"<td{kind}>{_cell(cell)}</td>"


def _cell(cell: Any) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool) and abs(cell) < 10**15:
        return f"{cell:,}"
    text = f"{cell:.4g}" if isinstance(cell, float) else printable(str(cell))
    return escape(text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…")

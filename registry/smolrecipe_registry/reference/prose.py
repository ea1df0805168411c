"""Docstrings as Markdown: double backticks, examples behind ``::`` and the sections that this project writes."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
_TITLES = {"Args": "Arguments", "Returns": "Returns", "Raises": "Errors", "Yields": "Yields"}


def docstring(thing: Any) -> str:
    """The docstring of a class, function or module, without indentation; empty where it has none of its own."""
    if isinstance(thing, type) and "__doc__" not in vars(thing):
        return ""
    return inspect.getdoc(thing) or ""


def first_line(thing: Any) -> str:
    """The first line of a docstring as Markdown."""
    return inline(docstring(thing).partition("\n")[0])


def inline(text: str) -> str:
    """Double backticks as Markdown's; code that is broken over two lines is joined."""
    return re.sub(r"``(.+?)``", lambda code: f"`{' '.join(code[1].split())}`", text, flags=re.DOTALL)


class _Bare:
    """An annotation whose text is shown without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def call(function: Any, *, bound: bool = False) -> str:
    """A function's name and signature on one line, without the argument that a method is bound to."""
    found = inspect.signature(function)

    def bare(annotation: Any) -> Any:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    arguments = [
        parameter.replace(annotation=bare(parameter.annotation))
        for parameter in list(found.parameters.values())[1 if bound else 0 :]
    ]
    written = found.replace(parameters=arguments, return_annotation=bare(found.return_annotation))
    return f"{function.__name__}{written}"


def cell(text: str) -> str:
    """Text that stands in one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell(item) for item in line) + " |" for line in lines)


def markdown(text: str) -> str:
    """A docstring as Markdown.

    A paragraph that ends in ``::`` is followed by code; ``Args:``, ``Returns:`` and ``Raises:`` become lists.
    """
    blocks: list[str] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if section := _SECTION.match(line):
            blocks.append(_section(section[1], _take_indented(lines)))
        elif line.strip():
            paragraph = [line]
            while not paragraph[-1].endswith("::") and lines and lines[0].strip() and not _SECTION.match(lines[0]):
                paragraph.append(lines.pop(0))
            shows_code = paragraph[-1].endswith("::")
            blocks.append(inline("\n".join(paragraph)).removesuffix(":" if shows_code else ""))
            if shows_code:
                blocks.append(f"```python\n{_take_indented(lines)}\n```")
    return "\n\n".join(block for block in blocks if block)


def _take_indented(lines: list[str]) -> str:
    """Take the lines that are indented, or empty, off the front."""
    taken = []
    while lines and (not lines[0].strip() or lines[0].startswith(" ")):
        taken.append(lines.pop(0))
    return textwrap.dedent("\n".join(taken)).strip("\n")


def _section(name: str, body: str) -> str:
    entries = re.split(r"\n(?=\S)", body)
    if name in ("Args", "Raises"):
        items = []
        for entry in entries:
            term, _, meaning = " ".join(entry.split()).partition(": ")
            items.append(f"- `{term}`: {inline(meaning)}" if meaning else f"- {inline(term)}")
        return f"{_TITLES[name]}:\n\n" + "\n".join(items)
    return f"{_TITLES[name]}: {inline(' '.join(body.split()))}"

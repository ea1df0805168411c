"""What is no YAML, said to people who do not know its grammar."""

from __future__ import annotations

import re
from typing import Any

import yaml

from smolrecipe.errors import Place, Problem
from smolrecipe.recipe.wording import character_name

_TAB = "a tab: YAML is indented with spaces only"
_DIRECTIVE = "a line that begins with '%' is a directive, which no recipe has: take it out"
_SENTENCES = {
    "mapping values are not allowed in this context": "this ':' comes too late for a key: where it is part of a text, "
    "put the text in quotes; otherwise the line above ends too early, or this one is indented too far",
    "did not find expected key": "this is indented as nothing above it is: keys of one mapping begin in one column",
    "did not find expected '-' indicator": "the items of a list begin with '-', all in one column, and this is none",
    "did not find expected node content": "a value is missing before this",
    "did not find expected <document start>": "the recipe ended with the '...' above: take that out",
    "did not find expected comment or line break": "behind '|' and '>' the text begins on the next line",
    "exceeded maximum nesting depth": "nested deeper than any recipe is",
    "found a tab character that violates indentation": _TAB,
    "found a tab character where an indentation space is expected": _TAB,
    "found incompatible YAML document": _DIRECTIVE,
    "found unknown directive name": _DIRECTIVE,
    "found unknown escape character": "a '\\' in double quotes needs a letter that it goes with: write '\\\\', or take "
    "single quotes",
}
"""By what libyaml says, where that alone tells what is wrong."""

_OPEN = {"did not find expected ',' or ']'": "[", "did not find expected ',' or '}'": "{"}
_ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000]")


def syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    """The problem that a text of a recipe has where YAML's grammar does not allow it."""
    said, mark, begun = error.problem or error.context or "", error.problem_mark, error.context_mark
    lines = text.split("\n")
    character = lines[mark.line][mark.column : mark.column + 1] if mark and mark.line < len(lines) else ""
    if said in _OPEN and begun:
        what = f"this comes before the '{_OPEN[said]}' of line {begun.line + 1} is closed, or a ',' is missing"
    elif said == "found unexpected end of stream" and begun:
        what, mark = "this quote is never closed", begun
    elif said == "could not find expected ':'" and begun:
        what, mark = "a key with its value belongs here, and there is no ': ' in the line", begun
    elif said == "found character that cannot start any token":
        what = _TAB if character == "\t" else f"no text begins with '{character}', unless it is in quotes"
    else:
        what = _SENTENCES.get(said, said or "it cannot be read")
    return Problem(f"not valid YAML: {what}{_odd_space(lines, mark)}", _place(mark or begun, file))


def _odd_space(lines: list[str], mark: Any) -> str:
    """What looks like a space and is none, in the line of the mark or the one before."""
    for line in (mark.line, mark.line - 1) if mark else ():
        odd = _ODD_SPACE.search(lines[line]) if 0 <= line < len(lines) else None
        if odd:
            return f" (line {line + 1} holds {character_name(odd.group())}, which is no space to YAML)"
    return ""


def _place(mark: Any, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)

"""How problems of a recipe are said: short, on one line, and with nothing in them that is not seen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from attrs import evolve

from smolrecipe.errors import Problem, RecipeError

MOST_PROBLEMS = 100
"""That are told at once. Who makes more has made one again and again, or is no person."""

_LONGEST_WORD = 120
_LONGEST_MESSAGE = 500
_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def refusal(problems: Iterable[Problem]) -> RecipeError:
    """The error that tells the problems, each once, the first hundred of them."""
    found = list(dict.fromkeys(map(_readable, problems)))
    if len(found) > MOST_PROBLEMS:
        rest = Problem(f"there are more problems; these were the first {MOST_PROBLEMS}", found[MOST_PROBLEMS].place)
        found[MOST_PROBLEMS:] = [rest]
    return RecipeError(found)


def readable(text: str) -> str:
    """A sentence as it may be shown: what is invisible is spelled out, what is very long is cut in its middle."""
    shown = _WORD.sub(lambda word: cut(word.group(), _LONGEST_WORD), spelled_out(text))
    return cut(shown, _LONGEST_MESSAGE)


def spelled_out(text: str) -> str:
    """The text with an escape such as ``\\u200b`` for each character that is not seen, or moves others."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def cut(text: str, longest: int) -> str:
    """The text, of one that is too long its beginning and its end."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def character_name(character: str) -> str:
    """What a character is called: ``U+0455 CYRILLIC SMALL LETTER DZE``."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'a control character')}"


def _readable(problem: Problem) -> Problem:
    message = readable(problem.message)
    return problem if message == problem.message else evolve(problem, message=message)

"""The ``length`` filter."""

from __future__ import annotations

from collections.abc import Callable

from smolrecipe import Candidate
from smolrecipe_filters.answers import judged, part_of
from smolrecipe_filters.options import LengthOptions


def open_length(options: LengthOptions) -> Callable[[Candidate], str]:
    """A judge of every answer by itself; one that was cut off is called so, whatever its length."""

    def judge(candidate: Candidate) -> str:
        for called, answer, end in judged(candidate, options.of, "length"):
            if options.whole and end == "length":
                return f"{called} was cut off"
            text = part_of(answer, options.part)
            words, characters = len(text.split()), len(text)
            if words < (options.at_least_words or 0) or characters < (options.at_least_characters or 0):
                return f"{called} is too short"
            if _more(words, options.at_most_words) or _more(characters, options.at_most_characters):
                return f"{called} is too long"
        return ""

    return judge


def _more(count: int, most: int | None) -> bool:
    return most is not None and count > most

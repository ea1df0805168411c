"""The filters ``right_answer`` and ``different_answers``: answers compared with what is right, and with each other."""

from __future__ import annotations

from collections.abc import Callable

from smolrecipe import Candidate, StageError
from smolrecipe_filters.answers import after_reasoning, judged, part_of
from smolrecipe_filters.options import DifferentAnswersOptions, RightAnswerOptions

_BEFORE = " \t\n\"'`*_([{“”‘’«»„¿¡"  # noqa: RUF001
_BEHIND = " \t\n\"'`*_)]}“”‘’«».,;:!?…。，！？"  # noqa: RUF001
"""Around an answer, what is no part of it. A sign or a point before a number is, and a percent sign behind one."""


def open_right_answer(options: RightAnswerOptions) -> Callable[[Candidate], str]:
    """A judge of what follows an answer's reasoning, which must be what is right, and nothing besides."""

    def normal(text: str) -> str:
        text = text.strip()
        if options.ignore_punctuation:
            # An answer that is punctuation alone, a smiley or an operator, stays as it is.
            text = text.lstrip(_BEFORE).rstrip(_BEHIND) or text
        return text.casefold() if options.ignore_case else text

    def judge(candidate: Candidate) -> str:
        if candidate.known_answer is None:
            return "" if options.unknown == "keep" else "no known answer"
        right = normal(candidate.known_answer)
        for number, (called, answer, _) in enumerate(judged(candidate, "all", "right_answer")):
            is_right = normal(after_reasoning(answer)) == right
            if number == 0 and not is_right:
                return f"{called} is wrong"
            if number == 1 and is_right and options.rejected == "wrong":
                return f"{called} is right"
        return ""

    return judge


def open_different_answers(options: DifferentAnswersOptions) -> Callable[[Candidate], str]:
    """A judge of pairs: their answers must not be the same but for white space around them.

    It raises a ``StageError`` for a row that is no pair.
    """

    def judge(candidate: Candidate) -> str:
        if len(candidate.answers) < 2:
            raise StageError(
                "filter 'different_answers' compares the two answers of a pair, and rows here have one answer, because "
                "no pairs are made: leave it out"
            )
        chosen, rejected = (part_of(answer, options.compare) for answer in candidate.answers)
        return "both answers are the same" if chosen == rejected else ""

    return judge

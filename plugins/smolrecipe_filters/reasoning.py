"""The ``think_block`` filter."""

from __future__ import annotations

from collections.abc import Callable

from smolrecipe import Candidate
from smolrecipe_filters.answers import judged
from smolrecipe_filters.options import ThinkBlockOptions


def open_think_block(options: ThinkBlockOptions) -> Callable[[Candidate], str]:
    """A judge of the form of answers: a block at the very start, or none.

    Where none belongs, an empty block at the start is none: SmolLM3's chat template writes it to say so.
    """

    def judge(candidate: Candidate) -> str:
        required = options.required
        if required is None:
            said = candidate.arguments.get("enable_thinking")
            required = said if isinstance(said, bool) else None
        for called, answer, _ in judged(candidate, options.of, "think_block"):
            if problem := _problem(answer, required, options.begin, options.end):
                return f"{called} {problem}"
        return ""

    return judge


def _problem(answer: str, required: bool | None, begin: str, end: str) -> str:
    """What is wrong with an answer, or nothing."""
    opened = answer.startswith(begin)
    inside, closed, rest = answer.removeprefix(begin).partition(end) if opened else ("", "", answer)
    if required is False or (required is None and not opened):
        left = rest if closed and not inside.strip() else answer
        return "has reasoning where none belongs" if begin in left or end in left else ""
    if not opened:
        return "does not begin with reasoning"
    if not closed:
        return "has reasoning without an end"
    if begin in inside or begin in rest or end in rest:
        return "has more than one block of reasoning"
    if required and not inside.strip():
        return "has an empty block of reasoning"
    return "" if rest.strip() else "has nothing after its reasoning"

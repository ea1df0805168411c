"""Which answers of a row are judged, what they are called, and where their reasoning ends."""

from __future__ import annotations

from collections.abc import Iterator

from smolrecipe import Candidate, StageError

THINK, THINK_END = "<think>", "</think>"
"""What reasoning lies in, in every answer that a generator gives (see ``smolrecipe.generation``)."""


def judged(candidate: Candidate, of: str, name: str) -> Iterator[tuple[str, str, str]]:
    """What each answer that is to be judged is called, the answer, and how it ended.

    Raises:
        StageError: when the rejected answer is to be judged in a row that is no pair.
    """
    if len(candidate.answers) == 1:
        if of == "rejected":
            raise StageError(
                f"filter '{name}' judges the rejected answer (of: rejected), and rows here have one answer, because "
                "no pairs are made: write 'of: all', or leave it out"
            )
        yield "the answer", candidate.answers[0], candidate.ends[0]
        return
    for called, answer, end in zip(("chosen", "rejected"), candidate.answers, candidate.ends, strict=True):
        if of in ("all", called):
            yield f"the {called} answer", answer, end


def after_reasoning(answer: str) -> str:
    """What follows an answer's reasoning, stripped; nothing where the reasoning has no end."""
    _, tag, rest = answer.rpartition(THINK_END)
    if not tag and answer.lstrip().startswith(THINK):
        return ""
    return rest.strip()


def part_of(answer: str, part: str) -> str:
    """The ``whole`` answer or what is left ``without_reasoning``, stripped."""
    return after_reasoning(answer) if part == "without_reasoning" else answer.strip()

"""From answers to rows: what becomes of each prompt, and why those are dropped that are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, field

from smolrecipe import Answer, Candidate
from smolrecipe_synthesize.answer_files import REJECTED, TEACHER, AnswerIndex
from smolrecipe_synthesize.asking import conversation
from smolrecipe_synthesize.options import SynthesizeOptions
from smolrecipe_synthesize.prompts import NO_TURN, Prompt, read_prompts

PROMPTS = "prompts"
"""Under this name rows are counted that are no prompts."""
ALIKE = "the same answer as the teacher's"
_REFUSED = "refused"
_MOST_REASONS = 20
_OTHERS = "for other reasons"


@define
class Tally:
    """What one model has answered."""

    answers: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cut_off: int = 0
    """Answers that have the most tokens."""
    refused: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.answers += answer.end != "refused"
        self.refused += answer.end == "refused"
        self.tokens += answer.tokens
        self.prompt_tokens += answer.prompt_tokens
        self.cut_off += answer.end == "length"

    def told(self) -> dict[str, int]:
        """As the record has it."""
        return {
            "answers": self.answers,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "cut_off": self.cut_off,
            "refused": self.refused,
        }


@define
class Counts:
    """What became of all prompts."""

    prompts: int = 0
    kept: int = 0
    rows_by_source: Counter[str] = field(factory=Counter)
    dropped: dict[str, Counter[str]] = field(factory=dict)
    """By the name of the filter, or of the model that refused; then by reason."""
    answers: dict[str, Tally] = field(factory=dict)

    def drop(self, name: str, reason: str) -> None:
        """Count a row that is dropped."""
        reasons = self.dropped.setdefault(name, Counter())
        reasons[reason if reason in reasons or len(reasons) < _MOST_REASONS else _OTHERS] += 1


@define
class Selection:
    """Goes through all prompts once, in their order."""

    options: SynthesizeOptions
    indexes: Mapping[str, AnswerIndex]
    judges: Mapping[str, Callable[[Candidate], str]]
    counts: Counts = field(factory=Counts, init=False)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are kept; ``counts`` is complete when all have been taken."""
        self.counts.answers = {role: Tally() for role in self.indexes}
        for prompt in read_prompts(self.options):
            self.counts.prompts += 1
            row = self._row(prompt)
            if row is not None:
                self.counts.kept += 1
                self.counts.rows_by_source[prompt.source] += 1
                yield row

    def _row(self, prompt: Prompt) -> dict[str, Any] | None:
        if not prompt.turns:
            self.counts.drop(PROMPTS, NO_TURN)
            return None
        answers = {role: self._answers(prompt, role) for role in self.indexes}
        for role, given in answers.items():
            if given[-1].end == "refused":
                self.counts.drop(role, f"{_REFUSED}: {given[-1].text}")
                return None
        *earlier, last = (answer.text for answer in answers[TEACHER])
        candidate = Candidate(
            prompt=conversation(prompt, earlier),
            answers=tuple(given[-1].text for given in answers.values()),
            ends=tuple(given[-1].end for given in answers.values()),
            arguments=dict(prompt.arguments),
            known_answer=prompt.known_answer,
            earlier_answers=tuple(earlier),
        )
        for name, judge in self.judges.items():
            if why := judge(candidate):
                self.counts.drop(name, why)
                return None
        rejected = answers[REJECTED][-1].text if REJECTED in answers else None
        if rejected == last:
            self.counts.drop(REJECTED, ALIKE)
            return None
        return self._as_row(prompt, conversation(prompt, earlier), last, rejected)

    def _answers(self, prompt: Prompt, role: str) -> list[Answer]:
        found = []
        for turn in range(len(prompt.turns)):
            found.append(self.indexes[role].get(prompt.number, turn))
            self.counts.answers[role].add(found[-1])
            if found[-1].end == "refused":
                break
        return found

    def _as_row(
        self, prompt: Prompt, before: tuple[dict[str, str], ...], answer: str, rejected: str | None
    ) -> dict[str, Any]:
        options = self.options
        arguments = {"chat_template_kwargs": dict(prompt.arguments)} if prompt.arguments else {}
        origin = {
            "source": prompt.source,
            "row": prompt.row,
            TEACHER: options.teacher.component.model(options.teacher.options),
        }
        if rejected is None or options.rejected is None:
            return {"messages": [*before, _turn(answer)], **arguments, "origin": origin}
        origin[REJECTED] = options.rejected.component.model(options.rejected.options)
        pair = {"prompt": list(before), "chosen": [_turn(answer)], "rejected": [_turn(rejected)]}
        return {**pair, **arguments, "origin": origin}


def _turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}

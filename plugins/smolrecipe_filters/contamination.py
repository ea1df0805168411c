"""The ``decontaminate`` filter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from smolrecipe import Candidate, StageError
from smolrecipe_filters.options import DecontaminateOptions
from smolrecipe_filters.words import contents, runs, spelled

SHORTEST = 8
"""Words that a text must have to be looked for inside others: shorter ones are there by chance (arXiv:2005.14165,
appendix C)."""


def open_decontaminate(options: DecontaminateOptions) -> Callable[[Candidate], str]:
    """A judge of whether a row's prompt or answers say what the rows of an evaluation do.

    Words are compared in lower case and without punctuation, each message and each answer for itself; what the system
    says is left out on both sides. A row is dropped where it has a run of ``ngram`` words of an evaluation. Of a
    question that is shorter, all must be found: anywhere in a text from 8 words on, and below that as a whole message
    or answer. Short answers of an evaluation alone are not looked for: "4" is the answer to many questions. Runs of
    words that many rows have, as an instruction that evaluation and prompts are both given, count as any other.

    An evaluation takes about 100 bytes of memory for each of its words.

    Raises:
        StageError: when an evaluation cannot be read, or has no words.
    """
    index = _Index(options.ngram)
    # In the order of names: that of the recipe must not change by which of two evaluations a row is counted.
    for name in sorted(options.against):
        use, found = options.against[name], 0
        for row in use.component.read(use.options):
            found += index.add(name, row)
        if not found:
            raise StageError(
                f"filter 'decontaminate': the rows of '{name}' have no words to look for; they need 'messages', "
                "'prompt', 'text' or 'answer'"
            )

    def judge(candidate: Candidate) -> str:
        for text in (*contents(candidate.prompt), *candidate.answers):
            if reason := index.found_in(spelled(text)):
                return reason
        return ""

    return judge


class _Index:
    """What evaluations say, by the digest of its words, which is shorter than they are."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self.inside: dict[bytes, str] = {}
        self.whole: dict[bytes, str] = {}
        self.lengths: set[int] = set()

    def add(self, name: str, row: Mapping[str, Any]) -> int:
        """Take up a row of an evaluation; returns how many runs of words there are to look for in it."""
        count = 0
        for text, is_question in _texts(row):
            words = spelled(text)
            length = min(len(words), self.ngram)
            if not words or (length < self.ngram and not is_question):
                continue
            looked_for = self.inside if length >= min(SHORTEST, self.ngram) else self.whole
            if looked_for is self.inside:
                self.lengths.add(length)
            for run in runs(words, length):
                looked_for.setdefault(_digest(run), name)
                count += 1
        return count

    def found_in(self, words: Sequence[str]) -> str:
        """Why a text of these words is dropped, or nothing."""
        for length in sorted(self.lengths, reverse=True):
            for run in runs(words, length):
                if name := self.inside.get(_digest(run)):
                    if length == self.ngram:
                        return f"shares {self.ngram} words with '{name}'"
                    return f"has a whole question of '{name}'"
        for run in runs(words, len(words)):
            if name := self.whole.get(_digest(run)):
                return f"has a whole question of '{name}'"
        return ""


def _digest(run: bytes) -> bytes:
    return hashlib.blake2b(run, digest_size=8).digest()


def _texts(row: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The texts of a row of any shape, and of each whether it is a question rather than an answer."""
    for key in ("messages", "prompt", "chosen", "rejected", "text", "answer"):
        value = row.get(key)
        if isinstance(value, str):
            yield value, key in ("prompt", "text")
        elif isinstance(value, Iterable) and not isinstance(value, Mapping):
            messages = list(value)
            for text in contents(messages, role="user"):
                yield text, True
            for text in contents(messages, role="assistant"):
                yield text, False

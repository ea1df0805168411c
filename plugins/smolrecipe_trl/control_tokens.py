"""Control tokens that a message spells: ``<|im_end|>`` in what somebody wrote is text and ends no turn.

They are marked while a row is rendered, which tells them from those that the template writes, and tokenised as the
characters they are. ``<think>`` and other tags are not among them: those are what data is made of.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen
from transformers import PreTrainedTokenizerBase  # noqa: TID253
from transformers.utils.chat_template_utils import mark_control_tokens  # noqa: TID253

_TAG = re.compile(r"</?\w+>")
_NAME_IN_BARS = re.compile(r"<\|[^\s|<>]+\|>")
_NOWHERE = re.compile(r"(?!)")
_START = "\U000f0000"
_MARKS = re.compile(f"[{_START}\U000f0001]")
"""The characters, of private use, that transformers puts around a control token; it drops them from what it marks."""

Span = tuple[int, int]


@frozen
class Rendered:
    """A conversation as text, with two kinds of character spans in it."""

    text: str
    spans: Sequence[Span]
    """What lies between the template's generation markers."""
    spelled: Sequence[Span] = ()
    """Control tokens that a message spells."""

    @property
    def characters(self) -> int:
        """How long it is."""
        return len(self.text)

    def pieces(self) -> Iterator[tuple[Rendered, bool]]:
        """The text cut around what is spelled: each piece with its own spans, and whether it is spelled."""
        at = 0
        for start, end in (*self.spelled, (len(self.text), len(self.text))):
            for first, last, is_spelled in ((at, start, False), (start, end, True)):
                if first < last or (not self.text and not is_spelled):
                    inside = [(max(begin, first) - first, min(stop, last) - first) for begin, stop in self.spans]
                    yield Rendered(self.text[first:last], [span for span in inside if span[0] < span[1]]), is_spelled
            at = end


class ControlTokens:
    """The tokens of a tokenizer that are not for messages to write."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        named = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
        tokens = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if _NAME_IN_BARS.fullmatch(token.content) or (token.special and not _TAG.fullmatch(token.content))
        }
        tokens = {token for token in tokens | named if token}
        self._pattern = _any_of(tokens)
        self._unspellable = _any_of(
            token for token in tokens if tokenizer.convert_tokens_to_ids(token) in as_text(tokenizer, token)
        )

    def spelled_in(self, value: Any) -> bool:
        """Whether a text, or any text in a mapping or list, spells one."""
        return _found(self._pattern, value) is not None

    def unspellable_in(self, value: Any) -> str | None:
        """The first that is spelled, but that the tokenizer has no other tokens for."""
        return _found(self._unspellable, value)

    def marks_in(self, value: Any) -> str | None:
        """A character in it that would be taken for a mark."""
        return _found(_MARKS, value)

    def marked(self, value: Any) -> Any:
        """The same with a mark before and after each that is spelled; it must have no marks."""
        return mark_control_tokens(value, self._pattern)

    def unmarked(self, text: str, spans: Iterable[Span]) -> Rendered:
        """What was rendered of marked messages, without the marks; spans are those in the text with marks."""
        marks = [match.start() for match in _MARKS.finditer(text)]
        spelled = [
            (start - number, end - number - 1)
            for number, (start, end) in enumerate(pairwise(marks))
            if text[start] == _START and text[end] != _START and self._pattern.fullmatch(text, start + 1, end)
        ]
        moved = [(start - bisect_left(marks, start), end - bisect_left(marks, end)) for start, end in spans]
        return Rendered(_MARKS.sub("", text), moved, spelled)


def as_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text in which no control token is looked for."""
    ids: list[int] = tokenizer._encode_without_added_tokens(text)
    return ids


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else _NOWHERE


def _found(pattern: re.Pattern[str], value: Any) -> str | None:
    if isinstance(value, str):
        match = pattern.search(value)
        return None if match is None else match[0]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((found for part in parts if (found := _found(pattern, part)) is not None), None)

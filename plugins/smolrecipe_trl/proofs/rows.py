"""Sampled rows once more, from their source: rendered by ``transformers``, told apart by the turns in their tokens.

Nothing here uses the template's generation markers, character offsets or the code that labels rows: a turn is what
stands in the token stream between one ``<|im_start|>`` and the next, and its role is what it says after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from attrs import Factory, define, frozen
from transformers import PreTrainedTokenizerBase  # noqa: TID253
from transformers.utils.chat_template_utils import encode_marked_chat  # noqa: TID253

from smolrecipe import Proof, Source, StageContext, Use
from smolrecipe_trl.control_tokens import ControlTokens
from smolrecipe_trl.conversations import Message
from smolrecipe_trl.row_sample import SAMPLE_FILE, read_sample

START, END = "<|im_start|>", "<|im_end|>"


class NotTurnsError(ValueError):
    """A row that is not turns between ``<|im_start|>`` and ``<|im_end|>``. The message says why."""


@frozen
class Turn:
    """The tokens from ``start`` up to ``stop`` are those of a turn, with its header and its end."""

    role: str
    start: int
    stop: int


@frozen
class Half:
    """A conversation as it should be trained: its tokens, and which of them are learned (or scored)."""

    ids: Sequence[int]
    turns: Sequence[Turn]
    learned: Sequence[bool]

    def cut(self, length: int) -> Half:
        """The first ``length`` tokens."""
        return Half(self.ids[:length], self.turns, self.learned[:length])

    def role(self, place: int) -> str:
        """The role of the turn that a token lies in."""
        return next((turn.role for turn in self.turns if turn.start <= place < turn.stop), "nobody")


Expected = Mapping[str, Half]
"""A row by name: one conversation, or the two of a pair."""

Published = Mapping[str, tuple[Sequence[int], Sequence[bool | None]]]
"""The same as published: token ids and whether each is learned, ``None`` for one that stands for another."""


class TurnReader:
    """Renders conversations by the published chat template and finds the turns in their tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._control_tokens = ControlTokens(tokenizer)
        self._start, self._end = (tokenizer.convert_tokens_to_ids(mark) for mark in (START, END))
        self._texts: dict[tuple[int, ...], str] = {}

    def render(self, messages: Sequence[Message], arguments: Mapping[str, Any], **how: bool) -> list[int]:
        """The tokens of a conversation. Control tokens that a message spells are text, as ``transformers`` has it where
        it is told to sanitize them."""
        given: Any = ([dict(message) for message in messages], dict(arguments))
        if self._control_tokens.spelled_in(given):
            messages, arguments = self._control_tokens.marked(given)
            marked = self._tokenizer.apply_chat_template(messages, tokenize=False, **arguments, **how)
            return list(encode_marked_chat(self._tokenizer, marked))
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, **arguments, **how)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def turns(self, ids: Sequence[int], messages: Sequence[Message]) -> list[Turn]:
        """The turns that the tokens are made of.

        Raises:
            NotTurnsError: when they are not turns.
        """
        starts = [place for place, token in enumerate(ids) if token == self._start]
        if not starts or starts[0] != 0:
            raise NotTurnsError(f"it does not start with {START}")
        turns = []
        for begin, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            if list(ids[begin:stop]).count(self._end) != 1:
                raise NotTurnsError(f"a turn does not end in one {END}")
            turns.append(Turn(self._role(ids[begin + 1 : stop]), begin, stop))
        answers = sum(message["role"] == "assistant" for message in messages)
        if sum(turn.role == "assistant" for turn in turns) != answers:
            raise NotTurnsError(f"it has another number of assistant turns than the {answers} of its messages")
        return turns

    def _role(self, turn: Sequence[int]) -> str:
        """What the turn says before its first line ends."""
        for length in range(1, len(turn) + 1):
            header = tuple(turn[:length])
            text = self._texts.get(header)
            if text is None:
                text = self._texts[header] = self._tokenizer.decode(header)
            if "\n" in text:
                return text.partition("\n")[0]
        raise NotTurnsError("a turn has no line with its role")

    def tokens_within(self, ids: Sequence[int], prompt: Sequence[int]) -> int:
        """How many of the tokens the prompt takes; a token that also holds the start of what follows counts."""
        same = 0
        while same < min(len(ids), len(prompt)) and ids[same] == prompt[same]:
            same += 1
        text = self._tokenizer.decode(prompt)
        while same < len(ids) and len(self._tokenizer.decode(ids[:same])) < len(text):
            same += 1
        return same


def learned_turns(turns: Sequence[Turn], start: int = 0) -> list[bool]:
    """Whether each token lies in a turn of the assistant and not before the token ``start``."""
    return [turn.role == "assistant" and place >= start for turn in turns for place in range(turn.start, turn.stop)]


def rows_again(use: Use[Source], numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """The rows of a source that have these numbers, read from it once more; none beyond the last of them is read."""
    wanted = set(numbers)
    rows = enumerate(use.component.read(use.options))
    yield from ((number, row) for number, row in islice(rows, max(wanted, default=-1) + 1) if number in wanted)


@define
class _Seen:
    rows: int = 0
    unclear: int = 0
    tokens: int = 0
    other_tokens: int = 0
    other_labels: int = 0
    turns: int = 0
    open_turns: int = 0
    unlike: str = ""
    mislabelled: str = ""
    never_closed: str = ""
    no_turns: str = ""
    unreadable: list[str] = Factory(list)

    @property
    def told(self) -> str:
        """What the rows that were compared are called."""
        aside = f" ({self.unclear} are not told apart by turns)" if self.unclear else ""
        return f"tokens of {self.rows:,} rows{aside}"


def verify_rows(
    context: StageContext,
    sources: Mapping[str, Use[Source]],
    *,
    expect: Callable[[str, Any], Expected | None],
    published: Callable[[Mapping[str, Any]], Published],
    end: int,
    claim: str,
    built_in: bool,
) -> Iterator[Proof]:
    """Compare the rows that were published with what their sources make of them now.

    Args:
        sources: the label of each source in the sample -> the source.
        expect: what a row of the source with that label should have become, ``None`` if nothing of it is learned.
        published: reads a row of the sample.
        end: the token that ends a turn.
        claim: what of the labels is claimed.
        built_in: whether the template is one of the plugin's own, which write turns; another's need not.
    """
    if not (context.folder / SAMPLE_FILE).is_file():
        yield Proof(claim="rows can be compared", holds=False, note=f"the artifact has no {SAMPLE_FILE}: run it again")
        return
    sample = read_sample(context.folder)
    seen = _Seen()
    for label, use in sources.items():
        try:
            _compare_source(seen, label, use, sample.get(label, {}), expect, published, end)
        except Exception as error:  # whatever a source raises when its data are gone
            seen.unreadable.append(f"source '{label}': {type(error).__name__}: {error}")
    yield Proof(
        claim="rows can be read again",
        holds=not seen.unreadable,
        measured=f"{seen.rows + seen.unclear:,} rows of {len(sources)} sources",
        note="; ".join(seen.unreadable),
    )
    if seen.no_turns and built_in:
        yield Proof(claim="rows are turns", holds=False, measured=f"{seen.unclear} rows are not", note=seen.no_turns)
    if not seen.rows and not built_in:
        context.say(f"which tokens are learned was not checked: {seen.no_turns}")
        return
    yield Proof.same(
        "rows are tokenised as they read now", seen.other_tokens, seen.tokens, of=seen.told, note=seen.unlike
    )
    yield Proof.same(claim, seen.other_labels, seen.tokens, of=seen.told, note=seen.mislabelled)
    yield Proof.same(
        "turns that are learned end with eos", seen.open_turns, seen.turns, of="turns", note=seen.never_closed
    )


def _compare_source(
    seen: _Seen,
    label: str,
    use: Use[Source],
    sample: Mapping[int, Mapping[str, Any]],
    expect: Callable[[str, Any], Expected | None],
    published: Callable[[Mapping[str, Any]], Published],
    end: int,
) -> None:
    missing = set(sample)
    for number, row in rows_again(use, list(sample)):
        missing.discard(number)
        where = f"row {number} of source '{label}'"
        try:
            expected = expect(label, row)
        except NotTurnsError as reason:
            seen.unclear += 1
            seen.no_turns = seen.no_turns or f"{where}: {reason}"
            continue
        seen.rows += 1
        kept = all(value is not None for value in sample[number].values())
        if kept != (expected is not None):
            seen.tokens += 1
            seen.other_tokens += 1
            seen.unlike = seen.unlike or f"{where} was {'trained' if kept else 'left out'}"
        elif expected is not None:
            halves = published(sample[number])
            for name, half in expected.items():
                _compare_half(seen, f"{where} ({name})" if len(expected) > 1 else where, half, *halves[name], end=end)
    if missing or not sample:
        seen.unreadable.append(f"source '{label}' has no row {min(missing, default=0)} in it, or in the sample")


def _compare_half(
    seen: _Seen, where: str, half: Half, ids: Sequence[int], learned: Sequence[bool | None], *, end: int
) -> None:
    longest, shortest = max(len(ids), len(half.ids)), min(len(ids), len(half.ids))
    seen.tokens += longest
    other = [place for place in range(longest) if place >= shortest or ids[place] != half.ids[place]]
    if other:
        lengths = "" if longest == shortest else f" ({len(ids)} tokens, now {len(half.ids)})"
        seen.other_tokens += len(other)
        seen.unlike = seen.unlike or f"{where}, token {other[0]}{lengths}"
    wrong = [place for place in range(shortest) if learned[place] != half.learned[place]]
    if wrong:
        place = wrong[0]
        what = {True: "is learned", False: "is not learned", None: "is learned as another token"}[learned[place]]
        seen.other_labels += len(wrong)
        seen.mislabelled = seen.mislabelled or f"{where}, token {place}, in a turn of '{half.role(place)}', {what}"
    for turn in half.turns:  # those cut short at the row's end have no end
        if any(half.learned[turn.start : turn.stop]) and turn.role == "assistant" and turn.stop <= len(ids):
            seen.turns += 1
            if not any(ids[place] == end and learned[place] for place in range(turn.start, turn.stop)):
                seen.open_turns += 1
                seen.never_closed = seen.never_closed or f"{where}, tokens {turn.start} to {turn.stop - 1}"

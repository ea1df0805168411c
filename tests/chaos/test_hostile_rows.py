"""Rows that no source should yield: each is rendered as it reads, or refused in a sentence; none is lost unsaid.

What a row that is taken should be is told by transformers' own rendering of it and by the control tokens in its ids:
as many as the template writes, whatever messages spell.
"""

from __future__ import annotations

import faulthandler
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from row_mutants import mutants
from trl_rows import byte_tokenizer, make_rows, rows_of, sft_options

from smolrecipe import StageError
from smolrecipe_trl.chat_templates import template_text
from smolrecipe_trl.conversations import Refusals, conversation, pair
from smolrecipe_trl.packing import IGNORED, labelled
from smolrecipe_trl.preference import tokenised_pairs
from smolrecipe_trl.rendering import ChatRenderer
from smolrecipe_trl.row_counts import Counts
from smolrecipe_trl.row_files import _prepared

SHORT, LONG = 2_000, 10_000
LONGEST = 120.0
"""Seconds that one row may take; half a megabyte takes some where others use the machine too."""

OPEN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\\n' ~ m.content ~ "
    "(m.tool_calls | tojson if m.tool_calls else '') ~ '<|im_end|>\\n' }}{% endgeneration %}{% else %}"
    "{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A stranger's template: it takes every role, and calls of tools."""

TEMPLATES = {"compact": template_text("compact"), "smollm3": template_text("smollm3"), "open": OPEN}

_PLACES = re.compile(
    r"messages|message \d|prompt|chosen|rejected|chat_template_kwargs|tools|template argument|not a mapping|spells"
    r"|makes the chat template fail|is refused by the chat template"
)
_CONTROL = re.compile(r"<\|im_start\|>|<\|im_end\|>|<pad>|<eos>")


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A row that never ends ends the tests, with the place where it hangs."""
    faulthandler.dump_traceback_later(3600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Judge:
    """Puts rows through what a stage does with them, one template after the other."""

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer()
        self.seen: Counter[str] = Counter()
        self._control = {token: self.tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<eos>")}
        self._start, self._end = (self.tokenizer.convert_tokens_to_ids(f"<|im_{side}|>") for side in ("start", "end"))
        self._renderers = {name: ChatRenderer(self.tokenizer, text) for name, text in TEMPLATES.items()}

    def judge(self, number: int, kind: str, row: Any, longest: float = LONGEST) -> None:
        """Check what becomes of one row."""
        name = tuple(TEMPLATES)[number % len(TEMPLATES)]
        renderer = self._renderers[name]
        render: Callable[[Any], Any]
        if kind == "chat":
            prepare: Any = labelled(self.tokenizer, sft_options(max_length=1 << 30, packing="none"))
            render = lambda row: renderer.conversation(conversation(row))  # noqa: E731
        else:
            prepare = tokenised_pairs(self.tokenizer, 1 << 30)
            render = lambda row: renderer.pair(pair(row))  # noqa: E731
        refusals, counts, at = Refusals(), Counts(), time.monotonic()
        made = list(_prepared([row], "mutants", render, prepare, refusals, counts))
        assert time.monotonic() - at < longest
        if not made:
            self.seen["refused"] += 1
            self._refused(refusals)
        elif made[0][1] is None:
            self.seen["left out"] += 1
            assert counts.rows == 1 == counts.rows_without_loss + counts.rows_of_equal_answers
            self._left_out(kind, row, counts)
        else:
            self.seen["taken"] += 1
            assert counts.rows == 1 and not counts.rows_without_loss + counts.rows_of_equal_answers
            spelled = self._taken(name, kind, row, made[0][1])
            assert counts.rows_spelling_control_tokens == int(spelled)
            self.seen["spelling control tokens"] += int(spelled)

    def _refused(self, refusals: Refusals) -> None:
        with pytest.raises(StageError) as error:
            refusals.raise_if_any()
        _, sentence = str(error.value).split("\n")
        assert re.match(r"  row 0 of source 'mutants' \w+", sentence), sentence
        assert _PLACES.search(sentence), sentence
        assert sentence.isprintable() and len(sentence) < 400
        sentence.encode()

    def _left_out(self, kind: str, row: Any, counts: Counts) -> None:
        """Only what has nothing to learn, or nothing to prefer."""
        if kind == "chat":
            assert all(message["role"] != "assistant" for message in row["messages"])
        else:
            assert counts.rows_of_equal_answers
            assert [content(message) for message in row["chosen"]] == [content(message) for message in row["rejected"]]

    def _taken(self, name: str, kind: str, row: Any, columns: Mapping[str, Any]) -> bool:
        """The text, the turns and what is learned of them; returns whether control tokens are spelled."""
        arguments = told_arguments(row)
        if kind == "chat":
            messages = plain_messages(row["messages"])
            return self._matches(name, messages, arguments, columns["input_ids"], columns["labels"] != IGNORED, 0)
        prompt = row.get("prompt")
        spelled = False
        for side in ("chosen", "rejected"):
            own = plain_messages(row[side])
            whole = own if prompt is None or isinstance(prompt, str) else [*plain_messages(prompt), *own]
            answers = len(own) if whole is not own else answers_of(row, side)
            mask = columns[f"{side}_mask"] == 1
            spelled |= self._matches(name, whole, arguments, columns[f"{side}_ids"], mask, len(whole) - answers)
        return spelled

    def _matches(
        self,
        name: str,
        messages: list[dict[str, Any]],
        arguments: Mapping[str, Any],
        ids: numpy.ndarray,
        learned: numpy.ndarray,
        first: int,
    ) -> bool:
        expected = self.tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATES[name], tokenize=False, **arguments
        )
        assert self.tokenizer.decode(ids) == expected
        turns = len(messages) + int(name != "open" and messages[0]["role"] != "system")
        assert Counter(ids.tolist())[self._start] == turns == Counter(ids.tolist())[self._end]
        assert not any(number in ids for number in self._control.values())
        answers = [message for message in messages[first:] if message["role"] == "assistant"]
        assert int((ids[learned] == self._end).sum()) == len(answers)
        text = self.tokenizer.decode(ids[learned])
        assert all(message["content"].lstrip("\n") in text for message in answers)
        return len(_CONTROL.findall(expected)) > 2 * turns


def content(message: Any) -> Any:
    return {key: value for key, value in message.items() if value is not None}


def plain_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    return [content(message) for message in messages]


def told_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row says to the template."""

    def told(key: str) -> Any:
        value = row.get(key)
        return (json.loads(value) if isinstance(value, str) and value else value) or {}

    tools = {"tools": told("tools")} if told("tools") else {}
    return {key: value for key, value in {**tools, **told("chat_template_kwargs")}.items() if value is not None}


def answers_of(row: Mapping[str, Any], side: str) -> int:
    """How many messages of a whole conversation come after what both start with."""
    chosen, rejected = plain_messages(row["chosen"]), plain_messages(row["rejected"])
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    return len(row[side]) - same


def test_hostile_rows_are_rendered_right_or_refused() -> None:
    judge = Judge()
    for mutant in mutants(1, SHORT):
        judge.judge(*mutant)
    enough(judge.seen, SHORT)


@pytest.mark.chaos
def test_many_hostile_rows_are_rendered_right_or_refused() -> None:
    judge = Judge()
    for mutant in mutants(2, LONG):
        judge.judge(*mutant)
    enough(judge.seen, LONG)


@pytest.mark.chaos
@pytest.mark.parametrize("unit", ["a", "ab ", "é"])
def test_ten_megabytes_are_a_row_too(unit: str) -> None:
    judge = Judge()
    question = {"role": "user", "content": unit * (10_000_000 // len(unit.encode()))}
    judge.judge(0, "chat", {"messages": [question, {"role": "assistant", "content": "long"}]}, longest=900)
    assert judge.seen["taken"] == 1


def enough(seen: Counter[str], count: int) -> None:
    """That the mutants try every outcome."""
    print(dict(seen))
    assert seen["refused"] + seen["left out"] + seen["taken"] == count
    for outcome, share in (("refused", 0.2), ("taken", 0.1), ("left out", 0.01), ("spelling control tokens", 0.01)):
        assert seen[outcome] > share * count, seen


def test_a_source_of_hostile_rows_ends_in_a_sentence_and_its_good_rows_are_all_there(tmp_path: Path) -> None:
    rows = [row for _, kind, row in mutants(3, 400) if kind == "chat"]
    rows.append({"messages": [{"role": "user", "content": "who answers?"}]})
    tokenizer = byte_tokenizer()
    with pytest.raises(StageError) as error:
        make_rows(tmp_path, tokenizer, sft_options(data={"mutants": rows_of(*rows)}, max_length=1 << 20))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("at least 20 row(s) cannot be rendered") and len(lines) == 7
    renderer = ChatRenderer(tokenizer, TEMPLATES["compact"])
    good = []
    for row in rows:
        try:
            renderer.conversation(conversation(row))
            good.append(row)
        except ValueError:
            pass
    said: list[Any] = []
    made = make_rows(
        tmp_path, tokenizer, sft_options(data={"mutants": rows_of(*good)}, max_length=1 << 20, packing="none"), said
    )
    counts = made.counts["mutants"]
    assert counts.rows == len(good) == len(made.train) + counts.rows_without_loss
    assert counts.rows_without_loss > 0 and counts.rows_spelling_control_tokens > 0
    messages = " ".join(event["message"] for event in said)
    assert f"{counts.rows_spelling_control_tokens} of {len(good)} rows a message spells a control token" in messages
    assert f"{counts.rows_without_loss} of {len(good)} rows have no token to learn" in messages

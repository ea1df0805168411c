"""What can be proven of rows that models wrote: they are these prompts' answers, and what was dropped is accounted for.

The answers lie beside the rows, as the models gave them: they are read here line by line and not by the stage's index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from smolrecipe import Proof, StageContext
from smolrecipe.stage import ROWS_FOLDER
from smolrecipe_synthesize.answer_files import ANSWERS_FOLDER, REJECTED, TEACHER, AnswerIndex, roles
from smolrecipe_synthesize.options import SynthesizeOptions
from smolrecipe_synthesize.prompts import Prompt, read_prompts
from smolrecipe_synthesize.selecting import Selection

_MOST_ROWS = 20_000
"""Rows that are looked at one by one, the first ones: their answers are held in memory."""

Answers = dict[tuple[str, int, int], Mapping[str, Any]]
"""By role, number of the prompt and turn."""


def proofs(options: SynthesizeOptions, context: StageContext) -> Iterator[Proof]:
    """See ``smolrecipe_synthesize``."""
    summary = context.record()["summary"]
    rows = list(_published(context))
    dropped = sum(count for reasons in summary["dropped"].values() for count in reasons.values())
    prompts = {(prompt.source, prompt.row): prompt for prompt in read_prompts(options)}
    astray = abs(len(prompts) - len(rows) - dropped)
    yield Proof.same("rows kept and rows dropped are all prompts", astray, len(prompts), of="prompts")
    answers = _answers(options, context)
    looked_at = rows[:_MOST_ROWS]
    wrong = sum(not _is_answered(row, options, prompts, answers) for row in looked_at)
    yield Proof.same("each row is one of the prompts, with what the models answered", wrong, len(looked_at), of="rows")
    if options.mode == "pairs":
        alike = sum(row["chosen"] == row["rejected"] for row in rows)
        yield Proof.same("the two answers of a pair differ", alike, len(rows), of="pairs")
    yield _again(options, context, rows)


def _published(context: StageContext) -> Iterator[Mapping[str, Any]]:
    for file in sorted((context.folder / ROWS_FOLDER).glob("*.jsonl")):
        with file.open("rb") as lines:
            yield from map(json.loads, lines)


def _answers(options: SynthesizeOptions, context: StageContext) -> Answers:
    found: Answers = {}
    for role in roles(options):
        for file in sorted((context.folder / ANSWERS_FOLDER).glob(f"{role}-*.jsonl")):
            with file.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        told = json.loads(line)
                        found.setdefault((role, told["row"], told["turn"]), told)
    return found


def _is_answered(
    row: Mapping[str, Any],
    options: SynthesizeOptions,
    prompts: Mapping[tuple[str, int], Prompt],
    answers: Answers,
) -> bool:
    """Whether a row's turns of the user are the prompt's, and the turns asked for are the answers."""
    prompt = prompts.get((row["origin"]["source"], row["origin"]["row"]))
    if prompt is None:
        return False
    given = {role: [answers.get((role, prompt.number, turn), {}).get("text") for turn in range(len(prompt.turns))]
             for role in roles(options)}  # fmt: skip
    whole = [*row["prompt"], *row["chosen"]] if options.mode == "pairs" else list(row["messages"])
    asked = [message["content"] for message in whole if message["role"] == "user"]
    wanted = [message["content"] for message in prompt.messages if message["role"] == "user"]
    written = [message["content"] for message in whole if message["role"] == "assistant"][-len(prompt.turns) :]
    if asked != wanted or written != given[TEACHER] or row.get("chat_template_kwargs", {}) != prompt.arguments:
        return False
    return options.mode == "chat" or [row["rejected"][0]["content"]] == given[REJECTED]


def _again(options: SynthesizeOptions, context: StageContext, rows: list[Mapping[str, Any]]) -> Proof:
    """The filters, opened anew, keep the same rows in the same order."""
    indexes = {role: AnswerIndex(context.folder, role) for role in roles(options)}
    for index in indexes.values():
        index.look()
    judges = {name: use.component.open(use.options, context) for name, use in options.filters.items()}
    made = Selection(options, indexes, judges).rows()
    differing = sum(one != other for one, other in zip_longest(made, rows))
    return Proof.same("the filters, asked again, keep these rows", differing, len(rows), of="rows")

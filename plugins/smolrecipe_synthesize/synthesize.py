"""The ``synthesize`` stage: count the prompts, ask one model after the other, filter, write rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from attrs import define

from smolrecipe import Artifact, Candidate, Generator, StageContext, StageError, Use
from smolrecipe_synthesize.answer_files import ANSWERS_FOLDER, REJECTED, TEACHER, AnswerIndex, roles
from smolrecipe_synthesize.asking import Progress, ask
from smolrecipe_synthesize.options import SynthesizeOptions
from smolrecipe_synthesize.prompts import read_prompts
from smolrecipe_synthesize.row_files import write_rows
from smolrecipe_synthesize.selecting import PROMPTS, Selection

_LOOK_EVERY_SECONDS = 0.5


def synthesize(options: SynthesizeOptions, context: StageContext) -> Artifact:
    """Run the stage; see ``smolrecipe_synthesize``."""
    _try_filters(options, context)
    share = _share(options, context)
    (context.folder / ANSWERS_FOLDER).mkdir(exist_ok=True)
    indexes = {role: AnswerIndex(context.folder, role) for role in roles(options)}
    for index in indexes.values():
        index.look()
    done = sum(share.answered(index, options, context) for index in indexes.values())
    if done:
        context.say(f"{done:,} of {share.answers * len(indexes):,} answers are there already: going on with the others")
    progress = Progress(context, done, share.answers * len(indexes))
    for role, use in _models(options).items():
        ask(role, use, options, context, indexes[role], share.most_turns, progress)
    progress.finish()
    if context.rank:
        return Artifact()
    _wait_for_others(options, context, indexes, share)
    judges = {name: use.component.open(use.options, context) for name, use in options.filters.items()}
    selection = Selection(options, indexes, judges)
    write_rows(context.folder, selection.rows())
    return Artifact(summary=_summary(options, selection, context))


def _try_filters(options: SynthesizeOptions, context: StageContext) -> None:
    """Have each filter judge a row of the kind that there will be: what it cannot do is told before weeks of asking."""
    made = len(roles(options))
    sample = Candidate(
        prompt=({"role": "user", "content": "What is one plus two?"},),
        answers=("three", "four")[:made],
        ends=("stop",) * made,
    )
    for name, use in options.filters.items():
        try:
            use.component.open(use.options, context)(sample)
        except StageError as error:
            raise StageError(f"'filters.{name}' cannot judge what this stage makes: {error}") from error


@define
class _Share:
    """What there is to ask a model for: of all prompts, and of this process'."""

    answers: int = 0
    """Of this process, at most: a conversation ends with a turn that is refused."""
    all_answers: int = 0
    most_turns: int = 0

    def answered(self, index: AnswerIndex, options: SynthesizeOptions, context: StageContext) -> int:
        """How much of this process' is there already."""
        if not index.count():
            return 0
        return sum(
            index.has(prompt.number, turn)
            for prompt in read_prompts(options)
            if prompt.number % context.world_size == context.rank
            for turn in range(len(prompt.turns))
        )


def _share(options: SynthesizeOptions, context: StageContext) -> _Share:
    share = _Share()
    for prompt in read_prompts(options):
        share.most_turns = max(share.most_turns, len(prompt.turns))
        share.all_answers += len(prompt.turns)
        if prompt.number % context.world_size == context.rank:
            share.answers += len(prompt.turns)
    if not share.all_answers:
        raise StageError(f"the sources of 'prompts' ({', '.join(options.prompts)}) have no turn of a user to answer")
    return share


def _models(options: SynthesizeOptions) -> dict[str, Use[Generator]]:
    return {TEACHER: options.teacher, **({} if options.rejected is None else {REJECTED: options.rejected})}


def _wait_for_others(
    options: SynthesizeOptions, context: StageContext, indexes: Mapping[str, AnswerIndex], share: _Share
) -> None:
    """Wait until every process has answered its share: one that fails ends this one too."""
    if context.world_size > 1:
        context.say("this process' share is answered; waiting for those of the others")
    for index in indexes.values():
        index.look()
        while index.count() < share.all_answers:
            begin = time.monotonic()
            if _is_complete(options, index):
                break
            # Reading all prompts to ask may take long: not more than a tenth of the time is spent on it.
            time.sleep(max(_LOOK_EVERY_SECONDS, 10 * (time.monotonic() - begin)))
            index.look()


def _is_complete(options: SynthesizeOptions, index: AnswerIndex) -> bool:
    """Whether all is answered but what follows a turn that was refused."""
    for prompt in read_prompts(options):
        for turn in range(len(prompt.turns)):
            if not index.has(prompt.number, turn):
                return False
            if turn + 1 < len(prompt.turns) and index.get(prompt.number, turn).end == "refused":
                break
    return True


def _summary(options: SynthesizeOptions, selection: Selection, context: StageContext) -> dict[str, Any]:
    counts = selection.counts
    # In the order in which rows go through: what is no prompt, what a model refuses, filter by filter.
    names = [name for name in (PROMPTS, *roles(options), *options.filters) if name in counts.dropped]
    dropped = {name: dict(counts.dropped[name].most_common()) for name in names}
    for name, reasons in dropped.items():
        for reason, rows in reasons.items():
            context.say(f"{name}: {rows:,} of {counts.prompts:,} rows dropped ({reason})")
    if not counts.kept:
        told = "; ".join(
            f"{name}: {', '.join(f'{reason} ({rows:,})' for reason, rows in reasons.items())}"
            for name, reasons in dropped.items()
        )
        raise StageError(f"of {counts.prompts:,} prompts no row is left: {told}")
    models = {role: use.component.model(use.options) for role, use in _models(options).items()}
    return {
        "prompts": counts.prompts,
        "rows": counts.kept,
        "sources": {name: {"rows": rows} for name, rows in counts.rows_by_source.items()},
        "dropped": dropped,
        "answers": {role: {"model": models[role], **tally.told()} for role, tally in counts.answers.items()},
    }

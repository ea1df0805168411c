"""Asking one model for all that it has not answered yet, turn by turn, and keeping each answer as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from hashlib import blake2b

from attrs import define, field

from smolrecipe import Answer, Generator, Request, StageContext, StageError, Use
from smolrecipe_synthesize.answer_files import AnswerIndex, AnswerWriter, Kept, answer_file
from smolrecipe_synthesize.options import SynthesizeOptions
from smolrecipe_synthesize.prompts import Prompt, read_prompts

_MOST_TOLD = 1000
"""Times that progress is told of: after the same answers in every run, however fast it is."""
_SEEDS = 2**31


@define
class Progress:
    """What this process has answered, of what it is to."""

    context: StageContext
    done: int
    of: int
    _told: int = field(default=-1, init=False)
    _tokens: int = field(default=0, init=False)
    _since: float = field(factory=time.monotonic, init=False)

    def add(self, answers: int, tokens: int) -> None:
        """Count answers that are on the disk."""
        every = max(1, self.of // _MOST_TOLD)
        crossed = (self.done + answers) // every > self.done // every
        self.done += answers
        self._tokens += tokens
        if crossed:
            passed = max(time.monotonic() - self._since, 1e-9)
            self._tell(tokens_per_second=round(self._tokens / passed, 1))
            self._tokens, self._since = 0, time.monotonic()

    def finish(self) -> None:
        """Tell the end, where it was not told."""
        if self._told != self.done:
            self._tell()

    def _tell(self, **more: float) -> None:
        self._told = self.done
        self.context.progress(self.done, self.of, **more)
        self.context.saved(self.done)


def ask(
    role: str,
    use: Use[Generator],
    options: SynthesizeOptions,
    context: StageContext,
    index: AnswerIndex,
    most_turns: int,
    progress: Progress,
) -> None:
    """Have a model answer what is left of this process' share of the prompts.

    Raises:
        StageError: when the model cannot be asked any more; what it has answered is kept.
    """
    left = any(next(_requests(role, turn, options, context, index), None) is not None for turn in range(most_turns))
    if not left:
        return
    file = answer_file(context.folder, role, context.rank)
    with AnswerWriter(file) as writer, use.component.open(use.options, context) as answering:
        for turn in range(most_turns):
            together: list[Answer] = []
            asked: set[int] = set()
            requests = _noted(_requests(role, turn, options, context, index), asked.add)
            for answer in answering(requests):
                if answer.number not in asked:
                    raise StageError(
                        f"generator '{use.name}' answered {answer.number}, which it was not asked, or twice"
                    )
                asked.discard(answer.number)
                together.append(answer)
                if not answer.followed:
                    _keep(together, turn, writer, index)
                    progress.add(len(together), sum(each.tokens for each in together))
                    together = []
            if asked or together:
                raise StageError(
                    f"generator '{use.name}' ended without an answer to {len(asked) + len(together)} request(s)"
                )


def _keep(together: list[Answer], turn: int, writer: AnswerWriter, index: AnswerIndex) -> None:
    kept = [Kept(row=answer.number, turn=turn, answer=answer) for answer in together]
    for each, place in zip(kept, writer.write(kept), strict=True):
        index.add(each, writer.file, place)


def _noted(requests: Iterator[Request], note: Callable[[int], None]) -> Iterator[Request]:
    for request in requests:
        note(request.number)
        yield request


def _requests(
    role: str, turn: int, options: SynthesizeOptions, context: StageContext, index: AnswerIndex
) -> Iterator[Request]:
    """What is left to ask in a turn, of this process' share: every so manieth prompt."""
    for prompt in read_prompts(options):
        mine = prompt.number % context.world_size == context.rank
        if not mine or turn >= len(prompt.turns) or index.has(prompt.number, turn):
            continue
        earlier = index.earlier(prompt.number, turn)
        if earlier is None:
            continue
        yield Request(
            number=prompt.number,
            messages=conversation(prompt, earlier),
            arguments=dict(prompt.arguments),
            seed=seed_of(options.seed, role, prompt.number, turn),
        )


def conversation(prompt: Prompt, earlier: list[str]) -> tuple[dict[str, str], ...]:
    """The messages before the next answer, with the answers to earlier turns in place of those that were there."""
    if len(prompt.turns) == 1:
        return tuple({**message} for message in prompt.messages)
    messages: list[dict[str, str]] = []
    begin = 0
    for turn, end in enumerate(prompt.turns[: len(earlier) + 1]):
        between = prompt.messages[begin:end]
        messages += [{**message} for message in between if not (begin and message["role"] == "assistant")]
        if turn < len(earlier):
            messages.append({"role": "assistant", "content": earlier[turn]})
        begin = end
    return tuple(messages)


def seed_of(seed: int, role: str, row: int, turn: int) -> int:
    """An answer's own seed, from 0 to 2**31 - 1."""
    digest = blake2b(f"{seed}:{role}:{row}:{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS

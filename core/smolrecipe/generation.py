"""What a stage and a generator say to each other, and what a filter sees of the rows that are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from attrs import Factory, frozen

Message = Mapping[str, Any]
"""``{"role": str, "content": str}``."""


@frozen(kw_only=True)
class Request:
    """A conversation that a model is to go on with by one turn of the assistant."""

    number: int
    """Which one it is, from 0; its answer carries the same."""
    messages: tuple[Message, ...]
    """They end with a turn of the user."""
    arguments: Mapping[str, Any] = Factory(dict)
    """What the chat template is called with besides: ``{"enable_thinking": True}``."""
    seed: int = 0
    """Of what is drawn for this answer, from 0 to 2**31 - 1: the same whenever it is asked for, and beside whichever
    others."""


@frozen(kw_only=True)
class Answer:
    """What a model made of a request."""

    number: int
    """The request's."""
    text: str
    """The turn without what ends it; reasoning lies in ``<think>`` and ``</think>`` before the rest."""
    end: Literal["stop", "length", "refused"] = "stop"
    """stop: the model ended its turn, or wrote one of the texts that end it; length: it was cut off at the most tokens;
    refused: it was not asked, or its answer is not given out, and ``text`` says why."""
    prompt_tokens: int = 0
    tokens: int = 0
    """Of the answer, reasoning included."""
    followed: bool = False
    """Whether another one that was computed with it follows at once. They are kept together or not at all, so that a
    batch that an interruption cuts short is computed again as it was, to the last bit."""


class Answering(Protocol):
    """A model that is ready to answer."""

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request once, in any order, each as soon as it is known.

        Requests are taken as there is room for them, not all at once: there may be millions. What is not refused is
        what the model made: an engine that cannot go on raises.

        Raises:
            StageError: when the model cannot be asked any more, with what to do about it.
        """
        ...


@frozen(kw_only=True)
class Candidate:
    """A row that may become part of a data set: a prompt with its answers."""

    prompt: tuple[Message, ...]
    """The conversation before the last turn of the assistant."""
    answers: tuple[str, ...]
    """The teacher's; of a pair the rejected one after it."""
    ends: tuple[str, ...]
    """How each of them ended, see ``Answer.end``: never "refused"."""
    arguments: Mapping[str, Any] = Factory(dict)
    """Of the chat template."""
    known_answer: str | None = None
    """What is right, where the prompt's source says so."""
    earlier_answers: tuple[str, ...] = ()
    """The teacher's answers to the turns before, in a conversation of several."""

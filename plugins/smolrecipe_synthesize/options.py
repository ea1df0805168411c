"""The options of ``synthesize`` and ``synthesized``, typed without importing an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import Generator, RowFilter, Source, StageRef, Use, option

CHAT_ROWS = "chat-rows"
PREFERENCE_ROWS = "preference-rows"


@frozen(kw_only=True)
class SynthesizeOptions:
    """Which prompts, which models, what is kept."""

    prompts: Mapping[str, Use[Source]] = option(
        doc="sources of prompts, one after the other: chats, problems (whose answers filters may ask for), preference "
        "pairs, or texts, each a message of the user. Answers that they have are not read"
    )
    mode: Literal["chat", "pairs"] = option(
        default="chat",
        doc="chat: the teacher's answers, for sft. pairs: the teacher's answer preferred to that of 'rejected', for "
        "preference stages",
    )
    teacher: Use[Generator] = option(doc="the model whose answers are learned; in pairs the chosen ones")
    rejected: Use[Generator] | None = option(
        default=None, doc="mode pairs: the model whose answers to the same prompts are rejected"
    )
    thinking: Literal["as_prompts", "think", "no_think"] = option(
        default="as_prompts",
        doc="whether answers are to show their reasoning (the template's enable_thinking): as the prompts say, or all, "
        "or none; rows say the same to the model that learns them",
        source="SmolLM3's dual mode: /think, /no_think",
    )
    system: str | None = option(default=None, doc="a system message for conversations that begin with none")
    turns: Literal["last", "every"] = option(
        default="last",
        doc="of chats with several turns of the user: last: the conversation before the last one stays as it is. "
        "every: each turn is answered anew, on top of the answers before",
    )
    filters: Mapping[str, Use[RowFilter]] = option(
        factory=dict, doc="what rows must hold to be kept, one after the other; what each drops is counted by reason"
    )
    seed: int = option(default=0, at_least=0, doc="of what models draw; each answer has one of its own")
    processes: int = option(
        default=1,
        at_least=1,
        identity=False,
        doc="processes that share the prompts, with a model each, on an accelerator each where the models need one",
    )
    memory_gib: float | None = option(
        default=None, more_than=0, identity=False, doc="memory of an accelerator that the models were sized for"
    )


@frozen(kw_only=True)
class SynthesizedOptions:
    """Which stage's rows."""

    from_: StageRef = option(needs=(CHAT_ROWS, PREFERENCE_ROWS), doc="the stage that made the rows")
    yields: Literal["chat", "preference"] = option(
        default="chat", doc="the shape of the rows: chat of mode chat, preference of mode pairs"
    )
    rows: int | None = option(default=None, at_least=1, doc="read at most this many rows")
    license: str | None = option(
        default=None,
        identity=False,
        doc="the licence of the rows, for the model card: what the teachers' licences and the prompts' allow",
    )

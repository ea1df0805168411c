"""What the tests of rows share: a tokenizer of bytes, conversations, options for stages that are not run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from smolrecipe import (
    Loss,
    NoOptions,
    Optimizer,
    ParameterGroup,
    PreferenceLoss,
    Schedule,
    Source,
    StageContext,
    StageRef,
    Use,
)
from smolrecipe_trl import PreferenceOptions, SftOptions
from smolrecipe_trl.chat_templates import template_text
from smolrecipe_trl.conversations import conversation
from smolrecipe_trl.packing import COLUMNS, labelled, packed
from smolrecipe_trl.processes import joined
from smolrecipe_trl.rendering import ChatRenderer
from smolrecipe_trl.row_files import RowFiles, RowTools, row_files

SPECIAL = ("<pad>", "<eos>", "<|im_start|>", "<|im_end|>")
MODES = pytest.mark.parametrize("thinking", [True, False], ids=["think", "no_think"])
DUAL = pytest.mark.parametrize("name", ["smollm3", "compact"])
EMPTY_THINK = "<think>\n\n</think>\n"

MULTI_TURN = [
    {"role": "system", "content": "Answer like a pirate."},
    {"role": "user", "content": "Grüße! 2+2?"},
    {"role": "assistant", "content": "Arr, 4 ☠"},
    {"role": "tool", "content": "parrot: 4"},
    {"role": "user", "content": "sure?\n"},
    {"role": "assistant", "content": "Aye."},
]


def byte_tokenizer(special: Iterable[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with two merges across what templates write so that tokens do not end where turns do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["ĊĊ", "r,"]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet, *merged])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), ("r", ",")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def rows_of(*rows: Any, yields: str = "chat") -> Use[Source]:
    source = Source(name="rows", summary="", read=lambda options: rows, yields=lambda options: yields)
    return Use(source, NoOptions())


def chat(*contents: str, **arguments: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]
    return {"messages": messages, "chat_template_kwargs": arguments}


OPTIMIZER = Use(
    Optimizer(
        name="sgd",
        summary="",
        factory=lambda options: None,
        groups=lambda options: [ParameterGroup(pattern="", settings={"lr": 1.0})],
    ),
    NoOptions(),
)
CONSTANT = Use(Schedule(name="constant", summary="", factor=lambda options, step, steps: 1.0), NoOptions())
NO_LOSS = Loss(name="none", summary="", loss=lambda batch, options: PreferenceLoss(losses=batch.policy_chosen))


def sft_options(**changes: Any) -> SftOptions:
    settings: dict[str, Any] = {
        "from_": StageRef("base"),
        "data": {"chats": rows_of(chat("1", "2"))},
        "chat_template": "compact",
        "max_length": 64,
        "max_steps": 1,
        "global_batch": 1,
        "optimizer": OPTIMIZER,
        "schedule": CONSTANT,
        "loss_on": "assistant",
    }
    return SftOptions(**{**settings, **changes})


def preference_options(**changes: Any) -> PreferenceOptions:
    shared = {field.name: getattr(sft_options(), field.name) for field in attrs.fields(SftOptions)}
    known = {field.name for field in attrs.fields(PreferenceOptions)}
    settings = {name: value for name, value in shared.items() if name in known}
    settings |= {"data": {"pairs": rows_of(yields="preference")}, "loss": Use(NO_LOSS, NoOptions())}
    return PreferenceOptions(**{**settings, **changes})


def rendered(tokenizer: PreTrainedTokenizerFast, name: str, row: Mapping[str, Any]) -> str:
    return ChatRenderer(tokenizer, template_text(name)).conversation(conversation(row)).text


def make_rows(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, options: SftOptions, said: list[Any] | None = None
) -> RowFiles:
    def tools() -> RowTools:
        renderer = ChatRenderer(tokenizer, template_text(options.chat_template))
        return RowTools(
            render=lambda row: renderer.conversation(conversation(row)),
            prepare=labelled(tokenizer, options),
            prepare_held_out=labelled(tokenizer, options, packing="none"),
            unread=renderer.unread,
        )

    report = (lambda event: None) if said is None else said.append
    context = StageContext(recipe="r", stage="s", folder=tmp_path, report=report)
    folder = tmp_path / "rows"
    with joined(context, options.parallelism, 0) as processes:
        made = row_files(context, processes, folder, options.data, options.held_out, COLUMNS, tools, packed(options))
    made.report(context)
    return made

"""Chat templates, labels, rows and options of the TRL stages: everything up to the first training step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import numpy
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from smolrecipe import (
    Loss,
    NoOptions,
    Optimizer,
    ParameterGroup,
    PreferenceLoss,
    Schedule,
    Source,
    StageContext,
    StageError,
    StageRef,
    Use,
)
from smolrecipe_trl import Parallelism, PreferenceOptions, SftOptions, smolrecipe_stages
from smolrecipe_trl.chat_templates import BUILT_IN, marks_assistant, template_text
from smolrecipe_trl.checkpoints import is_complete, last_complete, mark_complete, remove_incomplete
from smolrecipe_trl.conversations import UnusableRowError, conversation, pair
from smolrecipe_trl.held_out import batches
from smolrecipe_trl.packing import COLUMNS, IGNORED, labelled, packed, packing_summary
from smolrecipe_trl.preference import tokenised_pairs
from smolrecipe_trl.rendering import ChatRenderer, check_tokenizer, tokenise
from smolrecipe_trl.row_files import RowFiles, RowTools, row_files
from smolrecipe_trl.sample_order import Steps, accumulation, plan_steps, row_order
from smolrecipe_trl.trainer_parts import parameter_groups

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


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


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


# Chat templates


def expected_turns(name: str, thinking: bool) -> list[tuple[str, bool]]:
    """The multi-turn conversation after its system turn, written out by hand: texts and whether each is learned."""
    fill = "" if thinking or name == "chatml" else EMPTY_THINK
    tool = "tool" if name == "chatml" else "user"
    return [
        ("<|im_start|>user\nGrüße! 2+2?<|im_end|>\n", False),
        (f"<|im_start|>assistant\n{fill}Arr, 4 ☠<|im_end|>\n", True),
        (f"<|im_start|>{tool}\nparrot: 4<|im_end|>\n<|im_start|>user\nsure?\n<|im_end|>\n", False),
        (f"<|im_start|>assistant\n{fill}Aye.<|im_end|>\n", True),
    ]


@MODES
@pytest.mark.parametrize("name", BUILT_IN)
def test_exactly_the_assistant_turns_are_learned(name: str, thinking: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    """Labels against the text written out by hand, and against the mask that transformers computes by itself."""
    row = {"messages": MULTI_TURN, "chat_template_kwargs": {"enable_thinking": thinking}}
    template = template_text(name)
    text = ChatRenderer(tokenizer, template).conversation(conversation(row))
    turns = expected_turns(name, thinking)
    body = "".join(turn for turn, _ in turns)
    assert text.text.endswith(body)
    prepare = labelled(tokenizer, sft_options(max_length=10_000))
    ((columns, counts),) = prepare([text])
    assert columns is not None
    learned = columns["labels"] != IGNORED
    assert tokenizer.decode(columns["input_ids"][learned]) == "".join(turn for turn, is_learned in turns if is_learned)
    assert (columns["labels"][learned] == columns["input_ids"][learned]).all()
    assert counts.learned_tokens == learned.sum() and counts.tokens == len(learned)
    oracle = tokenizer.apply_chat_template(
        MULTI_TURN,
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
        enable_thinking=thinking,
    )
    assert columns["input_ids"].tolist() == oracle["input_ids"]
    assert learned.astype(int).tolist() == oracle["assistant_masks"]


@MODES
@pytest.mark.parametrize("name", BUILT_IN)
def test_generation_starts_where_training_did(name: str, thinking: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    def render(messages: list[dict[str, str]], **how: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template_text(name), tokenize=False, enable_thinking=thinking, **how
            )
        )

    prompt = render(MULTI_TURN[:5], add_generation_prompt=True)
    assert render(MULTI_TURN) == prompt + "Aye.<|im_end|>\n"


@DUAL
@pytest.mark.parametrize(
    ("system", "argument", "thinks", "shown"),
    [
        (None, None, True, ""),
        (None, True, True, ""),
        (None, False, False, ""),
        ("Be kind. /no_think", True, False, "Be kind."),
        ("/think Be kind.", False, True, "Be kind."),
        ("/think Be /no_think kind.", None, False, "Be  kind."),
        ("/no_think", None, False, ""),
    ],
)
def test_the_mode_comes_from_the_first_system_message_then_from_the_argument(
    name: str, system: str | None, argument: bool | None, thinks: bool, shown: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages = [{"role": "user", "content": "hello /no_think /think"}, {"role": "assistant", "content": "hi"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    row = {"messages": messages, "chat_template_kwargs": {} if argument is None else {"enable_thinking": argument}}
    head, _, body = rendered(tokenizer, name, row).partition("<|im_end|>\n")
    assert head.startswith("<|im_start|>system\n") and shown in head
    assert ("/no_think" in head, "/think" in head) == (not thinks, thinks)
    fill = "" if thinks else EMPTY_THINK
    assert body == (
        "<|im_start|>user\nhello /no_think /think<|im_end|>\n"  # flags in a turn of the user are text
        f"<|im_start|>assistant\n{fill}hi<|im_end|>\n"
    )


def test_the_date_is_frozen_and_can_be_set(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    class AnotherDay(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 5, 17)

    before = {name: rendered(tokenizer, name, chat("1", "2")) for name in BUILT_IN}
    monkeypatch.setattr(chat_template_utils, "datetime", AnotherDay)
    assert {name: rendered(tokenizer, name, chat("1", "2")) for name in BUILT_IN} == before
    assert "Today Date: 08 July 2025\n" in before["smollm3"]
    assert "Today Date: 17 May 2031\n" in rendered(tokenizer, "smollm3", chat("1", "2", today_date="17 May 2031"))


def test_the_system_turn_of_smollm3_is_closed_with_and_without_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    tool = {"name": "add", "parameters": {"a": "int"}}
    plain = rendered(tokenizer, "smollm3", chat("1", "2"))
    with_tools = rendered(tokenizer, "smollm3", chat("1", "2", xml_tools=[tool], python_tools=["def f(): ..."]))
    for text in (plain, with_tools):
        turns = [turn for turn in text.split("<|im_start|>") if turn]
        assert [turn.partition("\n")[0] for turn in turns] == ["system", "user", "assistant"]
        assert all(turn.endswith("<|im_end|>\n") for turn in turns)
    assert json.dumps(tool) in with_tools and "def f(): ..." in with_tools and "Tools" not in plain
    row = {"messages": [{"role": "system", "content": "/system_override Only this."}, *MULTI_TURN[1:]]}
    assert rendered(tokenizer, "smollm3", row).startswith("<|im_start|>system\nOnly this.<|im_end|>\n")


def test_compact_keeps_the_system_turn_short(tokenizer: PreTrainedTokenizerFast) -> None:
    assert rendered(tokenizer, "compact", chat("1", "2")).startswith("<|im_start|>system\n/think<|im_end|>\n")


# What a template would drop


def refusal(tokenizer: PreTrainedTokenizerFast, row: Any, name: str = "smollm3") -> str:
    with pytest.raises(UnusableRowError) as error:
        ChatRenderer(tokenizer, template_text(name)).conversation(conversation(row))
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "is null, not a mapping"),
        ({"text": "plain"}, "has no 'messages' (it has text)"),
        ({"messages": []}, "has no message in 'messages'"),
        ({"messages": [None]}, "has NoneType as messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "has no content in messages[0] (role 'user')"),
        ({"messages": [{"role": "user"}]}, "has no content in messages[0]"),
        ({"messages": [{"content": "x"}]}, "has no role in messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "has list content"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]},
            "has 'tool_calls' in message 0 (role 'assistant'), which the chat template does not render",
        ),
        ({"messages": [{"role": "critic", "content": "x"}]}, "this template has no role 'critic'"),
        ({"messages": [*MULTI_TURN, MULTI_TURN[0]]}, "a system message can only come first"),
        ({"messages": MULTI_TURN, "chat_template_kwargs": {"custom_instructions": "other"}}, "only one of them"),
        ({"messages": MULTI_TURN, "chat_template_kwargs": "{no json"}, "is not JSON"),
    ],
)
def test_what_a_template_would_drop_is_refused(row: Any, reason: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert reason in refusal(tokenizer, row)


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        (
            "{% for m in messages %}{% if m.role != 'tool' %}[{{ m.role }}: {{ m.content }}]{% endif %}{% endfor %}",
            "has a turn of 'tool' (message 3)",
        ),
        ("{% for m in messages %}[{{ m.role }}: {{ m.content[:12] }}]{% endfor %}", "has content in message 0"),
    ],
)
def test_a_template_that_drops_a_turn_or_part_of_it_is_found_out(
    loop: str, reason: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UnusableRowError) as error:
        ChatRenderer(tokenizer, loop).conversation(conversation({"messages": MULTI_TURN}))
    assert reason in str(error.value)


def test_keys_that_arrow_fills_with_none_change_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    """Mixed arguments come back from Arrow with ``enable_thinking: None``, which a template takes for false."""
    rows = [chat("1", "2", enable_thinking=False), chat("1", "2", custom_instructions="Be kind."), chat("1", "2")]
    filled = Dataset.from_list(rows)[1]
    assert filled["chat_template_kwargs"] == {"enable_thinking": None, "custom_instructions": "Be kind."}
    text = rendered(tokenizer, "compact", filled)
    assert text == rendered(tokenizer, "compact", rows[1]) and text.startswith("<|im_start|>system\n/think\nBe kind.")
    as_json = {**rows[0], "chat_template_kwargs": json.dumps(rows[0]["chat_template_kwargs"])}
    assert rendered(tokenizer, "compact", as_json) == rendered(tokenizer, "compact", rows[0])


def test_a_tokenizer_that_spells_the_ends_of_turns_is_refused() -> None:
    with pytest.raises(StageError, match=r"spells <\|im_end\|>, <\|im_start\|> in several tokens"):
        check_tokenizer(byte_tokenizer(special=("<pad>", "<eos>")), template_text("compact"), "<|im_end|>")


# Rows in files


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
    made = row_files(context, tmp_path / "rows", options.data, options.held_out, COLUMNS, tools, packed(options))
    made.report(context)
    return made


def test_unusable_rows_are_reported_together(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    bad = {"messages": [{"role": "user", "content": None}]}
    data = {"good": rows_of(chat("1", "2")), "poor": rows_of(chat("1", "2"), bad, None, *[bad] * 5)}
    with pytest.raises(StageError) as error:
        make_rows(tmp_path, tokenizer, sft_options(data=data))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("7 row(s) cannot be rendered")
    assert lines[1] == "  row 1 of source 'poor' has no content in messages[0] (role 'user')"
    assert lines[2] == "  row 2 of source 'poor' is null, not a mapping"
    assert len(lines) == 7 and lines[-1] == "  and 2 more"
    assert not (tmp_path / "rows").exists()
    with pytest.raises(StageError, match=r"^at least 20 row"):
        make_rows(tmp_path, tokenizer, sft_options(data={"poor": rows_of(*[bad] * 50)}))


def test_truncation_and_rows_without_loss_are_counted_and_said(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt_alone = {"messages": [{"role": "user", "content": "no answer"}]}
    data = {"a": rows_of(chat("1", "2"), chat("1", "2" * 50), chat("1" * 90, "2"), prompt_alone)}
    said: list[Any] = []
    rows = make_rows(tmp_path, tokenizer, sft_options(data=data, max_length=80, packing="none"), said)
    lengths = [len(ids) for ids in rows.train["input_ids"]]
    assert len(lengths) == 2 and lengths[1] == 80
    counts = rows.counts["a"]
    assert (counts.rows, counts.truncated_rows, counts.rows_without_loss) == (4, 2, 2)
    whole = len(tokenizer(rendered(tokenizer, "compact", chat("1", "2" * 50)))["input_ids"])
    prompt = len(tokenizer(rendered(tokenizer, "compact", chat("1" * 90, "2")))["input_ids"])
    assert counts.truncated_tokens == whole + prompt - 160
    messages = [event["message"] for event in said]
    assert any("2 of 4 rows were longer than max_length" in message for message in messages)
    assert any("2 of 4 rows have no token to learn" in message for message in messages)
    assert rows.summary()["sources"]["a"]["truncated_tokens"] == counts.truncated_tokens


def test_a_source_without_any_token_to_learn_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = {"good": rows_of(chat("1", "2")), "long": rows_of(chat("1" * 99, "2"), chat("2" * 99, "3"))}
    with pytest.raises(StageError, match="source 'long': none of its 2 rows has a token to learn"):
        make_rows(tmp_path, tokenizer, sft_options(data=data))
    with pytest.raises(StageError, match=r"source 'held_out.h' yields no row"):
        make_rows(tmp_path, tokenizer, sft_options(held_out={"h": rows_of()}))


def test_arguments_that_the_template_does_not_read_are_said(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    said: list[Any] = []
    options = sft_options(chat_template="chatml", data={"a": rows_of(chat("1", "2", enable_thinking=True))})
    rows = make_rows(tmp_path, tokenizer, options, said)
    assert rows.unread == {"enable_thinking": 1}
    assert {"message": "the chat template does not read 'enable_thinking', which 1 rows give"} in said


def test_rows_that_were_made_are_not_made_again(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    first = make_rows(tmp_path, tokenizer, sft_options())
    again = make_rows(
        tmp_path, tokenizer, sft_options(data={"chats": rows_of(None)})
    )  # would be refused if it were read
    assert again.train.to_list() == first.train.to_list() and again.counts == first.counts


@pytest.mark.parametrize("packing", ["bfd", "bfd_split", "wrapped"])
def test_packing_conserves_tokens_and_keeps_labels_with_them(
    packing: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Also holds the names of the strategies against those TRL takes."""
    conversations = [chat(f"{number}?", "x" * (number % 30)) for number in range(60)]
    options = sft_options(data={"a": rows_of(*conversations)}, packing=packing, loss_on="all", max_length=64)
    rows = make_rows(tmp_path, tokenizer, options)
    texts = [rendered(tokenizer, "compact", row) for row in conversations]
    whole = [tokenizer(text)["input_ids"] for text in texts]
    assert max(map(len, whole)) > options.max_length  # something has to be cut or split
    kept = [ids[: options.max_length] for ids in whole] if packing == "bfd" else whole
    assert sorted(token for ids in rows.train["input_ids"] for token in ids) == sorted(
        token for ids in kept for token in ids
    )
    assert max(map(len, rows.train["input_ids"])) <= options.max_length
    firsts = 0
    for row in rows.train:
        ignored = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
        assert all(label in (token, IGNORED) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        assert set(ignored) <= {tokenizer.convert_tokens_to_ids("<|im_start|>")}
        firsts += len(ignored)
    assert firsts == (0 if packing == "wrapped" else len(conversations))
    summary = packing_summary(rows.train, options.max_length)
    assert summary["tokens_per_pass"] == sum(map(len, kept))
    assert summary["training_rows"] == len(rows.train)
    if packing == "bfd":
        assert summary["documents"] == len(conversations)
        assert summary["learned_tokens_per_pass"] == sum(map(len, kept)) - len(conversations)


def test_documents_without_loss_inside_packed_rows_are_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """``bfd_split`` can cut a conversation so that a piece of it lies wholly inside a long turn of the user."""
    options = sft_options(data={"a": rows_of(chat("1" * 200, "2"), chat("1", "2"))}, packing="bfd_split")
    rows = make_rows(tmp_path, tokenizer, options)
    summary = packing_summary(rows.train, options.max_length)
    pieces = [
        row["labels"][sum(row["seq_lengths"][:n]) :][:length]
        for row in rows.train
        for n, length in enumerate(row["seq_lengths"])
    ]
    assert summary["documents"] == len(pieces)
    assert (
        summary["documents_without_loss"] == sum(all(label == IGNORED for label in piece[1:]) for piece in pieces) > 0
    )


# Preference pairs


def pair_columns(tokenizer: PreTrainedTokenizerFast, row: Any, name: str = "compact", length: int = 10_000) -> Any:
    renderer = ChatRenderer(tokenizer, template_text(name))
    ((columns, counts),) = tokenised_pairs(tokenizer, length)([renderer.pair(pair(row))])
    return columns, counts


def scored(tokenizer: PreTrainedTokenizerFast, columns: Mapping[str, Any], side: str) -> str:
    return str(tokenizer.decode(columns[f"{side}_ids"][columns[f"{side}_mask"] == 1]))


PAIR = {
    "prompt": [{"role": "user", "content": "2+2?"}],
    "chosen": [{"role": "assistant", "content": "4"}],
    "rejected": [{"role": "assistant", "content": "five"}],
}


@MODES
@DUAL
def test_only_the_answer_is_scored_in_its_own_mode(
    name: str, thinking: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    columns, _ = pair_columns(tokenizer, {**PAIR, "chat_template_kwargs": {"enable_thinking": thinking}}, name)
    assert scored(tokenizer, columns, "chosen") == "4<|im_end|>\n"
    assert scored(tokenizer, columns, "rejected") == "five<|im_end|>\n"
    prompt = tokenizer.decode(columns["chosen_ids"][columns["chosen_mask"] == 0])
    assert prompt.endswith("assistant\n" if thinking else f"assistant\n{EMPTY_THINK}")
    assert prompt == tokenizer.decode(columns["rejected_ids"][columns["rejected_mask"] == 0])


def test_tool_results_inside_an_answer_are_not_scored(tokenizer: PreTrainedTokenizerFast) -> None:
    """TRL scores everything after the prompt."""
    answer = [
        {"role": "assistant", "content": "let me add"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "4!"},
    ]
    columns, _ = pair_columns(tokenizer, {**PAIR, "chosen": answer})
    assert scored(tokenizer, columns, "chosen") == (
        "let me add<|im_end|>\n<|im_start|>assistant\n4!<|im_end|>\n"  # a later turn is marked with its header
    )


def test_whole_conversations_are_split_where_they_part(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = {
        "prompt": "2+2?",
        "chosen": [*PAIR["prompt"], *PAIR["chosen"]],
        "rejected": [*PAIR["prompt"], *PAIR["rejected"]],
    }
    for row in (whole, {**whole, "prompt": None}):
        columns, _ = pair_columns(tokenizer, row)
        expected, _ = pair_columns(tokenizer, PAIR)
        assert all((columns[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": None}, "has no 'chosen'"),
        ({"chosen": [{"role": "user", "content": "4"}]}, "'chosen' starts with a message of 'user'"),
        ({"prompt": "another question"}, "that is no message which 'chosen' and 'rejected' share"),
        ({"prompt": None}, "has no prompt"),
        ({"rejected": [{"role": "assistant", "content": None}]}, "has no content in rejected[0]"),
    ],
)
def test_pairs_that_are_none_are_refused(
    changes: dict[str, Any], reason: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UnusableRowError) as error:
        pair_columns(tokenizer, {**PAIR, **changes})
    assert reason in str(error.value)


def test_pairs_are_cut_at_max_length_and_dropped_where_no_answer_is_left(tokenizer: PreTrainedTokenizerFast) -> None:
    whole, _ = pair_columns(tokenizer, PAIR)
    shorter = len(whole["rejected_ids"]) - 3
    columns, counts = pair_columns(tokenizer, PAIR, length=shorter)
    assert scored(tokenizer, columns, "rejected") == "fiv" if shorter else False
    assert counts.truncated_tokens == 3 + max(0, len(whole["chosen_ids"]) - shorter) and counts.truncated_rows == 1
    columns, counts = pair_columns(tokenizer, PAIR, length=10)
    assert columns is None and counts.rows_without_loss == 1


# Steps, order, groups, checkpoints


def test_steps_follow_from_epochs_and_batch() -> None:
    assert plan_steps(100, sft_options(max_steps=7, global_batch=8)) == Steps(7, 7)
    assert plan_steps(100, sft_options(max_steps=None, epochs=5.0, global_batch=8)) == Steps(63, 63)
    stopped = sft_options(max_steps=None, epochs=5.0, stop_after=4.0, global_batch=8)
    assert plan_steps(100, stopped) == Steps(50, 63)
    # 5 epochs of SmolLM3's SFT: 29,696 packed rows in steps of 128, ended after step 928 of 1160
    assert plan_steps(232 * 128, attrs.evolve(stopped, global_batch=128)) == Steps(928, 1160)


def test_every_pass_is_a_permutation_and_the_order_has_a_prefix_property() -> None:
    order = row_order(10, 35, seed=3)
    assert all(sorted(order[start : start + 10]) == list(range(10)) for start in (0, 10, 20))
    assert not numpy.array_equal(order[:10], order[10:20])
    assert numpy.array_equal(row_order(10, 12, seed=3), order[:12])
    assert not numpy.array_equal(row_order(10, 35, seed=4), order)


def test_processes_share_a_step_evenly_or_not_at_all() -> None:
    assert accumulation(sft_options(global_batch=8, micro_batch=2), 2) == 2
    with pytest.raises(StageError, match=r"8 rows .* cannot be shared evenly by 3 process"):
        accumulation(sft_options(global_batch=8), 3)


def test_parameters_go_to_the_first_group_that_matches() -> None:
    torch = pytest.importorskip("torch")
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    parameters = {name: torch.nn.Parameter(torch.zeros(1)) for name in names}
    groups = [
        ParameterGroup(pattern="embed_tokens|lm_head", settings={"lr": 1.0, "weight_decay": 0.0}),
        ParameterGroup(pattern="unused", settings={"lr": 3.0}),
        ParameterGroup(pattern="weight", settings={"lr": 1.0, "weight_decay": 0.1}),
    ]
    made = parameter_groups(parameters.items(), groups, "adamw")
    assert [group["weight_decay"] for group in made] == [0.0, 0.1]
    assert [id(parameter) for group in made for parameter in group["params"]] == list(map(id, parameters.values()))
    with pytest.raises(StageError, match=r"'adamw' has no parameter group for model\.layers.*, model\.norm\.weight"):
        parameter_groups(parameters.items(), groups[:1], "adamw")


def test_only_whole_checkpoints_are_gone_on_from(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"w" * step)
        if step != 20:  # killed before the mark
            mark_complete(folder)
    (tmp_path / "checkpoint-15" / "weights").write_bytes(b"w")  # cut short after it
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in remove_incomplete(tmp_path)) == ["checkpoint-15", "checkpoint-20"]
    assert is_complete(tmp_path / "checkpoint-5") and last_complete(tmp_path / "nowhere") is None


def test_batches_are_bounded_and_cover_all_rows() -> None:
    lengths = [5, 60, 7, 6, 200, 30]
    made = batches(lengths, most_tokens=64)
    assert sorted(row for batch in made for row in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64 for batch in made)
    assert made[0] == [0, 3, 2]


def test_tokens_of_multi_byte_characters_are_marked_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}.{% endfor %}"
    renderer = ChatRenderer(tokenizer, template)
    (tokens,) = tokenise(
        tokenizer, [renderer.conversation(conversation({"messages": [{"role": "user", "content": "é☠"}]}))]
    )
    assert tokens.marked.tolist() == [False] * 4 + [True] * 5 + [False]


# Options


def problems(options: SftOptions | PreferenceOptions) -> list[str]:
    name = "sft" if isinstance(options, SftOptions) else "preference"
    (kind,) = [kind for kind in smolrecipe_stages() if kind.name == name]
    return list(kind.check(options))


def test_good_options_have_no_problem(tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}")
    assert problems(sft_options()) == [] and problems(preference_options(keep=(0.5,))) == []
    assert problems(sft_options(chat_template=template, global_batch=8, micro_batch=4)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 1.0}, "give 'epochs' or 'max_steps', one of the two"),
        ({"max_steps": None}, "give 'epochs' or 'max_steps', one of the two"),
        ({"stop_after": 1.0}, "'stop_after' counts epochs"),
        ({"max_steps": None, "epochs": 1.0, "stop_after": 2.0}, "'stop_after' is 2 epochs, more than the 1"),
        ({"global_batch": 6, "micro_batch": 4}, "make it a multiple of 4"),
        ({"data": {}}, "'data' names no source"),
        ({"data": {"t": rows_of(yields="text")}}, "'data.t': source 'rows' yields text rows"),
        ({"held_out": {"p": rows_of(yields="preference")}}, "'held_out.p'"),
        ({"chat_template": Path("/nowhere/smolm3")}, "there is no file /nowhere/smolm3; the built-in"),
        ({"chat_template": Path(pytest.__file__)}, "has no {% generation %} markers"),
        ({"parallelism": Parallelism(sharding="fsdp2")}, "fsdp2 runs on cuda only"),
        ({"attention": "flex"}, "flex has no backward pass on cpu"),
        ({"attention": "flash"}, "flash has no cpu kernel"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(sft_options(**changes))), problems(sft_options(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": (0.5, 1.0)}, "'keep' holds 1: a fraction of the run lies between 0 and 1"),
        ({"keep": (0.5, 0.5)}, "'keep' names a checkpoint twice"),
        ({"data": {"c": rows_of()}}, "yields chat rows with these options, not preference rows"),
    ],
)
def test_wrong_preference_options_are_told(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(preference_options(**changes)))


def test_stage_kinds_say_what_they_make_and_need() -> None:
    kinds = {kind.name: kind for kind in smolrecipe_stages()}
    assert kinds["sft"].produces(sft_options()) == {"hf-model": True}
    assert kinds["preference"].produces(preference_options(keep=(0.25, 0.5))) == {
        "hf-model": True,
        "hf-model@0.25": True,
        "hf-model@0.5": True,
    }
    devices = kinds["sft"].devices(sft_options(parallelism=Parallelism(device="cuda", processes=8)))
    assert (devices.device, devices.processes) == ("cuda", 8)
    assert all(marks_assistant(template_text(name)) for name in BUILT_IN)


def test_the_plugin_is_light() -> None:
    code = "import sys, smolrecipe_trl; print(sorted({'torch', 'trl', 'datasets', 'jinja2'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )

"""Chat templates, what is learned of what they write, and what they would drop."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from trl_rows import DUAL, EMPTY_THINK, MODES, MULTI_TURN, byte_tokenizer, chat, rendered, sft_options

from smolrecipe import StageError
from smolrecipe_trl.chat_templates import BUILT_IN, template_text
from smolrecipe_trl.conversations import conversation
from smolrecipe_trl.packing import IGNORED, labelled
from smolrecipe_trl.rendering import ChatRenderer
from smolrecipe_trl.row_values import UnusableRowError
from smolrecipe_trl.tokenising import check_tokenizer, tokenise


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


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


def test_tokens_of_multi_byte_characters_are_marked_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}{% endgeneration %}.{% endfor %}"
    renderer = ChatRenderer(tokenizer, template)
    (tokens,) = tokenise(
        tokenizer, [renderer.conversation(conversation({"messages": [{"role": "user", "content": "é☠"}]}))]
    )
    assert tokens.marked.tolist() == [False] * 4 + [True] * 5 + [False]

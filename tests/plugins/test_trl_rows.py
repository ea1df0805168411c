"""Rows of the TRL stages in files: what is cut, left out and packed, and preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from trl_rows import DUAL, EMPTY_THINK, MODES, byte_tokenizer, chat, make_rows, rendered, rows_of, sft_options

from smolrecipe import StageError
from smolrecipe_trl.chat_templates import template_text
from smolrecipe_trl.conversations import pair
from smolrecipe_trl.packing import IGNORED, packing_summary
from smolrecipe_trl.preference import tokenised_pairs
from smolrecipe_trl.rendering import ChatRenderer
from smolrecipe_trl.row_sample import RowSample, is_sampled, read_sample
from smolrecipe_trl.row_values import UnusableRowError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


# Rows in files


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
    told = rows.summary()["sources"]["a"]
    assert told["truncated_tokens"] == counts.truncated_tokens
    assert sum(told["lengths"].values()) == 4 and max(map(int, told["lengths"])) > 80  # before anything is cut


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
    assert sorted(counts.lengths.elements()) == sorted(len(whole[f"{side}_ids"]) for side in ("chosen", "rejected"))


# The sample that is published


def test_the_sample_has_first_rows_and_a_few_later_ones(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert [number for number in range(200) if is_sampled(number)] == [*range(32), 63, 127]
    assert is_sampled(4095) and not any(map(is_sampled, (4096, 8191, 10**6)))
    long = {"messages": [{"role": "user", "content": "no answer"}]}
    conversations = [chat(f"{number}?", "x" * number) for number in range(1, 70)]
    options = sft_options(data={"a": rows_of(*conversations[:2], long, *conversations[2:])}, max_length=300)
    made = make_rows(tmp_path, tokenizer, options)
    sample = read_sample(tmp_path / "rows")["a"]
    assert list(sample) == [*range(32), 63]
    assert sample[2]["input_ids"] is None and sample[2]["labels"] is None  # nothing of it is learned
    assert made.counts["a"].dropped_tokens == len(tokenizer(rendered(tokenizer, "compact", long))["input_ids"])
    text = rendered(tokenizer, "compact", conversations[62])  # one row comes in between
    assert sample[63]["input_ids"] == tokenizer(text)["input_ids"]


def test_a_sample_of_many_batches_keeps_numbers(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Rows are tokenised in batches; one that is refused on the way takes its number with it."""
    conversations = [chat(f"{number}?", "x") for number in range(1100)]
    make_rows(tmp_path, tokenizer, sft_options(data={"a": rows_of(*conversations)}, max_length=300))
    sample = read_sample(tmp_path / "rows")["a"]
    assert list(sample) == [*range(32), 63, 127, 255, 511, 1023]
    assert "1023?" in tokenizer.decode(sample[1023]["input_ids"])


def test_an_empty_sample_is_a_file_too(tmp_path: Path) -> None:
    RowSample(("input_ids",)).write(tmp_path)
    assert read_sample(tmp_path) == {}

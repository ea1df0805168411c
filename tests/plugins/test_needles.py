"""Haystacks: what they say is said, no more often and no longer than asked, and every question has one answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from smolrecipe_needles import NeedlesOptions, check, smolrecipe_sources
from smolrecipe_needles.words import NOISE, VALUES

(NEEDLES,) = smolrecipe_sources()
STYLES = {"text": "text", "chat": "chat", "preference": "preference", "problems": "problem", "chat_problems": "problem"}
KEY_OF = {value: key for key, values in VALUES.items() for value in values}


def read(style: str, **options: Any) -> list[Mapping[str, Any]]:
    chosen = NeedlesOptions(**{"style": style, "split": "train", "rows": 40} | options)
    assert not list(check(chosen))
    return list(NEEDLES.read(chosen))


def said(document: str) -> Counter[tuple[str, str]]:
    """The needles that a document says, by its words alone: a key and the word behind it."""
    return Counter((key, value) for key, value in re.findall(r"(\w+) (\w+)\.", document) if key in VALUES)


def length(text: str) -> int:
    return len(text.replace(".", " .").split())


def test_no_word_stands_in_two_places() -> None:
    words = [*VALUES, *KEY_OF, *{word for noise in NOISE for word in re.findall(r"\w+", noise)}]
    assert not [word for word, count in Counter(words).items() if count > 1]
    assert len(KEY_OF) == 16 * 8


@pytest.mark.parametrize("size", [64, 127, 511])
def test_a_document_says_each_needle_as_often_as_asked_and_is_no_longer(size: int) -> None:
    for row in read("text", length=size, needles=5, mentions=4):
        needles = said(row["text"])
        assert len(needles) == len({key for key, _ in needles}) == 5
        assert set(needles.values()) == {4}
        assert all(KEY_OF[value] == key for key, value in needles)
        assert size - 4 <= length(row["text"]) <= size


def test_needles_lie_everywhere() -> None:
    places = [
        row["messages"][0]["content"].index(f" {row['answer']}.") for row in read("problems", length=200, rows=200)
    ]
    texts = [len(row["messages"][0]["content"]) for row in read("problems", length=200, rows=200)]
    shares = Counter(int(4 * place / text) for place, text in zip(places, texts, strict=True))
    assert min(shares[quarter] for quarter in range(4)) > 200 / 4 / 2


def test_a_problem_breaks_off_at_the_key_whose_value_the_document_has_said_once() -> None:
    for row in read("problems", needles=8):
        (message,) = row["messages"]
        document, _, key = message["content"].rpartition(" ")
        assert said(document)[key, row["answer"]] == 1
        assert len(said(document)) == 8


@pytest.mark.parametrize("style", ["chat", "chat_problems"])
def test_the_answer_in_a_chat_is_what_the_document_says(style: str) -> None:
    for row in read(style, **({"turns": 3} if style == "chat" else {})):
        messages = row["messages"]
        document = messages[0]["content"].rpartition(" which ")[0]
        answers = [message["content"] for message in messages[1::2]] or [row["answer"]]
        for question, answer in zip(messages[::2], answers, strict=True):
            (needle,) = said(answer)
            assert question["content"].endswith(f"which {needle[0]}?")
            assert said(document)[needle] == 1
        assert len(set(answers)) == len(answers)
        assert row["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_rejected_answer_is_of_the_right_kind_and_not_in_the_document() -> None:
    for row in read("preference", needles=1):
        (chosen,), (rejected,) = said(row["chosen"][0]["content"]), said(row["rejected"][0]["content"])
        question = row["prompt"][0]["content"]
        assert said(question)[chosen] == 1
        assert rejected[1] in VALUES[chosen[0]] and rejected[1] not in question
        assert chosen[0] == rejected[0]
        assert question.endswith(f"which {chosen[0]}?")


@pytest.mark.parametrize("style", STYLES)
def test_rows_depend_on_split_seed_and_number_alone(style: str) -> None:
    rows = read(style)
    assert rows == read(style) == read(style, rows=80)[:40]
    for other in (read(style, split="held_out"), read(style, seed=1)):
        assert not [row for row in rows if row in other]
    assert NEEDLES.yields(NeedlesOptions(style=style, split="train")) == STYLES[style]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"style": "text", "length": 95}, "'length' is 95, but 32 sentences of 3 words and full stops are 96: raise"),
        (
            {"style": "problems", "length": 23},
            "'length' is 23, but 8 sentences of 3 words and full stops are 24: raise",
        ),
        ({"style": "chat", "turns": 9}, "'turns' is 9, but there are only 8 needles to ask for"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, Any], wrong: str) -> None:
    (problem,) = check(NeedlesOptions(split="train", **options))
    assert problem.startswith(wrong)
    assert ("'mentions'" in problem) == (options["style"] == "text")

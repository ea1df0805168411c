"""Decontamination: what it drops is what a search for every run of words of the evaluations finds."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from attrs import frozen

from smolrecipe import Candidate, Source, StageContext, StageError, Use, option
from smolrecipe_filters import smolrecipe_filters
from smolrecipe_filters.options import DecontaminateOptions

(DECONTAMINATE,) = (component for component in smolrecipe_filters() if component.name == "decontaminate")
CONTEXT: StageContext = None  # type: ignore[assignment]  # it asks for nothing of the stage


@frozen(kw_only=True)
class RowsOptions:
    rows: list = option(factory=list, doc="the rows")


ROWS = Source(
    name="rows",
    summary="the rows that the options have",
    options=RowsOptions,
    read=lambda options: iter(options.rows),
    yields=lambda options: "problem",
)


def judge(against: Mapping[str, Iterable[Mapping[str, Any]]], **options: Any) -> Any:
    uses = {name: Use(ROWS, RowsOptions(rows=list(rows))) for name, rows in against.items()}
    chosen = DecontaminateOptions(against=uses, **options)
    assert not list(DECONTAMINATE.check(chosen))
    return DECONTAMINATE.open(chosen, CONTEXT)


def row(prompt: str, *answers: str, system: str = "") -> Candidate:
    turns = [{"role": "system", "content": system}] if system else []
    return Candidate(
        prompt=(*turns, {"role": "user", "content": prompt}), answers=answers or ("Yes.",), ends=("stop",) * 2
    )


def problem(question: str, answer: str = "4") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "answer": answer}


def numbered(first: int, last: int) -> str:
    return " ".join(f"word{number}" for number in range(first, last))


# An independent search


def plain(text: str) -> str:
    """Words of letters alone, between spaces."""
    return f" {' '.join(re.sub('[^a-z]', ' ', text.lower()).split())} "


def dirty(text: str, questions: Sequence[str], answers: Sequence[str], ngram: int) -> bool:
    """Whether a text has what is looked for, found as one string in another."""
    for known, is_question in [(text, True) for text in questions] + [(text, False) for text in answers]:
        words = plain(known).split()
        if len(words) >= ngram:
            looked_for = [words[start : start + ngram] for start in range(len(words) - ngram + 1)]
            if any(f" {' '.join(run)} " in plain(text) for run in looked_for):
                return True
        elif is_question and (plain(known) in plain(text) if len(words) >= 8 else plain(known) == plain(text)):
            return True
    return False


def noisy(words: Sequence[str], draw: random.Random) -> str:
    """The words with capitals, punctuation and white space among them."""
    text = ""
    for word in words:
        text += draw.choice([word, word.upper(), word.capitalize()]) + draw.choice([" ", ", ", ". ", "\n", " - ", "! "])
    return text


@pytest.mark.parametrize(
    ("ngram", "letters"), [(13, "ab"), (10, "abc"), (5, "abcdefgh"), (8, "abcd"), (3, "abcdefghijklmnopqrstuvwxyz")]
)
def test_what_is_dropped_is_what_a_search_for_strings_finds(ngram: int, letters: str) -> None:
    """Texts of few words, so that runs of them meet by chance; and others that have a piece of an evaluation."""
    draw = random.Random(ngram)
    vocabulary = [letter * 3 for letter in letters]

    def text(shortest: int, longest: int) -> list[str]:
        return [draw.choice(vocabulary) for _ in range(draw.randint(shortest, longest))]

    questions = [noisy(text(1, 30), draw) for _ in range(12)]
    answers = [noisy(text(1, 20), draw) for _ in range(12)]
    found = judge({"math": map(problem, questions, answers)}, ngram=ngram)
    seen = {True: 0, False: 0}
    for number in range(1500):
        words = text(1, 25)
        if number % 2:
            piece = plain(draw.choice(questions + answers)).split()
            start = draw.randrange(len(piece))
            words[len(words) // 2 : len(words) // 2] = piece[start : start + draw.randint(1, ngram + 2)]
        elif number % 3 == 0:
            words = plain(draw.choice(questions + answers)).split()[:ngram]
        said = noisy(words, draw)
        expected = dirty(said, questions, answers, ngram)
        for candidate in (row(said, "no such words"), row("Nothing.", "No.", said)):
            assert bool(found(candidate)) == expected, said
        seen[expected] += 1
    assert min(seen.values()) > 100


# What it says, of whom


def test_thirteen_words_are_too_many_and_twelve_are_not() -> None:
    found = judge({"gsm8k": [problem(numbered(0, 40))]})
    assert found(row(f"Tell me: {numbered(5, 18)}?")) == "shares 13 words with 'gsm8k'"
    assert found(row(f"Tell me: {numbered(5, 17)}?")) == ""
    assert found(row("Why?", "Yes.", f"<think>{numbered(27, 40)}</think>")) == "shares 13 words with 'gsm8k'"
    assert found(row(numbered(28, 40), numbered(0, 12))) == ""
    assert found(row(numbered(5, 12), numbered(12, 18))) == ""  # no run goes from one text on to the next


def test_a_short_question_must_be_there_as_a_whole_and_a_short_answer_is_not_looked_for() -> None:
    eight, seven = numbered(0, 8), numbered(10, 17)
    found = judge({"quiz": [problem(eight, "The answer is four."), problem(seven, "Four.")]})
    assert found(row(f"Please: {eight}!")) == found(row(eight)) == "has a whole question of 'quiz'"
    assert found(row(numbered(0, 7))) == ""
    assert found(row(f"Please: {seven}!")) == ""
    assert found(row(seven.upper())) == found(row("Well?", seven)) == "has a whole question of 'quiz'"
    assert found(row("Four.", "The answer is four.")) == ""


def test_rows_of_every_shape_are_read() -> None:
    said = [numbered(20 * place, 20 * place + 15) for place in range(8)]
    rows = [
        {"text": said[0]},
        {"messages": [{"role": "user", "content": said[1]}, {"role": "assistant", "content": said[2]}]},
        {
            "prompt": [{"role": "user", "content": said[3]}],
            "chosen": [{"role": "assistant", "content": said[4]}],
            "rejected": [{"role": "assistant", "content": said[5]}],
        },
        {"prompt": said[6], "answer": said[7], "number": 7, "list": ["of no interest"]},
        {"messages": None, "answer": None},
        {"messages": [None, {"role": "user"}, {"role": "user", "content": None}, {"content": "no role"}]},
    ]
    found = judge({"all": rows})
    assert [found(row(text)) for text in said] == ["shares 13 words with 'all'"] * 8


def test_what_the_system_says_is_left_out_on_both_sides() -> None:
    told = {"role": "system", "content": numbered(0, 20)}
    found = judge({"quiz": [{"messages": [told, {"role": "user", "content": numbered(30, 50)}]}]})
    assert found(row("Why?", system=numbered(0, 20))) == found(row(numbered(0, 20))) == ""
    assert found(row("Why?", system=numbered(30, 50))) == ""
    assert found(row(numbered(30, 50), system="You answer.")) != ""


def test_the_order_of_evaluations_changes_no_verdict() -> None:
    shared, own = problem(numbered(0, 20)), problem(numbered(30, 50))
    rows = {"b": [shared], "a": [own, shared], "c": [shared]}
    candidates = [row(numbered(0, 20)), row(numbered(30, 50)), row(f"{numbered(30, 50)} {numbered(0, 20)}")]
    verdicts = [
        [judge({name: rows[name] for name in names})(candidate) for candidate in candidates]
        for names in ("abc", "cba", "bac")
    ]
    assert verdicts == [["shares 13 words with 'a'"] * 3] * 3


def test_spelling_does_not_hide_what_is_the_same() -> None:
    """Capitals, accents in two code points, wide letters, and characters of a script without spaces."""
    chinese = "".join(chr(0x4E00 + number) for number in range(30))
    found = judge({"quiz": [problem(f"Éclair {numbered(1, 15)}"), problem(chinese)]})
    assert found(row(f"e\u0301clair, {numbered(1, 13).upper()}")) != ""
    assert found(row(f"ＥCLAIR {numbered(1, 13)}".replace("Ｅ", "É"))) != ""  # noqa: RUF001
    assert found(row(f"那{chinese[3:16]}吗")) != "" and found(row(chinese[3:15])) == ""


@pytest.mark.parametrize("rows", [[], [{"other": "text"}], [problem("?!", "4")], [{"answer": "4"}]])
def test_an_evaluation_without_words_is_no_evaluation(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(StageError, match="the rows of 'empty' have no words to look for; they need 'messages'"):
        judge({"empty": rows, "quiz": [problem("Who was it?")]})


def test_a_source_out_of_reach_is_told_by_its_own_sentence() -> None:
    def read(options: Any) -> Iterable[Mapping[str, Any]]:
        raise StageError("the data are out of reach")
        yield {}

    source = Source(name="far", summary="far", options=RowsOptions, read=read, yields=lambda options: "text")
    with pytest.raises(StageError, match="out of reach"):
        DECONTAMINATE.open(DecontaminateOptions(against={"far": Use(source, RowsOptions())}), CONTEXT)


def test_nothing_to_compare_with_is_told() -> None:
    (said,) = DECONTAMINATE.check(DecontaminateOptions(against={}))
    assert said.startswith("'against' is empty: name the evaluations")

"""Filters of an answer's form and of what is right: their verdicts on rows written by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from smolrecipe import Candidate, RowFilter, StageContext, StageError
from smolrecipe_filters import smolrecipe_filters

FILTERS = {component.name: component for component in smolrecipe_filters()}
CONTEXT: StageContext = None  # type: ignore[assignment]  # none of them asks for anything of the stage


def row(*answers: str, **fields: Any) -> Candidate:
    """A row with these answers to a question."""
    known = {"prompt": ({"role": "user", "content": "Why?"},), "ends": ("stop",) * len(answers)}
    return Candidate(answers=answers, **(known | fields))


def verdict(name: str, candidate: Candidate, **options: Any) -> str:
    """What a filter with these options says of a row."""
    component: RowFilter = FILTERS[name]
    chosen = component.options(**options)
    assert not list(component.check(chosen))
    return component.open(chosen, CONTEXT)(candidate)


def problems(name: str, **options: Any) -> list[str]:
    """What a filter's check says of options."""
    component: RowFilter = FILTERS[name]
    return list(component.check(component.options(**options)))


def test_offering_filters_imports_no_engine() -> None:
    code = (
        "import sys, smolrecipe_filters; list(smolrecipe_filters.smolrecipe_filters()); "
        "print([name for name in ('datasketch', 'langdetect', 'numpy', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# length


@pytest.mark.parametrize(
    ("answer", "options", "says"),
    [
        ("one two three", {"at_least_words": 3}, ""),
        ("one two  ", {"at_least_words": 3}, "the answer is too short"),
        ("one two three", {"at_most_words": 3}, ""),
        ("one two\nthree four", {"at_most_words": 3}, "the answer is too long"),
        ("four", {"at_least_characters": 4}, ""),
        (" six ", {"at_least_characters": 4}, "the answer is too short"),
        (" four ", {"at_most_characters": 4}, ""),
        ("seven", {"at_most_characters": 4}, "the answer is too long"),
        ("", {"at_least_characters": 1}, "the answer is too short"),
        ("", {}, ""),
        ("<think>\none two\n</think>\nthree", {"at_least_words": 3}, ""),
        ("<think>\none two\n</think>\nthree", {"at_least_words": 2, "part": "without_reasoning"}, "too short"),
        ("<think>\none two", {"at_least_words": 1, "part": "without_reasoning"}, "the answer is too short"),
    ],
)
def test_answers_are_as_long_as_asked(answer: str, options: dict[str, Any], says: str) -> None:
    said = verdict("length", row(answer), **options)
    assert said == says or (says and said.endswith(says))


def test_answers_that_were_cut_off_are_dropped_unless_they_may_be() -> None:
    cut = row("one two", ends=("length",))
    assert verdict("length", cut) == "the answer was cut off"
    assert verdict("length", cut, whole=False, at_least_words=2) == ""
    assert verdict("length", row("one", "two", ends=("stop", "length"))) == "the rejected answer was cut off"
    assert verdict("length", row("one", "two", ends=("stop", "length")), of="chosen") == ""


def test_in_pairs_each_answer_is_called_what_it_is() -> None:
    bounds = {"at_least_words": 2}
    assert verdict("length", row("one", "one two"), **bounds) == "the chosen answer is too short"
    assert verdict("length", row("one two", "one"), **bounds) == "the rejected answer is too short"
    assert verdict("length", row("one", "one two"), of="rejected", **bounds) == ""
    assert verdict("length", row("one two", "one"), of="chosen", **bounds) == ""
    assert verdict("length", row("one"), of="chosen", **bounds) == "the answer is too short"


@pytest.mark.parametrize("name", ["length", "think_block"])
def test_a_rejected_answer_is_judged_in_pairs_alone(name: str) -> None:
    with pytest.raises(StageError, match=f"filter '{name}' judges the rejected answer .* write 'of: all'"):
        verdict(name, row("one"), of="rejected")


def test_bounds_that_nothing_can_hold_are_told() -> None:
    (said,) = problems("length", at_least_words=5, at_most_words=4)
    assert said.startswith("'at_least_words' is 5 and 'at_most_words' is 4: no answer")
    (said,) = problems("length", at_least_characters=5, at_most_characters=4)
    assert "at_most_characters" in said
    (said,) = problems("length", whole=False)
    assert said.startswith("it would drop nothing")
    assert not problems("length", at_least_words=4, at_most_words=4, whole=False)


# think_block

BLOCK = "<think>\nwell\n</think>\n"


@pytest.mark.parametrize(
    ("answer", "asked", "says"),
    [
        # Where reasoning is asked for, there is one block that begins, ends and is followed by something.
        (f"{BLOCK}4", True, ""),
        ("<think>well</think>4", True, ""),
        ("4", True, "the answer does not begin with reasoning"),
        ("", True, "the answer does not begin with reasoning"),
        (f" {BLOCK}4", True, "the answer does not begin with reasoning"),
        (f"So: {BLOCK}4", True, "the answer does not begin with reasoning"),
        ("well\n</think>\n4", True, "the answer does not begin with reasoning"),
        ("<think>\nwell", True, "the answer has reasoning without an end"),
        ("<think>", True, "the answer has reasoning without an end"),
        (f"{BLOCK}{BLOCK}4", True, "the answer has more than one block of reasoning"),
        (f"<think>{BLOCK}4", True, "the answer has more than one block of reasoning"),
        (f"{BLOCK}4</think>", True, "the answer has more than one block of reasoning"),
        (f"{BLOCK}4<think>", True, "the answer has more than one block of reasoning"),
        ("<think>\n\n</think>\n4", True, "the answer has an empty block of reasoning"),
        (BLOCK, True, "the answer has nothing after its reasoning"),
        # Where it is not, there is none; an empty block is how SmolLM3's template writes that.
        ("4", False, ""),
        ("", False, ""),
        ("<think>\n\n</think>\n4", False, ""),
        (f"{BLOCK}4", False, "the answer has reasoning where none belongs"),
        ("<think>\nwell", False, "the answer has reasoning where none belongs"),
        ("4 </think>", False, "the answer has reasoning where none belongs"),
        ("<think></think>4<think>5</think>", False, "the answer has reasoning where none belongs"),
        ("4<think></think>", False, "the answer has reasoning where none belongs"),
        # Where nothing is said, it may be either.
        ("4", None, ""),
        (f"{BLOCK}4", None, ""),
        ("<think></think>4", None, ""),
        ("<think>\nwell", None, "the answer has reasoning without an end"),
        (f"4{BLOCK}", None, "the answer has reasoning where none belongs"),
        (f"{BLOCK}4{BLOCK}", None, "the answer has more than one block of reasoning"),
    ],
)
def test_reasoning_is_there_where_it_is_asked_for(answer: str, asked: bool | None, says: str) -> None:
    as_row_says = row(answer, arguments={} if asked is None else {"enable_thinking": asked})
    assert verdict("think_block", as_row_says) == says
    against_it = row(answer, arguments={"enable_thinking": not asked})
    if asked is not None:
        assert verdict("think_block", against_it, required=asked) == says
    other_tags = row(answer.replace("<think>", "[T]").replace("</think>", "[/T]"), arguments=as_row_says.arguments)
    assert verdict("think_block", other_tags, begin="[T]", end="[/T]") == says


def test_reasoning_is_judged_in_both_answers_of_a_pair() -> None:
    asked = {"arguments": {"enable_thinking": True}}
    assert verdict("think_block", row(f"{BLOCK}4", "5", **asked)) == "the rejected answer does not begin with reasoning"
    assert verdict("think_block", row(f"{BLOCK}4", "5", **asked), of="chosen") == ""


def test_tags_that_cannot_be_told_apart_are_told() -> None:
    assert problems("think_block", begin="", end="</t>") == [
        "'begin' is empty: write the text that reasoning begins with, such as <think>"
    ]
    (said,) = problems("think_block", begin="think", end="/think")
    assert "cannot be told apart" in said


# right_answer


@pytest.mark.parametrize(
    ("answer", "known", "options", "is_right"),
    [
        ("4", "4", {}, True),
        (" 4\n", "4 ", {}, True),
        (f"{BLOCK}4", "4", {}, True),
        ("<think>3</think>5</think>4", "4", {}, True),
        ("<think>4", "4", {}, False),
        ("<think>4", "<think>4", {}, False),
        ("4</think>5", "4", {}, False),
        ("5", "4", {}, False),
        ("", "4", {}, False),
        ("", "", {}, True),
        ("It is 4", "4", {}, False),
        ("Paris", "paris", {}, False),
        ("Paris", "paris", {"ignore_case": True}, True),
        ("STRASSE", "straße", {"ignore_case": True}, True),
        ("Paris.", "Paris", {}, False),
        ("**Paris.**", "Paris", {"ignore_punctuation": True}, True),
        ("“Paris”!", "'paris'", {"ignore_punctuation": True, "ignore_case": True}, True),
        ("-5", "5", {"ignore_punctuation": True}, False),
        (".5", "5", {"ignore_punctuation": True}, False),
        ("3.5.", "3.5", {"ignore_punctuation": True}, True),
        ("3.5", "35", {"ignore_punctuation": True}, False),
        ("50%", "50", {"ignore_punctuation": True}, False),
        ("(4)", "4", {"ignore_punctuation": True}, True),
        ("!", "?", {"ignore_punctuation": True}, False),
        ("don't", "dont", {"ignore_punctuation": True}, False),
    ],
)
def test_what_follows_the_reasoning_is_what_is_right(
    answer: str, known: str, options: dict[str, Any], is_right: bool
) -> None:
    says = "" if is_right else "the answer is wrong"
    assert verdict("right_answer", row(answer, known_answer=known), **options) == says


def test_in_a_pair_the_right_answer_is_chosen_and_the_wrong_one_rejected() -> None:
    def say(first: str, second: str, **options: Any) -> str:
        return verdict("right_answer", row(first, second, known_answer="4"), **options)

    assert say("4", "5") == ""
    assert say("5", "4") == say("5", "6") == "the chosen answer is wrong"
    assert say("4", " 4") == "the rejected answer is right"
    assert say("4", " 4", rejected="any") == ""
    assert say("5", "4", rejected="any") == "the chosen answer is wrong"


def test_a_row_of_which_nobody_knows_what_is_right_is_dropped_unless_it_may_stay() -> None:
    assert verdict("right_answer", row("4")) == "no known answer"
    assert verdict("right_answer", row("4"), unknown="keep") == ""
    assert verdict("right_answer", row("5", known_answer="4"), unknown="keep") == "the answer is wrong"


# different_answers


def test_answers_of_a_pair_differ() -> None:
    assert verdict("different_answers", row("4", "5")) == ""
    assert verdict("different_answers", row("4", " 4\n")) == "both answers are the same"
    thought = row("<think>a</think>\n4", "<think>b</think>4")
    assert verdict("different_answers", thought) == ""
    assert verdict("different_answers", thought, compare="without_reasoning") == "both answers are the same"


def test_a_single_answer_differs_from_nothing() -> None:
    with pytest.raises(StageError, match="filter 'different_answers' compares the two answers of a pair, and"):
        verdict("different_answers", row("4"))

"""Spelled-out sums: right in every language, and never tested on what was trained on."""

import itertools
import re

import pytest
from num2words import num2words

import smolrecipe_data
from smolrecipe import StageError
from smolrecipe_data.sums import endless, pairs, split_of, wrong_sum

(ARITHMETIC,) = (source for source in smolrecipe_data.smolrecipe_sources() if source.name == "arithmetic")
LANGUAGES = ["en", "fr", "es", "de", "it", "pt"]
STYLES = ["text", "think", "no_think", "preference", "problems"]
LARGEST = 20

NUMBERS = {(language, num2words(n, lang=language)): n for language in LANGUAGES for n in range(2 * LARGEST + 4)}
SENTENCES = {
    "en": r"(.+) plus (.+) is (.+)\.",
    "fr": r"(.+) plus (.+) font (.+)\.",
    "es": r"(.+) más (.+) son (.+)\.",
    "de": r"(.+) plus (.+) ist (.+)\.",
    "it": r"(.+) più (.+) fa (.+)\.",
    "pt": r"(.+) mais (.+) são (.+)\.",
}
QUESTIONS = {
    "en": r"What is (.+) plus (.+)\?",
    "fr": r"Combien font (.+) plus (.+) \?",
    "es": r"¿Cuánto es (.+) más (.+)\?",
    "de": r"Was ist (.+) plus (.+)\?",
    "it": r"Quanto fa (.+) più (.+)\?",
    "pt": r"Quanto é (.+) mais (.+)\?",
}
THOUGHT = re.compile(r"<think>\n(\d+)\+(\d+)=(\d+)\n</think>\n(.+)")


def read(**options):
    return list(ARITHMETIC.read(ARITHMETIC.options(largest=LARGEST, **options)))


def numbers(patterns, text):
    """(language, the numbers that the pattern of one language finds in the text), all spelled in that language."""
    for language, pattern in patterns.items():
        match = re.fullmatch(pattern, text)
        if match and all((language, word) in NUMBERS for word in match.groups()):
            return language, *(NUMBERS[language, word] for word in match.groups())
    raise AssertionError(f"no language says {text!r}")


def answer(language, message, thinks):
    """(operands or None, result) of an assistant's message."""
    assert message["role"] == "assistant"
    if not thinks:
        return None, NUMBERS[language, message["content"]]
    a, b, digits, words = THOUGHT.fullmatch(message["content"]).groups()
    assert NUMBERS[language, words] == int(digits)
    return (int(a), int(b)), int(digits)


def sums_of(row, style, mode="think"):
    """All (language, a, b) of a row; on the way, that all it says is right, or wrong where it must be."""
    if style == "text":
        found = [numbers(SENTENCES, line) for line in row["text"].splitlines()]
        assert all(a + b == c for _, a, b, c in found)
        return [(language, a, b) for language, a, b, _ in found]
    thinks = {"think": True, "no_think": False}.get(style, mode == "think")
    assert row["chat_template_kwargs"] == {"enable_thinking": thinks}
    (question, *replies) = row["prompt"] if style == "preference" else row["messages"]
    assert question["role"] == "user"
    language, a, b = numbers(QUESTIONS, question["content"])
    if style == "problems":
        assert replies == [] and NUMBERS[language, row["answer"]] == a + b
    elif style == "preference":
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert replies == []
        assert answer(language, chosen, thinks) == ((a, b) if thinks else None, a + b)
        operands, wrong = answer(language, rejected, thinks)
        assert operands == ((a, b) if thinks else None) and wrong != a + b and 0 < abs(wrong - a - b) <= 3
    else:
        assert answer(language, replies[0], thinks) == ((a, b) if thinks else None, a + b)
    return [(language, a, b)]


def test_a_sum_stays_in_its_split_in_every_style_language_order_and_seed():
    seen = {}
    for split, style, mode in itertools.product(("train", "held_out"), STYLES, ("think", "no_think")):
        for seed in (0, 1):
            rows = read(style=style, split=split, mode=mode, seed=seed)
            assert rows
            for _, a, b in itertools.chain.from_iterable(sums_of(row, style, mode) for row in rows):
                seen.setdefault(split, set()).add(frozenset((a, b)))
    assert not seen["train"] & seen["held_out"]
    assert len(seen["train"] | seen["held_out"]) == (LARGEST + 1) * (LARGEST + 2) // 2
    # 231 sums are held out with probability 0.1 each: 23 expected, and this is the number that the hash gives.
    assert 12 <= len(seen["held_out"]) <= 35


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_sum_comes_once_in_every_language_before_any_comes_again(style, split):
    found = [item for row in read(style=style, split=split, sums_per_document=1) for item in sums_of(row, style)]
    expected = [(language, a, b) for language in LANGUAGES for a, b in pairs(LARGEST, split, 0.1)]
    assert sorted(found) == sorted(expected)
    again = [
        item
        for row in read(style=style, split=split, sums_per_document=1, rows=2 * len(found))
        for item in sums_of(row, style)
    ]
    assert again[: len(found)] == found and again[len(found) :] != found
    assert sorted(again[len(found) :]) == sorted(expected)


def test_documents_hold_a_handful_of_sums_in_one_language():
    documents = read(style="text", split="train", rows=60, sums_per_document=5)
    assert len(documents) == 60
    for number, row in enumerate(documents):
        found = sums_of(row, "text")
        assert len(found) == 5 and {language for language, _, _ in found} == {LANGUAGES[number % 6]}


def test_options_choose_languages_bound_and_order():
    assert {sums_of(row, "think")[0][0] for row in read(style="think", split="train", languages=["pt", "de"])} == {
        "pt",
        "de",
    }
    one, other = (read(style="no_think", split="train", seed=seed, rows=30) for seed in (0, 1))
    assert one == read(style="no_think", split="train", seed=0, rows=30) and one != other
    small = ARITHMETIC.options(style="think", split="train", largest=3)
    assert all(max(sums_of(row, "think")[0][1:]) <= 3 for row in ARITHMETIC.read(small))


def test_the_split_is_the_same_everywhere_and_for_ever():
    """Published models and their evaluations rely on it: these values may not change."""
    assert [pair for pair in pairs(8, "held_out", 0.1) if pair[0] <= pair[1]] == GOLDEN_HELD_OUT
    assert list(itertools.islice(endless(list(pairs(8, "train", 0.1)), "en", 0), 5)) == GOLDEN_ORDER
    assert [wrong_sum(a, 1, 0, 3) for a in range(5)] == GOLDEN_WRONG
    assert all(split_of(a, b, 0.1) == split_of(b, a, 0.1) for a, b in itertools.product(range(60), repeat=2))


def test_a_larger_share_holds_out_more_and_keeps_what_was_held_out():
    small, large = (set(pairs(LARGEST, "held_out", share)) for share in (0.05, 0.2))
    assert small < large
    assert 0.15 < len(set(pairs(100, "held_out", 0.2))) / 101**2 < 0.25


def test_a_split_without_sums_is_refused():
    options = ARITHMETIC.options(style="text", split="held_out", largest=1, held_out=0.001)
    (problem,) = ARITHMETIC.check(options)
    assert problem.startswith("no sum of 0..1 is in split 'held_out'")
    with pytest.raises(StageError, match=r"no sum of 0\.\.1"):
        list(ARITHMETIC.read(options))
    assert list(ARITHMETIC.check(ARITHMETIC.options(style="text", split="held_out"))) == []


def test_shapes_are_named_by_style():
    shapes = {style: ARITHMETIC.yields(ARITHMETIC.options(style=style, split="train")) for style in STYLES}
    assert list(shapes.values()) == ["text", "chat", "chat", "preference", "problem"]


GOLDEN_HELD_OUT = [(1, 1), (2, 3), (2, 6), (7, 7)]
GOLDEN_ORDER = [(0, 4), (8, 5), (8, 7), (3, 8), (6, 1)]
GOLDEN_WRONG = [0, 0, 5, 3, 7]

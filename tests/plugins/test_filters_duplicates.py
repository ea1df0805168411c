"""Near-duplicates: what the filter keeps is what comparing every pair of texts exactly keeps."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from smolrecipe import Candidate, StageContext
from smolrecipe_filters import smolrecipe_filters
from smolrecipe_filters.options import NearDuplicatesOptions

(NEAR_DUPLICATES,) = (component for component in smolrecipe_filters() if component.name == "near_duplicates")
CONTEXT: StageContext = None  # type: ignore[assignment]  # it asks for nothing of the stage
REASON = "a near-duplicate of an earlier row"


def row(prompt: str | Sequence[dict[str, str]], *answers: str) -> Candidate:
    turns = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    return Candidate(prompt=turns, answers=answers or ("Yes.",), ends=("stop",) * (len(answers) or 1))


def kept(rows: Sequence[Candidate], **options: Any) -> list[int]:
    """The numbers of the rows that stay."""
    judge = NEAR_DUPLICATES.open(NearDuplicatesOptions(**options), CONTEXT)
    verdicts = [judge(candidate) for candidate in rows]
    assert set(verdicts) <= {"", REASON}
    return [number for number, verdict in enumerate(verdicts) if not verdict]


def of(texts: Sequence[str], **options: Any) -> list[int]:
    return kept([row(text) for text in texts], **options)


def runs_of(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[start : start + ngram]) for start in range(max(1, len(words) - ngram + 1))}


def resemblance(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Jaccard's: runs of words that both have, as a share of those that one of them has (Broder 1997)."""
    return len(one & other) / len(one | other)


def edited(text: str, changes: int, draw: random.Random) -> str:
    words = text.split()
    for place in draw.sample(range(len(words)), changes):
        words[place] = f"new{draw.randrange(10**6)}"
    return " ".join(words)


@pytest.mark.parametrize(
    ("ngram", "seed", "threshold"), [(5, 0, 0.8), (5, 7, 0.8), (1, 0, 0.8), (3, 1, 0.6), (2, 0, 0.9)]
)
def test_what_is_kept_is_what_an_exact_comparison_of_all_pairs_keeps(ngram: int, seed: int, threshold: float) -> None:
    """Of texts whose resemblance is far enough from the threshold that the estimate is on the same side."""
    draw = random.Random(seed)
    bases = [" ".join(f"w{draw.randrange(5000)}" for _ in range(200)) for _ in range(60)]
    # One changed word takes ngram of some 200 runs from both sides.
    texts = [edited(base, changes, draw) for base in bases for changes in (0, 0, 1, 40, 60)]
    draw.shuffle(texts)
    runs = [runs_of(text, ngram) for text in texts]
    expected: list[int] = []
    for number in range(len(texts)):
        alike = [resemblance(runs[number], runs[earlier]) for earlier in expected]
        if margin := [share for share in alike if abs(share - threshold) < 0.05]:
            pytest.fail(f"the texts of this test are no good: {margin}")
        if max(alike, default=0.0) < threshold:
            expected.append(number)
    assert 60 < len(expected) < 200
    assert of(texts, ngram=ngram, seed=seed, threshold=threshold, permutations=256) == expected


def test_texts_at_the_threshold_are_brought_together() -> None:
    """By hashing alone, with at least the probability that is promised: every band drawn anew."""
    from smolrecipe_filters.duplicates import banding

    for permutations in (16, 64, 128, 256, 1000):
        for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0):
            bands, rows = banding(threshold, permutations)
            assert bands * rows <= permutations and bands >= 2 and rows >= 1
            if rows > 1:
                draw = random.Random(0)
                met = sum(
                    any(all(draw.random() < threshold for _ in range(rows)) for _ in range(bands)) for _ in range(500)
                )
                assert met >= 485
    assert banding(0.8, 128) == (21, 6)
    assert banding(0.01, 16) == (16, 1)


@pytest.mark.parametrize("permutations", [16, 17, 128])
@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_any_bounds_open_and_find_what_is_the_same(permutations: int, threshold: float) -> None:
    texts = ["one two three four five six", "seven", "one two three four five six", "seven"]
    assert of(texts, permutations=permutations, threshold=threshold) == [0, 1]


def test_short_texts_are_compared_as_a_whole() -> None:
    texts = ["What is 2+3?", "What is 2-3?", "what  is 2+3?\n", "What is 2+3", "", " ", "Why?", "why?"]
    assert of(texts) == [0, 1, 3, 4, 6]


def test_scripts_without_spaces_are_compared_by_the_character() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(100))
    assert of([text, f"{text}。", text[:50], text[::-1]]) == [0, 2, 3]


def test_the_first_is_kept_and_a_dropped_row_is_compared_with_nothing() -> None:
    words = [f"w{number}" for number in range(100)]
    chain = [" ".join([*(f"x{number}" for number in range(changed)), *words[changed:]]) for changed in (0, 9, 18)]
    assert [round(resemblance(runs_of(chain[0], 1), runs_of(text, 1)), 2) for text in chain[1:]] == [0.83, 0.69]
    assert of(chain, ngram=1, threshold=0.75, permutations=1024) == [0, 2]


def test_prompts_answers_or_both_are_compared() -> None:
    long, other = (" ".join(f"{letter}{number}" for number in range(50)) for letter in "ab")
    rows = [row(long, other), row(long, "No."), row("Why?", other), row(long, other), row("Why?", "No.")]
    assert kept(rows) == kept(rows, of="prompt") == [0, 2]
    assert kept(rows, of="answer") == [0, 1]
    assert kept(rows, of="both") == [0, 1, 2, 4]


def test_of_a_prompt_all_that_the_user_says_counts_and_nothing_else() -> None:
    system = {"role": "system", "content": " ".join(f"s{number}" for number in range(300))}
    first, second = ({"role": "user", "content": text} for text in ("Who was it then?", "And why is that so?"))
    yes, no = ({"role": "assistant", "content": text} for text in ("It was one of us.", "Nobody knows that here."))
    rows = [row([system, first]), row([first]), row([system, second]), row([first, yes, second])]
    assert kept([*rows, row([first, no, second])]) == [0, 2, 3]


def test_in_a_pair_both_answers_count() -> None:
    texts = [" ".join(f"{letter}{number}" for number in range(50)) for letter in "abc"]
    rows = [row("1", texts[0], texts[1]), row("2", texts[0], texts[2]), row("3", texts[0], texts[1])]
    assert kept(rows, of="answer") == [0, 1]


def test_long_texts_are_one_text_however_they_are_hashed() -> None:
    draw = random.Random(0)
    text = " ".join(f"w{draw.randrange(10**6)}" for _ in range(20_000))
    assert of([text, f"first {text}", edited(text, 4000, draw)]) == [0, 2]


def test_memory_is_what_the_docstring_says() -> None:
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(10**6)}" for _ in range(60)) for _ in range(1500)]
    rows = [row(text) for text in texts]
    judge = NEAR_DUPLICATES.open(NearDuplicatesOptions(), CONTEXT)
    judge(rows[0])  # imports
    tracemalloc.start()
    try:
        for candidate in rows[1:]:
            assert judge(candidate) == ""
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 5_000 < held / len(rows) < 12_000

"""Filters: what rows that models wrote must hold to become part of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from smolrecipe import Candidate, RowFilter, StageContext, hookimpl
from smolrecipe_filters import checks
from smolrecipe_filters.options import (
    DecontaminateOptions,
    DifferentAnswersOptions,
    LanguageOptions,
    LengthOptions,
    NearDuplicatesOptions,
    RightAnswerOptions,
    ThinkBlockOptions,
)

Judge = Callable[[Candidate], str]


def _open_length(options: LengthOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.lengths_of_answers import open_length

    return open_length(options)


def _open_language(options: LanguageOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.detecting import open_language

    return open_language(options)


def _open_think_block(options: ThinkBlockOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.reasoning import open_think_block

    return open_think_block(options)


def _open_right_answer(options: RightAnswerOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.known_answers import open_right_answer

    return open_right_answer(options)


def _open_near_duplicates(options: NearDuplicatesOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.duplicates import open_near_duplicates

    return open_near_duplicates(options)


def _open_decontaminate(options: DecontaminateOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.contamination import open_decontaminate

    return open_decontaminate(options)


def _open_different_answers(options: DifferentAnswersOptions, context: StageContext) -> Judge:
    from smolrecipe_filters.known_answers import open_different_answers

    return open_different_answers(options)


@hookimpl
def smolrecipe_filters() -> Iterable[RowFilter]:
    """Offer seven filters: of an answer's form, of what it says, and of what it has in common with other rows."""
    yield RowFilter(
        name="length",
        summary="answers that are neither too short nor too long, nor cut off",
        options=LengthOptions,
        check=checks.check_length,
        open=_open_length,
        example={"at_least_words": 3, "at_most_words": 2000},
    )
    yield RowFilter(
        name="language",
        summary="answers in certain languages, or in that of the prompt",
        source="langdetect, after Nakatani Shuyo's language-detection: naive Bayes over runs of 1 to 3 characters",
        options=LanguageOptions,
        check=checks.check_language,
        requires=("langdetect",),
        extra="filters",
        open=_open_language,
        example={"allowed": ["en", "fr"]},
    )
    yield RowFilter(
        name="think_block",
        summary="answers that begin with one whole block of reasoning where it is asked for, and else have none",
        source="SmolLM3's chat template: enable_thinking",
        options=ThinkBlockOptions,
        check=checks.check_think_block,
        open=_open_think_block,
    )
    yield RowFilter(
        name="right_answer",
        summary="right answers, and in pairs a right one before a wrong one",
        source="rejection sampling by exact match, as in STaR (arXiv:2203.14465)",
        options=RightAnswerOptions,
        open=_open_right_answer,
        example={"ignore_case": True, "ignore_punctuation": True},
    )
    yield RowFilter(
        name="near_duplicates",
        summary="the first of rows that say nearly the same",
        source="MinHash (Broder 1997) with locality-sensitive hashing by datasketch; Lee et al. 2021, arXiv:2107.06499",
        options=NearDuplicatesOptions,
        requires=("datasketch",),
        extra="filters",
        open=_open_near_duplicates,
    )
    yield RowFilter(
        name="decontaminate",
        summary="rows that share no long run of words with an evaluation",
        source="Brown et al. 2020, arXiv:2005.14165, section 4 and appendix C",
        options=DecontaminateOptions,
        check=checks.check_decontaminate,
        open=_open_decontaminate,
        example={"against": {"needles": {"use": "needles", "style": "chat_problems", "split": "held_out", "rows": 50}}},
    )
    yield RowFilter(
        name="different_answers",
        summary="pairs whose answers differ",
        options=DifferentAnswersOptions,
        open=_open_different_answers,
    )

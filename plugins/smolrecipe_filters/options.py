"""The options of the filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import Source, Use, option

OF = "which answers are judged: all of a row, or in a pair the chosen or the rejected one alone"


@frozen(kw_only=True)
class LengthOptions:
    """The options of the ``length`` filter."""

    at_least_words: int | None = option(default=None, at_least=1, doc="an answer with fewer words is dropped")
    at_most_words: int | None = option(
        default=None, at_least=1, doc="an answer with more words is dropped; a word is what stands between white space"
    )
    at_least_characters: int | None = option(default=None, at_least=1, doc="an answer with fewer characters is dropped")
    at_most_characters: int | None = option(default=None, at_least=1, doc="an answer with more characters is dropped")
    part: Literal["whole", "without_reasoning"] = option(
        default="whole", doc="what is counted: the whole answer, or what follows its reasoning"
    )
    whole: bool = option(default=True, doc="whether answers that were cut off at the most tokens are dropped")
    of: Literal["all", "chosen", "rejected"] = option(default="all", doc=OF)


@frozen(kw_only=True)
class LanguageOptions:
    """The options of the ``language`` filter: give either ``allowed`` or ``same_as_prompt``."""

    allowed: list[str] = option(factory=list, doc="the languages of answers that are kept, as ISO 639-1 codes: en, fr")
    same_as_prompt: bool = option(
        default=False, doc="whether an answer must be in the language of the last message of the user"
    )
    short: Literal["keep", "drop"] = option(
        default="keep", doc="what becomes of a row with a text too short to tell its language, or without any words"
    )
    shortest: int = option(
        default=20,
        at_least=1,
        doc="characters that a text must have to be judged; reasoning, code and formulas do not count",
    )
    of: Literal["all", "chosen", "rejected"] = option(default="all", doc=OF)


@frozen(kw_only=True)
class ThinkBlockOptions:
    """The options of the ``think_block`` filter."""

    required: bool | None = option(
        default=None,
        doc="whether answers must begin with reasoning, or must have none; where not given, as each row says to the "
        "chat template (enable_thinking), and of a row that says nothing, reasoning need only be well formed",
    )
    begin: str = option(default="<think>", doc="what reasoning begins with")
    end: str = option(default="</think>", doc="what reasoning ends with")
    of: Literal["all", "chosen", "rejected"] = option(default="all", doc=OF)


@frozen(kw_only=True)
class RightAnswerOptions:
    """The options of the ``right_answer`` filter."""

    rejected: Literal["wrong", "any"] = option(
        default="wrong", doc="in a pair: whether the rejected answer must be wrong, or may be any"
    )
    ignore_case: bool = option(default=False, doc="whether 'Paris' is the same answer as 'paris'")
    ignore_punctuation: bool = option(
        default=False,
        doc="whether full stops, commas, quotes, brackets and asterisks around an answer do not count; what stands "
        "inside it, and a sign before it, always does",
    )
    unknown: Literal["keep", "drop"] = option(
        default="drop", doc="what becomes of a row whose source does not say what is right"
    )


@frozen(kw_only=True)
class NearDuplicatesOptions:
    """The options of the ``near_duplicates`` filter."""

    of: Literal["prompt", "answer", "both"] = option(
        default="prompt",
        doc="what is compared: the messages of the user, the answers with their reasoning, or both together as one "
        "text",
    )
    threshold: float = option(
        default=0.8,
        more_than=0,
        at_most=1,
        doc="share of the runs of words of two texts that both have, from which on they are near-duplicates",
        source="Lee et al. 2021, arXiv:2107.06499, appendix A",
    )
    ngram: int = option(
        default=5,
        at_least=1,
        doc="words in a run; texts with fewer are compared as a whole",
        source="Lee et al. 2021, arXiv:2107.06499, appendix A",
    )
    permutations: int = option(
        default=128,
        at_least=16,
        at_most=4096,
        doc="hash functions by which the share is estimated: its standard error is at most 0.5 / sqrt(permutations)",
    )
    seed: int = option(default=0, at_least=0, at_most=2**32 - 1, doc="of the hash functions")


@frozen(kw_only=True)
class DecontaminateOptions:
    """The options of the ``decontaminate`` filter."""

    against: Mapping[str, Use[Source]] = option(
        ordered=False, doc="the data of evaluations, by the name that they are counted under; rows of any shape"
    )
    ngram: int = option(
        default=13,
        at_least=2,
        doc="a row that shares so many words in a row with an evaluation is dropped",
        source="Brown et al. 2020, arXiv:2005.14165, appendix C",
    )


@frozen(kw_only=True)
class DifferentAnswersOptions:
    """The options of the ``different_answers`` filter."""

    compare: Literal["whole", "without_reasoning"] = option(
        default="whole", doc="what must differ: the answers with their reasoning, or what follows it"
    )

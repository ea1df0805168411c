"""What is wrong with a filter's options taken together."""

from __future__ import annotations

from collections.abc import Iterable

from smolrecipe import near_miss
from smolrecipe_filters.languages import LANGUAGES
from smolrecipe_filters.options import DecontaminateOptions, LanguageOptions, LengthOptions, ThinkBlockOptions


def check_length(options: LengthOptions) -> Iterable[str]:
    """Bounds that nothing can hold, and none at all."""
    bounds = {
        "words": (options.at_least_words, options.at_most_words),
        "characters": (options.at_least_characters, options.at_most_characters),
    }
    for unit, (least, most) in bounds.items():
        if least is not None and most is not None and least > most:
            yield (
                f"'at_least_{unit}' is {least} and 'at_most_{unit}' is {most}: no answer has as many and as few; raise "
                "the one or lower the other"
            )
    if not options.whole and all(bound is None for pair in bounds.values() for bound in pair):
        yield "it would drop nothing: give a bound, such as 'at_least_words: 3', or leave 'whole' true"


def check_language(options: LanguageOptions) -> Iterable[str]:
    """No languages, two ways to say which, and codes of none."""
    if options.allowed and options.same_as_prompt:
        yield "'allowed' and 'same_as_prompt' both say which languages are kept: give one of them"
    if not options.allowed and not options.same_as_prompt:
        yield "nothing says which languages are kept: write 'allowed: [en]', or 'same_as_prompt: true'"
    for code in options.allowed:
        if code not in LANGUAGES:
            yield f"'allowed' has '{code}', which is no ISO 639-1 code of a language that can be told{_meant(code)}"


def _meant(code: str) -> str:
    """Whether it looks like a language's name (English), or its code as others write it (en-US, EN)."""
    by_name = {name.lower(): known for known, name in LANGUAGES.items()}
    word = code.strip().lower()
    language = word.replace("_", "-").partition("-")[0]
    known = by_name.get(word, language)
    if known not in LANGUAGES:
        near = near_miss(word, by_name)
        known = next((known for name, known in by_name.items() if near and f"'{name}'" in near), "")
    if known:
        return f"; did you mean '{known}' ({LANGUAGES[known]})?"
    return near_miss(word, LANGUAGES) or f"; there are {', '.join(LANGUAGES)}"


def check_think_block(options: ThinkBlockOptions) -> Iterable[str]:
    """Tags that cannot be told apart."""
    for name, tag in (("begin", options.begin), ("end", options.end)):
        if not tag.strip():
            yield f"'{name}' is empty: write the text that reasoning {name}s with, such as <think>"
    if options.begin and options.end and (options.begin in options.end or options.end in options.begin):
        yield f"'begin' ({options.begin}) and 'end' ({options.end}) cannot be told apart: one is in the other"


def check_decontaminate(options: DecontaminateOptions) -> Iterable[str]:
    """Nothing to compare with."""
    if not options.against:
        yield "'against' is empty: name the evaluations whose data must not be learned, each with its source"

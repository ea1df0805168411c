"""The ``arithmetic`` source: sums with numbers spelled out in the six languages of SmolLM3."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import frozen
from num2words import num2words

from smolrecipe import StageError
from smolrecipe_data.source_options import ArithmeticOptions
from smolrecipe_data.sums import Pair, endless, pairs, wrong_sum


@frozen
class _Phrases:
    sentence: str
    question: str


_PHRASES = {
    "en": _Phrases("{a} plus {b} is {c}.", "What is {a} plus {b}?"),
    "fr": _Phrases("{a} plus {b} font {c}.", "Combien font {a} plus {b} ?"),
    "es": _Phrases("{a} más {b} son {c}.", "¿Cuánto es {a} más {b}?"),
    "de": _Phrases("{a} plus {b} ist {c}.", "Was ist {a} plus {b}?"),
    "it": _Phrases("{a} più {b} fa {c}.", "Quanto fa {a} più {b}?"),
    "pt": _Phrases("{a} mais {b} são {c}.", "Quanto é {a} mais {b}?"),
}


def read(options: ArithmeticOptions) -> Iterator[Mapping[str, Any]]:
    """Rows of the chosen style, one language after the other by turns, every sum once before any comes again.

    A worked answer restates the sum in digits and then spells the result: ``<think>\\n7+5=12\\n</think>\\ntwelve``.

    Raises:
        StageError: when the split has no sum.
    """
    chosen = list(pairs(options.largest, options.split, options.held_out))
    if not chosen:
        raise StageError(
            f"source 'arithmetic': no sum of 0..{options.largest} is in split '{options.split}' with held_out "
            f"{options.held_out}: raise 'largest' or 'held_out'"
        )
    at_once = {"text": options.sums_per_document, "think": options.turns, "no_think": options.turns}.get(
        options.style, 1
    )
    rows = options.rows
    if rows is None:
        rows = -(-len(chosen) // at_once) * len(options.languages)
    orders = [(language, endless(chosen, language, options.seed)) for language in options.languages]
    for language, order in itertools.islice(itertools.cycle(orders), rows):
        yield _ROWS[options.style](list(itertools.islice(order, at_once)), language, options)


@functools.lru_cache(maxsize=8192)
def spell(number: int, language: str) -> str:
    """The number in words."""
    return str(num2words(number, lang=language))


def _text(sums: list[Pair], language: str, options: ArithmeticOptions) -> dict[str, Any]:
    sentence = _PHRASES[language].sentence
    lines = (sentence.format(a=spell(a, language), b=spell(b, language), c=spell(a + b, language)) for a, b in sums)
    return {"text": "\n".join(lines)}


def _chat(sums: list[Pair], language: str, options: ArithmeticOptions) -> dict[str, Any]:
    mode = options.style
    turns = ((_question(a, b, language), _answer(a, b, a + b, language, mode)) for a, b in sums)
    messages = [message for question, answer in turns for message in (*question, *answer)]
    return {"messages": messages, "chat_template_kwargs": _kwargs(mode)}


def _preference(sums: list[Pair], language: str, options: ArithmeticOptions) -> dict[str, Any]:
    ((a, b),) = sums
    return {
        "prompt": _question(a, b, language),
        "chosen": _answer(a, b, a + b, language, options.mode),
        "rejected": _answer(a, b, wrong_sum(a, b, options.seed, options.largest_error), language, options.mode),
        "chat_template_kwargs": _kwargs(options.mode),
    }


def _problem(sums: list[Pair], language: str, options: ArithmeticOptions) -> dict[str, Any]:
    ((a, b),) = sums
    return {
        "messages": _question(a, b, language),
        "chat_template_kwargs": _kwargs(options.mode),
        "answer": spell(a + b, language),
    }


def _question(a: int, b: int, language: str) -> list[dict[str, str]]:
    question = _PHRASES[language].question.format(a=spell(a, language), b=spell(b, language))
    return [{"role": "user", "content": question}]


def _answer(a: int, b: int, result: int, language: str, mode: str) -> list[dict[str, str]]:
    steps = f"<think>\n{a}+{b}={result}\n</think>\n" if mode == "think" else ""
    return [{"role": "assistant", "content": steps + spell(result, language)}]


def _kwargs(mode: str) -> dict[str, bool]:
    return {"enable_thinking": mode == "think"}


_ROWS: Mapping[str, Callable[[list[Pair], str, ArithmeticOptions], dict[str, Any]]] = {
    "text": _text,
    "think": _chat,
    "no_think": _chat,
    "preference": _preference,
    "problems": _problem,
}

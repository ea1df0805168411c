"""The rows of the ``needles`` source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from smolrecipe_needles import NeedlesOptions
from smolrecipe_needles.words import ANSWER, ASKING, NOISE, SAYING, VALUES, words_in

Needles = dict[str, str]
"""Keys and their values in one document."""

_NOISE_WORDS = {sentence: words_in(sentence) for sentence in NOISE}

_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


def read(options: NeedlesOptions) -> Iterator[Mapping[str, Any]]:
    """Rows, each drawn with a generator of its own: row 7 is the same however many are read."""
    for number in range(options.rows):
        # A text seeds by its SHA-512: the same numbers on every machine and Python version.
        random = Random(f"{options.split} {options.style} {options.seed} {number}")
        needles = {key: random.choice(VALUES[key]) for key in random.sample(list(VALUES), options.needles)}
        mentions = options.mentions if options.style == "text" else 1
        document = _document(needles, mentions, options.length, random)
        yield _ROWS[options.style](document, needles, random, options)


def _text(document: str, needles: Needles, random: Random, options: NeedlesOptions) -> dict[str, Any]:
    return {"text": document}


def _chat(document: str, needles: Needles, random: Random, options: NeedlesOptions) -> dict[str, Any]:
    messages = []
    for key in random.sample(list(needles), options.turns):
        messages += [_question("" if messages else document, key), _answer(key, needles[key])]
    return {"messages": messages, **_NO_THINKING}


def _preference(document: str, needles: Needles, random: Random, options: NeedlesOptions) -> dict[str, Any]:
    key = random.choice(list(needles))
    made_up = random.choice([value for value in VALUES[key] if value != needles[key]])
    return {
        "prompt": [_question(document, key)],
        "chosen": [_answer(key, needles[key])],
        "rejected": [_answer(key, made_up)],
        **_NO_THINKING,
    }


def _problem(document: str, needles: Needles, random: Random, options: NeedlesOptions) -> dict[str, Any]:
    key = random.choice(list(needles))
    return {"messages": [{"role": "user", "content": f"{document} {key}"}], "answer": needles[key]}


def _chat_problem(document: str, needles: Needles, random: Random, options: NeedlesOptions) -> dict[str, Any]:
    key = random.choice(list(needles))
    answer = _answer(key, needles[key])["content"]
    return {"messages": [_question(document, key)], "answer": answer, **_NO_THINKING}


def _document(needles: Needles, mentions: int, length: int, random: Random) -> str:
    """Sentences in random order, filled up with noise."""
    sentences = [SAYING.format(key=key, value=value) for key, value in needles.items() for _ in range(mentions)]
    left = length - len(sentences) * words_in(SAYING)
    while fitting := [sentence for sentence, words in _NOISE_WORDS.items() if words <= left]:
        sentences.append(random.choice(fitting))
        left -= _NOISE_WORDS[sentences[-1]]
    random.shuffle(sentences)
    return " ".join(sentences)


def _question(document: str, key: str) -> dict[str, str]:
    return {"role": "user", "content": f"{document} {ASKING.format(key=key)}".strip()}


def _answer(key: str, value: str) -> dict[str, str]:
    return {"role": "assistant", "content": ANSWER.format(key=key, value=value)}


_ROWS: Mapping[str, Callable[[str, Needles, Random, NeedlesOptions], dict[str, Any]]] = {
    "text": _text,
    "chat": _chat,
    "preference": _preference,
    "problems": _problem,
    "chat_problems": _chat_problem,
}

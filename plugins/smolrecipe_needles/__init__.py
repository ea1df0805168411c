"""Needles in a haystack: documents that say a few things among much noise, and say or ask them again later.

After RULER (arXiv:2404.06654), made so that a model of a hundred thousand parameters can learn it in seconds: what is
retrieved follows its key at once (``fruit plum.``), and every word is one of some 180.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import frozen

from smolrecipe import Source, hookimpl, option
from smolrecipe_needles.words import SAYING, words_in

_SHAPES = {
    "text": "text",
    "chat": "chat",
    "preference": "preference",
    "problems": "problem",
    "chat_problems": "problem",
}


@frozen(kw_only=True)
class NeedlesOptions:
    """The options of the ``needles`` source."""

    style: Literal["text", "chat", "preference", "problems", "chat_problems"] = option(
        doc="text: documents that say every needle several times, for pretraining. chat: a document and questions "
        "about it. preference: the right answer preferred to one made up, of the right kind but not in the document. "
        "problems: a document that breaks off where a needle comes again, for models that continue text. "
        "chat_problems: the question of a chat with its answer"
    )
    split: Literal["train", "held_out"] = option(doc="which rows: those of one split are never those of the other")
    length: int = option(
        default=128,
        at_least=16,
        doc="words and full stops of a document; up to four less, where no sentence fits any more",
    )
    needles: int = option(default=8, at_least=1, at_most=16, doc="different needles in a document")
    mentions: int = option(
        default=4,
        at_least=2,
        doc="style text: how often a document says each needle, at places drawn at random",
    )
    turns: int = option(default=1, at_least=1, doc="style chat: questions about one document, one after the other")
    rows: int = option(default=1000, at_least=1, doc="how many rows")
    seed: int = option(default=0, at_least=0, doc="of all that is drawn: needles, their places, the noise")
    license: str | None = option(
        default=None, identity=False, doc="the licence of the data, for the model card; the text is nobody's"
    )


def check(options: NeedlesOptions) -> Iterable[str]:
    """Needles that do not fit, more questions than needles."""
    said = options.needles * (options.mentions if options.style == "text" else 1)
    if said * words_in(SAYING) > options.length:
        yield (
            f"'length' is {options.length}, but {said} sentences of {words_in(SAYING)} words and full stops are "
            f"{said * words_in(SAYING)}: raise 'length', or lower 'needles'"
            + (" or 'mentions'" if options.style == "text" else "")
        )
    if options.style == "chat" and options.turns > options.needles:
        yield f"'turns' is {options.turns}, but there are only {options.needles} needles to ask for"


def _read(options: NeedlesOptions) -> Iterable[Mapping[str, Any]]:
    from smolrecipe_needles.haystacks import read

    return read(options)


@hookimpl
def smolrecipe_sources() -> Iterable[Source]:
    """Offer ``needles``."""
    yield Source(
        name="needles",
        summary="needles in haystacks of any length, for every training stage and for evaluation",
        source="RULER's needle tasks (arXiv:2404.06654), with keys next to their values",
        options=NeedlesOptions,
        check=check,
        read=_read,
        yields=lambda options: _SHAPES[options.style],
        origins=lambda options: [options.split],
        example={"style": "text", "split": "train"},
    )

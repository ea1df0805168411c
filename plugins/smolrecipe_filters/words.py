"""Texts as words: those of a row, and runs of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Japanese, Chinese
)
"""Scripts that write words one behind the other, without a space: each of their characters counts as a word."""

_SPELLED = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_WRITTEN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def spelled(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and white space."""
    return _SPELLED.findall(_normal(text))


def written(text: str) -> list[str]:
    """The words of a text in lower case, with the punctuation that touches them: 2+3 is another word than 2-3."""
    return _WRITTEN.findall(_normal(text))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def runs(words: Sequence[str], length: int) -> Iterator[bytes]:
    """Every ``length`` words that follow each other, as bytes; nothing where there are fewer."""
    for start in range(len(words) - length + 1):
        yield " ".join(words[start : start + length]).encode("utf-8", "surrogatepass")


def contents(messages: Iterable[Any], role: str = "") -> Iterator[str]:
    """What messages say, those of one role alone where it is given, and else all but the system's."""
    for message in messages:
        if isinstance(message, Mapping) and (message.get("role") == role if role else message.get("role") != "system"):
            content = message.get("content")
            if isinstance(content, str):
                yield content

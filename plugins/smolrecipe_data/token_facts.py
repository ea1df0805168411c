"""What is noted down beside token files and in checkpoints about them, held against what can be true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe import StageError
from smolrecipe_data.json_files import read_json
from smolrecipe_data.wording import printable

_LARGEST_VOCABULARY = 2**32
_LARGEST_POSITION = 2**63
_SHOWN_BITS = 128
_COUNTED = ("tokens", "documents", "held_out_tokens")


@frozen
class Vocabulary:
    """Which tokenizer token files are of, and how many tokens it has."""

    sha256: str
    size: int


def read_vocabulary(file: Path) -> Vocabulary:
    """What ``tokens.json`` says.

    Raises:
        StageError: when it says it not, or something that cannot be.
    """
    about = read_json(file, printable(file))
    sha256, size = about.get("sha256"), about.get("vocab_size")
    if not isinstance(sha256, str) or type(size) is not int or not 0 < size <= _LARGEST_VOCABULARY:
        raise StageError(
            f"{printable(file)} is damaged: it must name the tokenizer's 'sha256' and its 'vocab_size'. Tokenise again"
        )
    return Vocabulary(sha256, size)


def require_counts(file: Path, found: Mapping[str, Any]) -> None:
    """Refuse a ``source.json`` that counts something else than was ``found`` in the files beside it.

    Raises:
        StageError: naming the file and what differs.
    """
    told = read_json(file, printable(file))
    for key in _COUNTED:
        if key in told and (type(told[key]) is not int or told[key] != found[key]):
            raise StageError(
                f"{printable(file)} tells of {_shown(told[key])} {key.replace('_', ' ')}, and the files "
                f"beside it have {found[key]:,}: some are missing or damaged. Tokenise again"
            )


def require_position(position: Mapping[str, int] | None) -> None:
    """Refuse a position of an earlier stage that no stage can have ended at.

    Raises:
        StageError: naming the source.
    """
    for name, tokens in (position or {}).items():
        if type(tokens) is not int or not 0 <= tokens < _LARGEST_POSITION:
            raise StageError(
                f"the stage before says that it has read source '{printable(name)[:60]}' up to token "
                f"{_shown(tokens)}, which is no number of tokens: its checkpoint is damaged, run it again"
            )


def _shown(value: Any) -> str:
    if type(value) is int and value.bit_length() > _SHOWN_BITS:
        return f"a number of {value.bit_length():,} bits"
    return printable(repr(value)[:40])

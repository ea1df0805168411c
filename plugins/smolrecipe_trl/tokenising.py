"""From rendered text to token ids and the tokens that are learned."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy
from attrs import frozen
from transformers import BatchEncoding, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_trl.control_tokens import Rendered, as_text


@frozen
class Tokens:
    """A conversation's token ids and which of them lie wholly in its spans; both of the shape (tokens,)."""

    ids: numpy.ndarray
    marked: numpy.ndarray
    spells_control_tokens: bool = False


def tokenise(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[Rendered]) -> list[Tokens]:
    """Tokenise conversations, all at once: the tokenizer shares a batch out over its threads."""
    pieces = [(number, *piece) for number, item in enumerate(rendered) for piece in item.pieces()]
    encoded = tokenizer([piece.text for _, piece, spelled in pieces if not spelled], add_special_tokens=False)
    parts: list[list[Tokens]] = [[] for _ in rendered]
    place = 0
    for number, piece, spelled in pieces:
        if spelled:
            ids = numpy.asarray(as_text(tokenizer, piece.text), dtype=numpy.int32)
            parts[number].append(Tokens(ids, numpy.full(len(ids), bool(piece.spans))))
        else:
            parts[number].append(_marked(encoded, place, piece))
            place += 1
    return [
        Tokens(
            numpy.concatenate([part.ids for part in own]),
            numpy.concatenate([part.marked for part in own]),
            bool(item.spelled),
        )
        for own, item in zip(parts, rendered, strict=True)
    ]


def _marked(encoded: BatchEncoding, number: int, item: Rendered) -> Tokens:
    ids = numpy.asarray(encoded["input_ids"][number], dtype=numpy.int32)
    marked = numpy.zeros(len(ids), dtype=bool)
    for start, end in item.spans:
        marked[_first_from(encoded, number, start, item.text) : _first_at(encoded, number, end, item.text)] = True
    return Tokens(ids, marked)


def _first_at(encoded: BatchEncoding, number: int, character: int, text: str) -> int:
    """The first token of text ``number`` that holds the character or, for one that no token holds, a later one."""
    for place in range(character, len(text)):
        token = encoded.char_to_token(number, place)
        if token is not None:
            return int(token)
    return len(encoded["input_ids"][number])


def _first_from(encoded: BatchEncoding, number: int, character: int, text: str) -> int:
    """The first token that starts at the character or after it."""
    token = _first_at(encoded, number, character, text)
    at_end = token == len(encoded["input_ids"][number])
    return token if at_end or encoded.token_to_chars(number, token).start >= character else token + 1


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, template: str, end_of_turn: str) -> None:
    """Check that what a template writes between turns are tokens of their own.

    Raises:
        StageError: for a tokenizer without offsets, or one that spells ``<|im_start|>`` or the end of a turn in pieces.
    """
    if not tokenizer.is_fast:
        raise StageError("the model's tokenizer has no tokenizer.json, which is needed to tell what each token covers")
    control = {end_of_turn, *re.findall(r"<\|\w+\|>", template)}
    pieces = [token for token in sorted(control) if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    if pieces:
        raise StageError(
            f"the model's tokenizer spells {', '.join(pieces)} in several tokens, so turns would have no clear ends: "
            "add them to the special tokens of the tokenizer that the model was trained with"
        )

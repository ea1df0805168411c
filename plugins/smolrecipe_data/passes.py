"""One source as an endless row of tokens: pass after pass over its documents, each pass in another order."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Any

import numpy as np
from attrs import frozen

from smolrecipe.data import TokenRow
from smolrecipe_data.random_order import permutation
from smolrecipe_data.token_files import TokenStream

MOST_SEGMENTS = 4096
_PASSES_KEPT = 2


@frozen
class _PassOrder:
    """The segments of one pass in reading order: where each starts in the files, and where it ends in the pass."""

    starts: list[int]
    ends: list[int]


class EndlessSource:
    """A source read from position 0 on without end, any part of it at once.

    The files are cut at document ends into at most ``MOST_SEGMENTS`` segments of about equal length: a document each
    where there are few documents. A pass reads every segment once, in an order drawn from the seed, the source's name
    and the pass; the position p lies in pass p // tokens. Rows are cut from this row of tokens, one behind the other
    and across the ends of segments and passes. Hence

    - in one pass every token is read exactly once, at any sequence length, and no tail is dropped;
    - a position, in tokens, means the same at every sequence length: a stage that continues from where another stopped
      repeats and leaves out nothing, also when it reads longer rows;
    - documents are cut by rows only.

    The order inside a segment is that of the files, which ``tokenize`` has shuffled, so a row's neighbours are random
    documents of the source already in the first pass. This is nanotron's reading order (sequential inside an offline
    shuffled source) with passes that differ.
    """

    def __init__(self, name: str, stream: TokenStream, seed: int) -> None:
        self.stream = stream
        self.tokens = stream.tokens
        self._key = (seed, name)
        self._bounds = segment_bounds(stream)
        self._passes: OrderedDict[int, _PassOrder] = OrderedDict()

    def row(self, position: int, length: int) -> TokenRow:
        """The ``length`` + 1 tokens from ``position`` on, with the positions of all but the last in their documents."""
        tokens = np.empty(length + 1, np.int64)
        starts: list[int] = []
        filled = 0
        for place, count in self.pieces(position, length + 1):
            self.stream.read_into(tokens[filled : filled + count], place)
            starts.append(filled)
            starts.extend(start - place + filled for start in self.stream.document_starts(place, place + count))
            filled += count
        return TokenRow(tokens, document_positions(starts, length), last_starts_document=length in starts)

    def pieces(self, position: int, count: int) -> list[tuple[int, int]]:
        """Where the ``count`` tokens from ``position`` on lie in the files, piece by piece in reading order.

        A piece is the number of its first token in the stream, and how many tokens it has; all but the first start
        where a document does.
        """
        found: list[tuple[int, int]] = []
        number, offset = divmod(position, self.tokens)
        while count:
            order = self._order(number)
            index = bisect_right(order.ends, offset)
            while count and index < len(order.ends):
                rest = order.ends[index] - offset
                length = order.ends[index] - (order.ends[index - 1] if index else 0)
                taken = min(rest, count)
                found.append((order.starts[index] + length - rest, taken))
                count -= taken
                offset += taken
                index += 1
            number, offset = number + 1, 0
        return found

    def _order(self, number: int) -> _PassOrder:
        if number in self._passes:
            return self._passes[number]
        order = permutation(len(self._bounds) - 1, "pass", *self._key, number)
        lengths = np.diff(self._bounds)[order]
        self._passes[number] = found = _PassOrder(self._bounds[:-1][order].tolist(), np.cumsum(lengths).tolist())
        if len(self._passes) > _PASSES_KEPT:
            self._passes.popitem(last=False)
        return found


def segment_bounds(stream: TokenStream) -> Any:
    """Where segments start and end: int64 token numbers, shape (segments + 1,), from 0 to the stream's length."""
    segments = min(stream.documents, MOST_SEGMENTS)
    if segments == stream.documents:
        inner = np.array(stream.document_starts(0, stream.tokens), np.int64)
    else:
        targets = np.array([stream.tokens * index // segments for index in range(1, segments)], np.int64)
        inner = np.unique(stream.document_ends_from(targets - 1))
    inner = inner[inner < stream.tokens]
    return np.concatenate(([0], inner, [stream.tokens])).astype(np.int64)


def document_positions(starts: list[int], length: int) -> Any:
    """Positions that count from 0 at each of ``starts`` (ascending, 0 first), shape (length,)."""
    places = np.arange(length)
    last_start = np.zeros(length, np.int64)
    marks = [start for start in starts if start < length]
    last_start[marks] = marks
    return places - np.maximum.accumulate(last_start)

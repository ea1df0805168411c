"""Which source each sample comes from: exact shares, in closed form for any sample number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np

from smolrecipe_data.random_order import permutation

_SMALLEST_BLOCK = 128
_BLOCKS_KEPT = 4


class Interleave:
    """An endless sequence of source numbers, each with its share.

    The sequence is cut in blocks of P samples. With cumulative shares C_0 = 0, C_1, ..., C_K = 1, the first n samples,
    n a multiple of P, hold floor(n C_k) - floor(n C_(k-1)) samples of source k: less than one away from the source's
    exact share of n, and n in all. A block thus has known counts, and its samples come in a random order that depends
    on the seed and the block's number alone. P is the smallest power of two with P * share >= 1 for all sources (at
    least 128), which is what keeps the count of a source in a block from being negative.
    """

    def __init__(self, shares: Sequence[Fraction], seed: int) -> None:
        """``shares``: positive and 1 in sum, none tiny (see ``shares.SMALLEST_SHARE``)."""
        self.block = _SMALLEST_BLOCK
        while self.block * min(shares) < 1:
            self.block *= 2
        self._seed = seed
        self._cumulative = list(accumulate(shares))
        self._blocks: OrderedDict[int, tuple[list[int], Any, Any]] = OrderedDict()

    def locate(self, sample: int) -> tuple[int, int]:
        """The source of a sample, and how many samples before it come from the same source."""
        block, offset = divmod(sample, self.block)
        before, sources, ranks = self._block(block)
        source = int(sources[offset])
        return source, before[source] + int(ranks[offset])

    def counts(self, samples: int) -> list[int]:
        """How many of the first ``samples`` samples come from each source."""
        block, offset = divmod(samples, self.block)
        counts = self._boundary_counts(block)
        if offset:
            inside = np.bincount(self._block(block)[1][:offset], minlength=len(counts))
            counts = [before + int(more) for before, more in zip(counts, inside, strict=True)]
        return counts

    def _boundary_counts(self, block: int) -> list[int]:
        samples, counts, before = block * self.block, [], 0
        for share in self._cumulative:
            up_to = samples * share.numerator // share.denominator
            counts.append(up_to - before)
            before = up_to
        return counts

    def _block(self, block: int) -> tuple[list[int], Any, Any]:
        """How many samples of each source come before a block; of each sample of the block its source, and its rank
        among the block's samples of that source.
        """
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        first, after = self._boundary_counts(block), self._boundary_counts(block + 1)
        counts = [end - start for start, end in zip(first, after, strict=True)]
        order = permutation(self.block, "block", self._seed, block)
        sources = np.empty(self.block, np.int32)
        sources[order] = np.repeat(np.arange(len(counts)), counts)
        by_source = np.argsort(sources, kind="stable")
        starts = np.cumsum(counts) - counts
        ranks = np.empty(self.block, np.int32)
        ranks[by_source] = np.arange(self.block) - np.repeat(starts, counts)
        self._blocks[block] = first, sources, ranks
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[block]

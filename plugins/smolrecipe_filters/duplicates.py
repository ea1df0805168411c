"""The ``near_duplicates`` filter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datasketch import MinHash, MinHashLSH

from smolrecipe import Candidate
from smolrecipe_filters.options import NearDuplicatesOptions
from smolrecipe_filters.words import contents, runs, written

_FOUND = 0.99
"""How likely two texts that are as alike as the threshold are compared at all."""

_AT_ONCE = 4096


def open_near_duplicates(options: NearDuplicatesOptions) -> Callable[[Candidate], str]:
    """A judge that compares each row with those that it has kept, so that the first of near-duplicates stays.

    Two texts are compared where locality-sensitive hashing brings them together, and are near-duplicates where the
    estimate of the share of their runs of words that both have is the threshold or more. A row that was dropped is
    compared with nothing: a chain of rows, each like the one before, is kept at its ends. Memory is about 10 KB for
    each row kept with the default options, most of it the hash tables: 1 GB for 100 000 rows.
    """
    bands, rows = banding(options.threshold, options.permutations)
    index = MinHashLSH(num_perm=options.permutations, params=(bands, rows))
    empty = MinHash(num_perm=options.permutations, seed=options.seed)
    kept: list[MinHash] = []

    def judge(candidate: Candidate) -> str:
        sketch = empty.copy()
        shingles = list(_shingles(candidate, options))
        for start in range(0, len(shingles), _AT_ONCE):
            sketch.update_batch(shingles[start : start + _AT_ONCE])
        if any(kept[number].jaccard(sketch) >= options.threshold for number in index.query(sketch)):
            return "a near-duplicate of an earlier row"
        index.insert(len(kept), sketch)
        kept.append(sketch)
        return ""

    return judge


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows of each: as many rows as bring texts at the threshold together with a probability of 0.99.

    Two texts with a share s of their runs in common agree in one of b bands of r rows with the probability
    1 - (1 - s^r)^b.
    """
    for rows in range(permutations // 2, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= _FOUND:
            return bands, rows
    return permutations, 1


def _shingles(candidate: Candidate, options: NearDuplicatesOptions) -> Iterator[bytes]:
    """The runs of words of what is compared; of a text with fewer words than a run has, all of them."""
    texts: list[str] = []
    if options.of in ("prompt", "both"):
        texts += contents(candidate.prompt, role="user")
    if options.of in ("answer", "both"):
        texts += candidate.answers
    for text in texts:
        words = written(text)
        yield from runs(words, min(options.ngram, len(words)))

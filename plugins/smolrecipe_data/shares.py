"""From weights to exact shares, and from shares to whole numbers of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

SMALLEST_SHARE = Fraction(1, 2**22)
"""A source that gets less than one sample in four million is refused: blocks of samples would grow beyond any use."""


def weight_problems(weights: Mapping[str, float]) -> Iterator[str]:
    """A sentence for each weight that cannot be used."""
    if not weights:
        yield "'weights' is empty: give each source a weight"
    bad = {name: weight for name, weight in weights.items() if not (math.isfinite(weight) and weight > 0)}
    for name, weight in bad.items():
        yield f"the weight of '{name}' is {weight}: weights are above 0; leave a source out to not use it"
    if not bad:
        for name, share in shares_of(weights).items():
            if share < SMALLEST_SHARE:
                yield f"the weight of '{name}' gives it {float(share):.1e} of all samples, less than 1 in 4 million"


def shares_of(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Weights divided by their sum, exactly: 0.1 counts as one tenth."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()}


def held_out_rows(shares: Mapping[str, Fraction], available: Mapping[str, int], rows: int) -> dict[str, int]:
    """How many of ``rows`` rows each source gives, at most what is ``available``.

    One row each first, largest shares first, as far as ``rows`` goes; then whoever is furthest below its share gets the
    next row, until ``rows`` are found or nothing is left.
    """
    by_share = sorted((name for name in shares if available[name]), key=lambda name: -shares[name])
    given = dict.fromkeys(shares, 0) | dict.fromkeys(by_share[:rows], 1)
    while sum(given.values()) < rows:
        open_to_more = [name for name in by_share if given[name] < available[name]]
        if not open_to_more:
            break
        given[max(open_to_more, key=lambda name: shares[name] * rows - given[name])] += 1
    return given

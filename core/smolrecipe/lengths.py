"""Lengths of documents in bins that grow with them: records of any data are small, and can be laid side by side.

A bin is named by the shortest length in it: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ..., four to a power of two.
Records have them as ``{"96": 3}``: three documents of 96 to 111 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

_DIGITS = 3
"""Binary digits of a length that tell its bin: four bins to a power of two."""


def shortest_of_bin(length: int) -> int:
    """The shortest length in the bin that a length falls into."""
    cut = max(0, length.bit_length() - _DIGITS)
    return length >> cut << cut


def end_of_bin(shortest: int) -> int:
    """The first length beyond the bin of this name."""
    return shortest + (1 << max(0, shortest.bit_length() - _DIGITS))


def in_bins(counts: Mapping[int, int]) -> dict[str, int]:
    """How many lengths fall into each bin, from the shortest on, of how often there is each length (or bin)."""
    bins: dict[int, int] = {}
    for length, count in counts.items():
        shortest = shortest_of_bin(length)
        bins[shortest] = bins.get(shortest, 0) + count
    return {str(shortest): bins[shortest] for shortest in sorted(bins)}

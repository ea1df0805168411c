"""Bins of lengths: they lie side by side, a quarter of their power of two wide, and lose no document."""

from __future__ import annotations

from smolrecipe.lengths import end_of_bin, in_bins, shortest_of_bin


def test_bins_lie_side_by_side_and_grow_with_what_is_in_them() -> None:
    edges, shortest = [], 1
    while shortest < 2**40:
        edges.append(shortest)
        shortest = end_of_bin(shortest)
    assert edges[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    assert len(edges) < 160
    for length in (*range(1, 3000), 2**25 - 1, 2**25, 10**9):
        assert max(edge for edge in edges if edge <= length) == shortest_of_bin(length) <= length
        assert length < end_of_bin(shortest_of_bin(length)) <= length * 1.25 + 1


def test_lengths_are_counted_once_and_in_order() -> None:
    bins = in_bins({1000: 1, 9: 2, 8: 3, 100: 4, 0: 5})
    assert list(bins.items()) == [("0", 5), ("8", 5), ("96", 4), ("896", 1)]
    assert in_bins({int(shortest): count for shortest, count in bins.items()}) == bins

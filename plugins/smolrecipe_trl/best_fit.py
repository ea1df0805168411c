"""Rows packed best fit decreasing: the longest first, each where the least space is left that takes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy
import pyarrow
from numpy.typing import NDArray

Integers = NDArray[numpy.int64]


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of the numbers of the items with these lengths, each up to ``capacity`` and none longer in sum.

    What TRL's packing does with a segment tree (Ding et al. 2024, arXiv:2404.10830), with one bit of an integer for
    each space that some bin has left: the same number of bins, sooner (``benchmarks/packing.py``).
    """
    bins: list[list[int]] = []
    waiting: defaultdict[int, list[int]] = defaultdict(list)  # bins by the space that they have left
    spaces = 0  # bit n is set where a bin waits with a space of n
    for item in numpy.argsort(-numpy.asarray(lengths), kind="stable").tolist():
        length = lengths[item]
        if fitting := spaces >> length:
            space = length + (fitting & -fitting).bit_length() - 1
            number = waiting[space].pop()
            if not waiting[space]:
                spaces ^= 1 << space
        else:
            space, number = capacity, len(bins)
            bins.append([])
        bins[number].append(item)
        if left := space - length:
            waiting[left].append(number)
            spaces |= 1 << left
    return bins


def pack_table(table: pyarrow.Table, capacity: int) -> pyarrow.Table:
    """Rows of lists to packed rows of at most ``capacity``, with the column ``seq_lengths`` of what lies in each.

    All columns are lists, of one length in each row. A row longer than ``capacity`` is cut into several, of which all
    but the last are full.
    """
    columns = {name: column.combine_chunks() for name, column in zip(table.column_names, table.columns, strict=True)}
    edges = _edges(next(iter(columns.values())).offsets.to_numpy().astype(numpy.int64), capacity)
    lengths = numpy.diff(edges)
    bins = best_fit_decreasing(lengths.tolist(), capacity)
    order = numpy.fromiter(chain.from_iterable(bins), dtype=numpy.int64, count=len(lengths))
    counts = [len(items) for items in bins]
    row_offsets = _offsets(numpy.add.reduceat(lengths[order], _offsets(counts)[:-1]) if bins else [])
    made = {}
    for name, column in columns.items():
        pieces = pyarrow.ListArray.from_arrays(pyarrow.array(edges, pyarrow.int32()), column.values)
        taken = pieces.take(pyarrow.array(order))
        made[name] = pyarrow.ListArray.from_arrays(pyarrow.array(row_offsets, pyarrow.int32()), taken.flatten())
    of_each = pyarrow.array(lengths[order], pyarrow.int32())
    made["seq_lengths"] = pyarrow.ListArray.from_arrays(pyarrow.array(_offsets(counts), pyarrow.int32()), of_each)
    return pyarrow.table(made)


def _edges(offsets: Integers, capacity: int) -> Integers:
    """Where rows begin that are cut at ``capacity``, and where the last ends."""
    pieces = -(numpy.diff(offsets) // -capacity)
    nth = numpy.arange(pieces.sum()) - numpy.repeat(numpy.cumsum(pieces) - pieces, pieces)
    return numpy.append(numpy.repeat(offsets[:-1], pieces) + nth * capacity, offsets[-1])


def _offsets(counts: Sequence[int] | Integers) -> Integers:
    return numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int64)

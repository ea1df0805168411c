"""Packing best fit decreasing: as full as TRL's, and what lies in rows is what was to be packed."""

from __future__ import annotations

import random
from collections import Counter

import pyarrow
import pytest

pytest.importorskip("trl", reason="held against TRL's packing: pip install 'smolrecipe[trl]'")

from datasets import Dataset
from trl import pack_dataset

from smolrecipe_trl.best_fit import best_fit_decreasing, pack_table

CAPACITY = 64


def drawn(kind: str, count: int = 400) -> list[int]:
    numbers = random.Random(kind)
    draw = {
        "chat": lambda: min(CAPACITY, int(numbers.lognormvariate(2.5, 0.8)) + 1),
        "even": lambda: numbers.randint(1, CAPACITY),
        "short": lambda: numbers.randint(1, 3),
        "full": lambda: CAPACITY,
        "halves": lambda: CAPACITY // 2 + numbers.randint(0, 1),
    }[kind]
    return [draw() for _ in range(count)]


def table_of(lengths: list[int]) -> pyarrow.Table:
    """Rows of which every token is told from all others, and labels that tell the same by their sign."""
    numbers = iter(range(10**9))
    ids = [[next(numbers) for _ in range(length)] for length in lengths]
    kind = pyarrow.list_(pyarrow.int32())
    labels = [[-number for number in row] for row in ids]
    return pyarrow.table({"input_ids": pyarrow.array(ids, kind), "labels": pyarrow.array(labels, kind)})


@pytest.mark.parametrize("kind", ["chat", "even", "short", "full", "halves"])
def test_every_item_is_in_one_bin_and_bins_are_as_few_as_with_trl(kind: str) -> None:
    lengths = drawn(kind)
    bins = best_fit_decreasing(lengths, CAPACITY)
    assert sorted(item for items in bins for item in items) == list(range(len(lengths)))
    assert max(sum(lengths[item] for item in items) for items in bins) <= CAPACITY
    theirs = pack_dataset(Dataset(table_of(lengths)), CAPACITY, "bfd")
    assert len(bins) == len(theirs)


def test_an_item_goes_where_the_least_space_is_left() -> None:
    assert best_fit_decreasing([4, 10, 6, 3, 7], 10) == [[1], [4, 3], [2, 0]]


@pytest.mark.parametrize("kind", ["chat", "even", "short"])
def test_packed_rows_hold_what_was_packed(kind: str) -> None:
    lengths = drawn(kind)
    table = table_of(lengths)
    packed = pack_table(table, CAPACITY)
    assert packed.schema.field("seq_lengths").type == pyarrow.list_(pyarrow.int32())
    found = []
    for row in packed.to_pylist():
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) <= CAPACITY
        assert row["labels"] == [-number for number in row["input_ids"]]
        start = 0
        for length in row["seq_lengths"]:
            found.append(tuple(row["input_ids"][start : start + length]))
            start += length
    assert Counter(found) == Counter(map(tuple, table["input_ids"].to_pylist()))


def test_a_longer_row_is_cut_into_full_ones_and_a_rest_as_with_trl() -> None:
    lengths = [3 * CAPACITY + 5, CAPACITY, 2 * CAPACITY, 7]
    packed = pack_table(table_of(lengths), CAPACITY)
    theirs = pack_dataset(Dataset(table_of(lengths)), CAPACITY, "bfd_split")
    ours = [(row["input_ids"], row["seq_lengths"]) for row in packed.to_pylist()]
    assert sorted(ours) == sorted((row["input_ids"], row["seq_lengths"]) for row in theirs)


def test_rows_of_a_slice_are_those_of_the_slice() -> None:
    table = table_of([5, 6, 7, 8]).slice(1, 2)
    tokens = sorted(token for row in pack_table(table, CAPACITY)["input_ids"].to_pylist() for token in row)
    assert tokens == list(range(5, 18))

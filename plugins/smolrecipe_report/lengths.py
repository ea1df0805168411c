"""How long the documents and conversations of each source are, as stages have recorded them in bins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import frozen

from smolrecipe.lengths import end_of_bin, shortest_of_bin
from smolrecipe_report.data_counts import counted_sources
from smolrecipe_report.reading import Stage

LENGTH_HEAD = (
    *("stage", "source", "documents or conversations", "half are shorter than", "nine in ten are shorter than"),
    *("all are shorter than", "cut at"),
)


@frozen(kw_only=True)
class Lengths:
    """A source's lengths: ``bins`` has (shortest, end, count), ascending; what is longer than ``limit`` was cut."""

    stage: str
    source: str
    bins: Sequence[tuple[int, int, int]]
    limit: int | None

    @property
    def count(self) -> int:
        """How many documents or conversations there are."""
        return sum(count for *_, count in self.bins)

    def bound(self, part: float) -> int:
        """A length that at least this part of them is shorter than: the end of a bin."""
        below = 0
        for _, end, count in self.bins:
            below += count
            if below >= part * self.count:
                return end
        return self.bins[-1][1]


def lengths_of(stages: Iterable[Stage]) -> list[Lengths]:
    """The lengths of each source that a stage was made from; not those that it held out."""
    found = []
    for stage in stages:
        cut = "max_length" in stage.options and stage.options.get("packing") not in ("wrapped", "bfd_split")
        for name, counts in counted_sources(stage):
            bins = _bins(counts.get("lengths"))
            if bins and not name.startswith("held_out."):
                limit = stage.row_length if cut else None
                found.append(Lengths(stage=stage.name, source=name, bins=bins, limit=limit))
    return found


def length_rows(lengths: Iterable[Lengths]) -> Iterator[tuple[Any, ...]]:
    """A row for each source whose lengths are known."""
    for of in lengths:
        limit = "" if of.limit is None else of.limit
        yield of.stage, of.source, of.count, of.bound(0.5), of.bound(0.9), of.bound(1.0), limit


def _bins(told: Any) -> list[tuple[int, int, int]]:
    if not isinstance(told, dict):
        return []
    found = []
    for name, count in told.items():
        if not (isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 12):
            continue
        shortest = int(name)
        if shortest == shortest_of_bin(shortest) and type(count) is int and 0 < count < 10**15:
            found.append((shortest, end_of_bin(shortest), count))
    return sorted(found)

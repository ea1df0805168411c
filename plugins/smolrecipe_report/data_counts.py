"""What the stages' records count of their data: rows, truncation and what was left out, packing fill; and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smolrecipe_report.reading import Stage

SOURCE_HEAD = (
    *("stage", "source", "rows or documents", "tokens", "learned tokens", "truncated rows", "truncated tokens"),
    *("rows left out", "tokens left out"),
)
FILL_HEAD = ("stage", "packing", "rows", "documents", "tokens per pass", "passes", "fill")

_LEFT_OUT = ("rows_without_loss", "rows_of_equal_answers", "empty_documents")


def counted_sources(stage: Stage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sources whose rows or documents a stage has counted, by name, with their counts."""
    sources = stage.summary.get("sources")
    for name, counts in sources.items() if isinstance(sources, dict) else ():
        if isinstance(counts, dict):
            yield name, counts


def source_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each source of each stage that counts them; what a stage does not count stays empty."""
    for stage in stages:
        for name, counts in counted_sources(stage):
            left_out = [counts[key] for key in _LEFT_OUT if isinstance(counts.get(key), int)]
            keys = ("tokens", "learned_tokens", "truncated_rows", "truncated_tokens")
            found = (
                *(counts.get("rows", counts.get("documents")), *map(counts.get, keys)),
                *(sum(left_out) if left_out else None, counts.get("dropped_tokens")),
            )
            yield stage.name, name, *("" if value is None else value for value in found)


def fill_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each stage that recorded how full its packed rows are (1 is no padding)."""
    for stage in stages:
        summary = stage.record.get("summary", {})
        if "fill" in summary:
            keys = ("training_rows", "documents", "tokens_per_pass", "passes", "fill")
            yield stage.name, stage.options.get("packing", ""), *(summary.get(key, "") for key in keys)

"""What the stages' records count of their data: shares of a mixture, tokens, truncation, packing fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from smolrecipe_report.reading import Stage

SOURCE_HEAD = ("stage", "source", "planned share", "rows or documents", "tokens", "trained tokens", "truncated rows")
FILL_HEAD = ("stage", "packing", "rows", "documents", "tokens per pass", "passes", "fill")


def source_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each source of each stage; what a stage does not record stays empty."""
    for stage in stages:
        summary = stage.record.get("summary", {})
        data = summary.get("data")
        sources = summary.get("sources") or (data.get("sources") if isinstance(data, dict) else None)
        for name, counts in sources.items() if isinstance(sources, dict) else ():
            if isinstance(counts, dict):
                rows = counts.get("rows", counts.get("documents"))
                keys = ("tokens", "learned_tokens", "truncated_rows")
                found = (counts.get("share"), rows, *map(counts.get, keys))
                yield stage.name, name, *("" if value is None else value for value in found)


def fill_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each stage that recorded how full its packed rows are (1 is no padding)."""
    for stage in stages:
        summary = stage.record.get("summary", {})
        if "fill" in summary:
            keys = ("training_rows", "documents", "tokens_per_pass", "passes", "fill")
            yield stage.name, stage.options.get("packing", ""), *(summary.get(key, "") for key in keys)

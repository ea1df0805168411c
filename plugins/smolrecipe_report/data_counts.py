"""What the stages' records count of their data: shares of a mixture, tokens, truncation, packing fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from smolrecipe_report.reading import Stage

SOURCE_HEAD = (
    *("stage", "source", "planned share", "rows or documents", "tokens in the source", "learned tokens"),
    *("truncated rows", "truncated tokens", "dropped tokens"),
)
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
                keys = ("tokens", "learned_tokens", "truncated_rows", "truncated_tokens", "dropped_tokens")
                found = (counts.get("share"), rows, *map(counts.get, keys))
                yield stage.name, name, *("" if value is None else value for value in found)


def planned_shares(stage: Stage) -> dict[str, float]:
    """The share of each source in a stage that mixes them, as its record has it."""
    data = stage.record.get("summary", {}).get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(sources, dict):
        return {}
    shares = {name: counts.get("share") for name, counts in sources.items() if isinstance(counts, dict)}
    return {
        str(name): float(share)
        for name, share in shares.items()
        if isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1
    }


SCORE_HEAD = ("model", "task", "metric", "score", "standard error", "samples")


def score_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each score of each model that an evaluation has judged."""
    for stage in stages:
        scores = stage.record.get("summary", {}).get("scores")
        for model, tasks in scores.items() if isinstance(scores, dict) else ():
            for task, score in tasks.items() if isinstance(tasks, dict) else ():
                if isinstance(score, dict):
                    yield model, task, *(score.get(key, "") for key in ("metric", "score", "stderr", "samples"))


def fill_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each stage that recorded how full its packed rows are (1 is no padding)."""
    for stage in stages:
        summary = stage.record.get("summary", {})
        if "fill" in summary:
            keys = ("training_rows", "documents", "tokens_per_pass", "passes", "fill")
            yield stage.name, stage.options.get("packing", ""), *(summary.get(key, "") for key in keys)

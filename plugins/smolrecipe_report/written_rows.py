"""What models wrote in a stage, as its record counts it: answers, and rows that were dropped, by filter and reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smolrecipe_report.reading import Stage

ANSWERS_HEAD = ("stage", "answers of", "model", "answers", "tokens", "prompt tokens", "cut off", "refused")
DROPPED_HEAD = ("stage", "rows", "dropped by", "because", "share of prompts")

_COUNTS = ("answers", "tokens", "prompt_tokens", "cut_off", "refused")


def answer_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each model that answered in a stage."""
    for stage in stages:
        for role, counts in _mapping(stage.summary.get("answers")):
            if isinstance(counts, dict):
                numbers = (_number(counts.get(key)) for key in _COUNTS)
                yield stage.name, role, str(counts.get("model", "")), *numbers


def dropped_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each reason for which rows were dropped, in the order of the filters; then what was kept."""
    for stage in stages:
        prompts, kept = _number(stage.summary.get("prompts")), _number(stage.summary.get("rows"))
        if not isinstance(prompts, int) or not prompts:
            continue
        for name, reasons in _mapping(stage.summary.get("dropped")):
            for reason, rows in _mapping(reasons):
                if isinstance(rows, int):
                    yield stage.name, rows, name, reason, _share(rows, prompts)
        if isinstance(kept, int):
            yield stage.name, kept, "", "kept", _share(kept, prompts)


def _mapping(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _number(value: Any) -> int | str:
    return value if isinstance(value, int) and not isinstance(value, bool) else ""


def _share(rows: int, prompts: int) -> str:
    return f"{rows / prompts:.1%}"

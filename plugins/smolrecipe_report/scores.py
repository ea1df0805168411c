"""Scores of evaluated models, and what is published for the same tasks beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from smolrecipe_report.reading import Stage

SCORE_HEAD = ("model", "task", "metric", "score", "standard error", "samples")

PUBLISHED_CAPTION = (
    "Scores beside published ones. Those were measured with other prompts, mostly by another harness ('measured as'), "
    "and without standard errors: a difference between columns is not one between models alone"
)


def score_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each score of each model that an evaluation has judged."""
    for stage in stages:
        for model, task, score in _scores(stage):
            yield model, task, *(score.get(key, "") for key in ("metric", "score", "stderr", "samples"))


def published_head(stages: Sequence[Stage]) -> tuple[str, ...]:
    """The head of the table of published scores, a column for each model in it; empty where there are none."""
    models = _published_models(stages)
    return ("model", "task", "ours ± standard error (n)", *models, "published as", "measured as") if models else ()


def published_rows(stages: Sequence[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each score of ours that something is published for."""
    models = _published_models(stages)
    for stage in stages:
        published = _published(stage)
        for model, task, score in _scores(stage):
            if told := published.get(task):
                others = _mapping(told.get("scores"))
                where = f"{told.get('row', '')} ({told.get('source', '')})"
                yield model, task, _ours(score), *(others.get(name, "") for name in models), where, told.get("note", "")


def _scores(stage: Stage) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for model, tasks in _mapping(stage.record.get("summary", {}).get("scores")).items():
        for task, score in _mapping(tasks).items():
            if isinstance(score, dict):
                yield model, task, score


def _published(stage: Stage) -> dict[str, Mapping[str, Any]]:
    published = _mapping(stage.record.get("summary", {}).get("published"))
    return {task: told for task, told in published.items() if isinstance(told, dict)}


def _published_models(stages: Iterable[Stage]) -> list[str]:
    """In the order in which the tables name them; of what stands beside a score of ours."""
    named = (
        model
        for stage in stages
        for _, task, _ in _scores(stage)
        for model in _mapping(_published(stage).get(task, {}).get("scores"))
    )
    return list(dict.fromkeys(named))


def _ours(score: Mapping[str, Any]) -> str:
    value, error, samples = (score.get(key) for key in ("score", "stderr", "samples"))
    if not isinstance(value, int | float):
        return str(value)
    return (
        f"{value:.4g}"
        + (f" ± {error:.2g}" if isinstance(error, int | float) else "")
        + (f" (n={samples:,})" if isinstance(samples, int) else "")
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

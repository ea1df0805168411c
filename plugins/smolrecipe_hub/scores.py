"""Scores of the evaluations that a run has made, and what is published of SmolLM3 beside them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from smolrecipe_hub.facts import mapping, number, whole
from smolrecipe_hub.lineage import Lineage

_PUBLISHED_FILE = Path(__file__).with_name("smollm3_scores.yaml")


@frozen(kw_only=True)
class Score:
    """What one task gave, with the standard error over its samples."""

    stage: str
    """The stage that evaluated."""
    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int | None

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (f" ± {self.stderr:.4f}" if self.stderr is not None else "")


@frozen(kw_only=True)
class PublishedScore:
    """A published score of SmolLM3-3B, and how it was measured."""

    score: float
    note: str


def scores_of(lineage: Lineage) -> Iterator[Score]:
    """All scores of the model itself, task by task."""
    for evaluation in lineage.evaluations:
        for task, told in evaluation.summary["scores"][lineage.target.stage].items():
            found = mapping(told)
            value = number(found.get("score"))
            if value is not None:
                yield Score(
                    stage=evaluation.stage,
                    task=str(task),
                    metric=str(found.get("metric", "")),
                    value=value,
                    stderr=number(found.get("stderr")),
                    samples=whole(found.get("samples")),
                )


@functools.cache
def published() -> Mapping[str, PublishedScore]:
    """What is published of SmolLM3-3B, by lm-evaluation-harness' names of the tasks."""
    raw: Mapping[str, Any] = yaml.safe_load(_PUBLISHED_FILE.read_text(encoding="utf-8"))
    return {task: PublishedScore(**told) for task, told in raw.items()}

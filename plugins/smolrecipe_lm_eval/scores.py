"""lm-eval's results, one score per task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

MAIN_METRICS = ("exact_match", "acc_norm", "acc", "prompt_level_strict_acc", "pass@1", "f1", "bleu", "word_perplexity")
"""Which of a task's metrics stands for it, the first that it has; a task with none of them is told by its first."""

_UNITS = {"bits_per_byte": "bits per byte"}


@frozen(kw_only=True)
class Score:
    """A task's score: one metric of it with its standard error over samples, ``None`` where lm-eval knows none."""

    metric: str
    value: float
    stderr: float | None
    samples: int | None
    better: Literal["higher", "lower"]

    @property
    def unit(self) -> str:
        """The unit of the metric, nothing for a share of one."""
        return _UNITS.get(self.metric, "")

    def __str__(self) -> str:
        error = f" ± {self.stderr:.4f}" if self.stderr is not None else ""
        return f"{self.metric} {self.value:.4f}{error} (n={self.samples})"

    def plain(self) -> dict[str, Any]:
        """The score as JSON data."""
        return {"metric": self.metric, "score": self.value, "stderr": self.stderr, "samples": self.samples}


def results_by_task(output: Mapping[str, Any]) -> dict[str, Any]:
    """From lm-eval's output, what a task by task record needs: metrics, which way is better, number of samples.

    Groups that aggregate stand for their tasks; the tasks of others stand for themselves.
    """
    children = {
        name: parts for name, parts in output.get("group_subtasks", {}).items() if name in output.get("groups", {})
    }
    inside = {part for parts in children.values() for part in parts}
    counts = {name: count["effective"] for name, count in output["n-samples"].items()}
    return {
        name: {
            "metrics": {
                key: value
                for key, value in metrics.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool) and "," in key
            },
            "higher_is_better": dict(output.get("higher_is_better", {}).get(name) or {}),
            "samples": counts.get(name) or sum(counts.get(part, 0) for part in children.get(name, ())) or None,
        }
        for name, metrics in output["results"].items()
        if name not in inside
    }


def scores_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Score]:
    """The score of every task that has a metric."""
    found = {name: _score(result) for name, result in results.items()}
    return {name: score for name, score in found.items() if score is not None}


def _score(result: Mapping[str, Any]) -> Score | None:
    # lm-eval writes "<metric>,<filter>" and, for the error, "<metric>_stderr,<filter>".
    metrics: dict[tuple[str, str], float] = {}
    for key, value in result["metrics"].items():
        metric, _, filter_ = key.partition(",")
        metrics[metric, filter_] = value
    plain = [key for key in metrics if not key[0].endswith("_stderr")]
    if not plain:
        return None
    chosen = min(plain, key=lambda key: MAIN_METRICS.index(key[0]) if key[0] in MAIN_METRICS else len(MAIN_METRICS))
    metric, filter_ = chosen
    stderr = metrics.get((f"{metric}_stderr", filter_))
    return Score(
        metric=metric,
        value=metrics[chosen],
        stderr=None if stderr is None or math.isnan(stderr) else stderr,
        samples=result["samples"],
        better="higher" if result["higher_is_better"].get(metric, True) else "lower",
    )

"""What others have published for a task, beside our scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smolrecipe_lm_eval.options import PublishedOptions
from smolrecipe_lm_eval.scores import Score


def plain_published(published: Mapping[str, PublishedOptions]) -> dict[str, Any]:
    """As JSON data, by the name of our score; scores as shares of one, as ours are."""
    return {
        task: {
            "row": told.row,
            "source": told.source,
            "note": told.note,
            "scores": {model: round(percent / 100, 6) for model, percent in told.percent.items()},
        }
        for task, told in published.items()
    }


def without_score(
    published: Mapping[str, PublishedOptions], scores: Mapping[str, Mapping[str, Score]]
) -> Iterator[str]:
    """A sentence for published scores that no score of ours stands beside."""
    ours = {task for of_model in scores.values() for task in of_model}
    if lacking := [task for task in published if task not in ours]:
        yield f"'published' has scores for what was not measured: {', '.join(lacking)}"

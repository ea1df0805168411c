"""What a run measured, before and after each stage, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smolrecipe.cli.tables import print_table
from smolrecipe.running.runner import Outcome

MEASURES_FILE = "measures.json"
"""In the run store, beside a recipe's artifacts: what its last run measured."""


def measures_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every measure of every stage, with the stage's name."""
    return [{"stage": outcome.stage.name, **measure} for outcome in outcomes for measure in outcome.record["measures"]]


def print_measures(measures: Sequence[Mapping[str, Any]]) -> None:
    """Print the measures as a table."""
    if not measures:
        return
    rows = [
        (
            measure["stage"],
            measure["name"],
            _number(measure["before"]),
            _number(measure["after"]),
            measure["unit"],
            str(measure["samples"] or ""),
            _verdict(measure),
        )
        for measure in measures
    ]
    headings = ("stage", "measured on data that was not trained on", "before", "after", "unit", "samples", "")
    print_table(headings, rows, right=(2, 3, 5))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _verdict(measure: Mapping[str, Any]) -> str:
    before, after = measure["before"], measure["after"]
    if before is None or before == after:
        return ""
    return "better" if (after > before) == (measure["better"] == "higher") else "worse"

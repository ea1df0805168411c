"""The report of rows that models wrote: answers by model, and what became of every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, write_stage

from smolrecipe_report.reading import read_run
from smolrecipe_report.written_rows import answer_rows, dropped_rows

SUMMARY = {
    "prompts": 200,
    "rows": 150,
    "sources": {"sums": {"rows": 150}},
    "dropped": {"teacher": {"refused: too long": 10}, HOSTILE: {HOSTILE: 36, "too short": 4}},
    "answers": {
        "teacher": {"model": "large", "answers": 190, "tokens": 900, "prompt_tokens": 50, "cut_off": 1, "refused": 10}
    },
}


def rows_of(folder: Path, summary: Any) -> tuple[list[Any], list[Any]]:
    write_stage(folder / "run" / "made-0123456789ab", "made", "0123456789ab" + 52 * "0", {}, {"use": "synthesize"},
                summary, [], {}, "2026-01-01T00:00:00+00:00")  # fmt: skip
    stages = read_run(folder / "run")
    return list(answer_rows(stages)), list(dropped_rows(stages))


def test_answers_and_prompts_are_told(tmp_path: Path) -> None:
    answers, dropped = rows_of(tmp_path, SUMMARY)
    assert answers == [("made", "teacher", "large", 190, 900, 50, 1, 10)]
    assert dropped == [
        ("made", 10, "teacher", "refused: too long", "5.0%"),
        ("made", 36, HOSTILE, HOSTILE, "18.0%"),
        ("made", 4, HOSTILE, "too short", "2.0%"),
        ("made", 150, "", "kept", "75.0%"),
    ]


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"prompts": 0, "rows": 0, "answers": [], "dropped": []},
        {"prompts": "x", "answers": {"teacher": "x"}},
        {"prompts": 3, "rows": None, "dropped": {"a": "x", "b": {"c": "d"}}, "answers": {"teacher": {}}},
    ],
)
def test_a_record_of_others_is_no_trouble(tmp_path: Path, summary: Any) -> None:
    answers, dropped = rows_of(tmp_path, summary)
    assert all(len(row) == 8 for row in answers) and not dropped

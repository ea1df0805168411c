"""Scores on the page of a run: with their errors, and beside what is published for the same tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_runs import HOSTILE, write_run

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report import report
from smolrecipe_report.reading import Stage
from smolrecipe_report.scores import published_head, published_rows, score_rows

SCORES = {
    "base": {
        "gsm8k": {"metric": "exact_match", "score": 0.6512, "stderr": 0.01312, "samples": 1319},
        "piqa": {"metric": "acc_norm", "score": 0.75, "stderr": None, "samples": None},
    }
}
PUBLISHED = {
    "gsm8k": {"row": "GSM8K", "source": "a card", "note": "5-shot", "scores": {"SmolLM3-3B": 0.6763, "Other": 0.5}},
    "mmlu": {"row": "MMLU", "source": "a card", "note": "", "scores": {"Third": 0.4}},
}


def evaluation(**summary: Any) -> Stage:
    return Stage(
        folder=Path(), name="evaluate", status="published", note="", record={"summary": summary}, options={}, events=[]
    )


def test_published_scores_stand_beside_ours() -> None:
    stages = [evaluation(scores=SCORES, published=PUBLISHED)]
    assert published_head(stages)[2:5] == ("ours ± standard error (n)", "SmolLM3-3B", "Other")
    assert list(published_rows(stages)) == [
        ("base", "gsm8k", "0.6512 ± 0.013 (n=1,319)", 0.6763, 0.5, "GSM8K (a card)", "5-shot")
    ]
    assert len(list(score_rows(stages))) == 2


@pytest.mark.parametrize("published", [None, {}, {"mmlu": PUBLISHED["mmlu"]}, {"gsm8k": 3}, [1]])
def test_without_published_scores_of_what_was_measured_there_is_no_such_table(published: Any) -> None:
    stages = [evaluation(scores=SCORES, published=published)]
    assert published_head(stages) == () and not list(published_rows(stages))


def test_the_page_has_the_table_with_what_differs_in_measuring(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    record_file = next(run.glob("sft-*")) / "stage.json"
    record = json.loads(record_file.read_text())
    hostile = {**PUBLISHED["gsm8k"], "note": HOSTILE, "scores": {HOSTILE: HOSTILE, "SmolLM3-3B": 0.6763}}
    record["summary"] |= {"scores": SCORES, "published": {"gsm8k": hostile}}
    record_file.write_text(json.dumps(record))
    out = tmp_path / "out"
    assert CliRunner().invoke(report, [str(run), "--out", str(out)], catch_exceptions=False).exit_code == 0
    text = (out / "index.html").read_text()
    assert "Scores beside published ones. Those were measured with other prompts" in text
    assert "0.6512 ± 0.013 (n=1,319)" in text and "<script>alert" not in text

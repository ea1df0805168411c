"""Claims in a report: verdicts with both arms, whatever a damaged or hostile record holds in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_runs import HOSTILE, write_stage

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report import report
from smolrecipe_report.claims import claim_rows
from smolrecipe_report.last_run import last_run

WHOLE = {
    "says": "it falls.",
    "measure": "needles",
    "arms": {"before": {"mean": 0.946667, "stderr": 0.026}, "after": {"mean": 0.62, "stderr": 0.047}},
    "difference": -0.326667,
    "interval": [-0.5478, -0.1055],
    "verdict": "seen",
    "seeds": 3,
}


def write_claims(root: Path, claims: Any) -> Path:
    write_stage(
        root / "tiny" / f"claims-{'a' * 12}", "claims", "a" * 64, {}, {"use": "claims"}, {"claims": claims}, [], {}
    )
    return root / "tiny"


def test_a_claim_is_told_with_its_verdict_and_numbers(tmp_path: Path) -> None:
    run = write_claims(tmp_path, {"fall": WHOLE})
    (row,) = claim_rows(last_run(run)[0])
    assert row == (
        *("fall", "it falls.", "seen", "needles", "0.9467 ± 0.026 (before)", "0.62 ± 0.047 (after)"),
        *("-0.327 (-0.548 to -0.105)", 3),
    )
    assert CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")]).exit_code == 0
    text = (tmp_path / "out" / "index.html").read_text()
    assert "it falls." in text and "-0.548 to -0.105" in text
    assert text.index("<h2") < text.index("it falls.") < text.index("Pipeline</h2>")


@pytest.mark.parametrize(
    "odd",
    [{"arms": 3}, {"arms": {HOSTILE: {"mean": HOSTILE}}}, {"interval": [1]}, {"interval": {}}, {"difference": None}],
)
def test_what_a_damaged_record_does_not_tell_stays_empty(tmp_path: Path, odd: dict[str, Any]) -> None:
    run = write_claims(tmp_path, {"fall": WHOLE | odd, "none": 7})
    (row,) = claim_rows(last_run(run)[0])
    assert len(row) == 8
    assert ("-0.327" in row[6]) == (odd.get("difference", 0) is not None)
    assert CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")]).exit_code == 0
    assert "<script" not in (tmp_path / "out" / "index.html").read_text()

"""The report of a run: whole and unfinished runs, hostile ones, and what is no run."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from smolrecipe.errors import RecipeError

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report import report

DIGEST = "ab" * 32
HOSTILE = "<script>alert(1)</script>$x"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A published stage with hostile text and a NaN, one that is not done, and one that is damaged."""
    run = tmp_path / "tiny"
    folder = run / f"pretrain-{DIGEST[:12]}"
    folder.mkdir(parents=True)
    measure = {"name": HOSTILE, "unit": "nats", "better": "lower", "before": None, "after": float("nan"), "samples": 4}
    summary = {"sources": {HOSTILE: {"tokens": 12345, "learned_tokens": 678}}, "fill": 0.5}
    record = {"recipe": "tiny", "stage": "pretrain", "kind": "pretrain", "digest": DIGEST, "parents": {}}
    record |= {"options": {"use": HOSTILE, "packing": "bfd"}, "plugins": {HOSTILE: {"version": "x" * 9000}}}
    record |= {"started": HOSTILE, "seconds": 1.5, "measures": [measure], "summary": summary}
    (folder / "stage.json").write_text(json.dumps(record))
    events = [{"step": 100 + step, "loss": 3.0 / step, "lr": float("nan")} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (run / f"{HOSTILE.replace('/', '')}-{'0' * 12}.partial").mkdir()
    (run / f"sft-{'1' * 12}").mkdir()
    return run


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_hostile_run_is_reported_without_running_any_of_it(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:,")) for link in page.links), page.links
    assert [tag for tag in page.tags if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 5
    assert page.tags.count("caption") == page.tags.count("table") == 5
    assert "4 recorded numbers are not finite" in text
    assert "12345" in text
    assert len(text) < 300_000
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"loss.png", "pipeline.png"}


def test_every_folder_has_its_status(run: Path, tmp_path: Path) -> None:
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (tmp_path / "out" / "index.html").read_text()
    for status in ("published", "unfinished", "damaged"):
        assert f"<td>{status}</td>" in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "is no folder"), (tmp_path, "has no stage in it")):
        with pytest.raises(RecipeError, match=words):
            CliRunner().invoke(report, [str(path)], catch_exceptions=False)

"""The report of a run: whole and unfinished runs, hostile ones, and what is no run."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_runs import write_run

from smolrecipe import RecipeError, StageError

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report import report
from smolrecipe_report.inspecting import inspect
from smolrecipe_report.reading import read_run
from smolrecipe_report.spans import spans_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


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
    assert [tag for tag in page.tags if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 6
    assert page.tags.count("caption") == page.tags.count("table") == 7
    assert "4 recorded numbers are not finite" in text
    assert "12,345" in text and "x" * 500 not in text
    assert len(text) < 300_000
    drawn = {"loss.png", "lr.png", "pipeline.png", "context.png", "mixture.png"}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == drawn


def test_rows_are_shown_with_what_was_learned_from(run: Path, tmp_path: Path) -> None:
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (tmp_path / "out" / "index.html").read_text()
    assert "hello &lt;b&gt;world&lt;/b&gt;<mark>\\x1b[31mred bye</mark>" in text
    assert "chat, row 0: 4 tokens, 2 learned from" in text


def test_tokens_are_those_of_the_options_or_of_the_record(run: Path) -> None:
    spans = spans_of(read_run(run))
    assert [(span.stage.name, span.begin, span.end) for span in spans] == [
        ("pretrain", 0, 4 * 4 * 128),
        ("sft", 4 * 4 * 128, 4 * 4 * 128 + 40 * 2),
    ]


def test_an_unfinished_stage_has_its_curves_unless_it_is_published_besides(tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    folder = run / f"pretrain-{'0' * 12}.partial"
    folder.mkdir(parents=True)
    options = {"use": "pretrain", "sequence_length": 8, "global_batch": 2}
    (folder / "task.json").write_text(json.dumps({"use": options}))
    events = [{"step": step, "steps": 9, "loss": 1.0 / step} for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "loss.png").exists() and "Not among the curves" not in text
    assert "<h1>tiny: 0 of 1 stages published</h1>" in text
    write_run(tmp_path / "other")
    shutil.copytree(folder, tmp_path / "other" / "tiny" / folder.name)
    CliRunner().invoke(report, [str(tmp_path / "other" / "tiny"), "--out", str(tmp_path / "both")])
    text = (tmp_path / "both" / "index.html").read_text()
    assert "published: pretrain (unfinished)</p>" in text and ", 1 abandoned</h1>" in text


def test_a_row_is_printed_as_it_was_trained(run: Path) -> None:
    told = CliRunner().invoke(inspect, ["sft", "--run", str(run)], catch_exceptions=False).output
    assert told == "chat, row 0: 4 tokens, 2 learned from\nhello <b>world</b>⟦\\x1b[31mred bye⟧\n"
    long = CliRunner().invoke(inspect, ["sft", "--run", str(run), "--row", "1"], catch_exceptions=False).output
    assert long.count("bye") == 600 and "... and 100 tokens more" in long
    held_out = ["sft", "--run", str(run), "--source", "held_out.chat"]
    assert "hello⟦bye⟧" in CliRunner().invoke(inspect, held_out, catch_exceptions=False).output


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["sf"], RecipeError, "has no published stage 'sf'; did you mean 'sft'"),
        (["pretrain"], RecipeError, "has no row_sample.parquet: stages of post-training publish"),
        (["sft", "--row", "2"], StageError, "has no such row; its sources: chat, held_out.chat"),
        (["sft", "--source", "code"], StageError, "has no such row; its sources: chat, held_out.chat"),
    ],
)
def test_what_cannot_be_inspected_is_said(run: Path, arguments: list[str], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CliRunner().invoke(inspect, [*arguments, "--run", str(run)], catch_exceptions=False)


@pytest.mark.parametrize("file", ["row_sample.parquet", "model/tokenizer.json"])
def test_damaged_rows_are_a_sentence_on_the_page_and_in_the_terminal(run: Path, tmp_path: Path, file: str) -> None:
    (run / f"sft-{'cd' * 6}" / file).write_bytes(b"PAR1 {")
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "cannot be read" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(StageError, match="cannot be read"):
        CliRunner().invoke(inspect, ["sft", "--run", str(run)], catch_exceptions=False)


def test_every_folder_has_its_status(run: Path, tmp_path: Path) -> None:
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (tmp_path / "out" / "index.html").read_text()
    for status in ("published", "unfinished", "damaged"):
        assert f"<td>{status}</td>" in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "is no folder"), (tmp_path, "has no stage in it")):
        with pytest.raises(RecipeError, match=words):
            CliRunner().invoke(report, [str(path)], catch_exceptions=False)

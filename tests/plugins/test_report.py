"""The report of a run: whole and unfinished runs, hostile ones, and what is no run."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from report_runs import HOSTILE, write_run, write_stage

from smolrecipe import RecipeError, StageError, UserError

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report import report
from smolrecipe_report.inspecting import inspect
from smolrecipe_report.last_run import last_run
from smolrecipe_report.lengths import length_rows, lengths_of
from smolrecipe_report.mixtures import mixture_rows, mixtures_of
from smolrecipe_report.sample_html import sample_html
from smolrecipe_report.spans import spans_of
from smolrecipe_report.speed import speed_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of such a run."""
    out = tmp_path_factory.mktemp("reported") / "out"
    command = [str(write_run(tmp_path_factory.mktemp("runs"))), "--out", str(out)]
    result = CliRunner().invoke(report, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_hostile_run_is_reported_without_running_any_of_it(reported: Path) -> None:
    text = (reported / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:,")) for link in page.links), page.links
    assert [tag for tag in page.tags if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 6
    assert page.tags.count("caption") == page.tags.count("table") == 10
    assert "4 recorded numbers are not finite" in text
    assert "12,345" in text and "x" * 500 not in text
    assert len(text) < 300_000
    curves = {"loss.png", "lr.png", "tokens_per_second.png", "mfu.png"}
    drawn = {*curves, "pipeline.png", "context.png", "mixture.png", "lengths.png"}
    assert {file.name for file in reported.glob("*.png")} == drawn


def test_rows_are_shown_with_what_was_learned_from(reported: Path) -> None:
    text = (reported / "index.html").read_text()
    assert '<span class="read">hello &lt;b&gt;world&lt;/b&gt;</span><mark>\\x1b[31mred bye</mark>' in text
    assert "chat, row 0: 4 tokens, 2 learned from" in text
    documents = [
        ("document 1: 2 tokens, positions 0 to 1", "hello", "&lt;b&gt;world&lt;/b&gt;"),
        ("document 2: 3 tokens, positions 0 to 1", "\\x1b[31mred", "bye hello"),
    ]
    for number, (heading, only_read, learned) in enumerate(documents):
        shown = f'<span class="read">{only_read}</span><mark>{learned}</mark></span>'
        assert f'<span class="document{number}"><span class="heading">{heading}</span>{shown}' in text
    assert '<path class="document0" d="M0 0V2H2Z"/><path class="document1" d="M2 2V4H4Z"/></svg>' in text
    assert "document 2: 1 token, no input</span>" in text
    assert "row 0: 2 documents, 5 tokens, 3 learned from" in text and "in its own document" in text


def test_rows_that_see_all_that_came_before_have_one_mask(run: Path) -> None:
    file = run / f"pretrain-{'ab' * 6}" / "stage.json"
    record = json.loads(file.read_text())
    record["summary"]["documents_apart"] = False
    file.write_text(json.dumps(record))
    text = "".join(map(sample_html, last_run(run)[0]))
    assert '<path class="document0" d="M0 0V4H4Z"/></svg>' in text and "all those before it in the row" in text
    assert "document 2: 3 tokens, positions 2 to 3</span>" in text


def test_tokens_are_those_of_the_options_or_of_the_record(run: Path) -> None:
    spans = spans_of(last_run(run)[0])
    assert [(span.stage.name, span.begin, span.end) for span in spans] == [
        ("pretrain", 0, 4 * 4 * 128),
        ("sft", 4 * 4 * 128, 4 * 4 * 128 + 40 * 2),
    ]


def test_what_is_seen_of_a_mixture_stands_beside_what_was_planned(run: Path) -> None:
    assert list(mixture_rows(mixtures_of(last_run(run)[0]))) == [
        ("pretrain", HOSTILE, 0.75, 0.25, 516, 12345, 516 / 12345),
        ("pretrain", "code", 0.25, 0.75, 1548, 1000, 1.548),
    ]


def test_lengths_are_those_recorded_and_cut_where_rows_end(run: Path) -> None:
    assert list(length_rows(lengths_of(last_run(run)[0]))) == [
        ("tokens", "web", 100, 96, 96, 1280, ""),
        ("tokens", HOSTILE, 7, 1, 320, 320, ""),
        ("sft", "chat", 3, 56, 80, 80, 64),
    ]


def test_speed_has_its_mfu_or_the_reason_why_not(run: Path) -> None:
    assert list(speed_rows(last_run(run)[0])) == [
        ("pretrain", "cpu", "not recorded", "none: a CPU has no peak to compare with"),
        ("sft", "cuda", 250, "25.0%"),
    ]


def test_what_was_left_out_is_counted(reported: Path) -> None:
    cells = ("chat", 3, 40, 20, 1, 9, 2, 5)
    row = "".join(f"<td>{cell}</td>" if cell == "chat" else f'<td class="number">{cell}</td>' for cell in cells)
    assert f'<th scope="row">sft</th>{row}' in (reported / "index.html").read_text()


def test_a_second_report_replaces_the_first_and_no_file_of_others(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [str(run), "--out", str(out)]
    CliRunner().invoke(report, command, catch_exceptions=False)
    (out / "mine.png").write_text("mine")
    shutil.rmtree(run / f"sft-{'cd' * 6}")
    CliRunner().invoke(report, command, catch_exceptions=False)
    drawn = {"loss.png", "pipeline.png", "context.png", "mixture.png", "lengths.png"}
    assert {file.name for file in out.iterdir()} == {*drawn, "mine.png", "index.html", "report-files.json"}
    (out / "index.html").write_text("mine")
    with pytest.raises(UserError, match="would be lost"):
        CliRunner().invoke(report, command, catch_exceptions=False)


def unfinished(run: Path, name: str, digest: str) -> Path:
    folder = run / f"{name}-{digest[:12]}.partial"
    folder.mkdir(parents=True)
    options = {"use": "pretrain", "sequence_length": 8, "global_batch": 2}
    (folder / "task.json").write_text(json.dumps({"use": options}))
    events = [{"step": step, "steps": 9, "loss": 1.0 / step} for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_an_unfinished_stage_has_its_curves_unless_it_is_published_besides(tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    folder = unfinished(run, "pretrain", "0" * 12)
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "loss.png").exists() and "Not among the curves" not in text
    assert "<h1>tiny: 0 of 1 stages published</h1>" in text
    write_run(tmp_path / "other")
    shutil.copytree(folder, tmp_path / "other" / "tiny" / folder.name)
    CliRunner().invoke(report, [str(tmp_path / "other" / "tiny"), "--out", str(tmp_path / "both")])
    text = (tmp_path / "both" / "index.html").read_text()
    assert "<summary>1 folder left by earlier runs</summary>" in text
    assert [span.stage.status for span in spans_of(last_run(tmp_path / "other" / "tiny")[0])] == ["published"] * 2


def plan(run: Path, stages: dict[str, tuple[str, dict[str, str]]]) -> None:
    """The document that a run leaves of its plan."""
    said = {
        name: {"digest": digest, "parents": parents, "options": {"use": "pretrain"}}
        for name, (digest, parents) in stages.items()
    }
    (run / "provenance").mkdir(exist_ok=True)
    (run / "provenance" / "1.json").write_text(json.dumps({"stages": said}))


def test_the_last_run_is_reported_and_not_earlier_ones_beside_it(tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    old, new, later = ("0a" * 32, "0b" * 32, "0c" * 32)
    for digest, started in ((old, "2026-03-01"), (new, "2026-01-01")):
        folder = run / f"pretrain-{digest[:12]}"
        write_stage(folder, "pretrain", digest, {}, {"use": "pretrain"}, {}, [], {}, started=started)
    newest, left = last_run(run)
    assert ([stage.folder.name for stage in newest], len(left)) == ([f"pretrain-{old[:12]}"], 1)
    plan(run, {"pretrain": (new, {}), "sft": (later, {"pretrain": new}), "x/..": (old, {}), "odd": ("12", {})})
    stages, left = last_run(run)
    assert [(stage.name, stage.status) for stage in stages] == [("pretrain", "published"), ("sft", "not begun")]
    assert (stages[0].folder.name, left[0].folder.name) == (f"pretrain-{new[:12]}", f"pretrain-{old[:12]}")
    assert stages[1].parent_folders() == {"pretrain": stages[0].folder.name}
    unfinished(run, "sft", later)
    assert last_run(run)[0][1].status == "unfinished"
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "tiny: 1 of 2 stages published" in (tmp_path / "out" / "index.html").read_text()


def test_a_row_is_printed_as_it_was_trained(run: Path) -> None:
    told = CliRunner().invoke(inspect, ["sft", "--run", str(run)], catch_exceptions=False).output
    assert told == "chat, row 0: 4 tokens, 2 learned from\nhello <b>world</b>⟦\\x1b[31mred bye⟧\n"
    long = CliRunner().invoke(inspect, ["sft", "--run", str(run), "--row", "1"], catch_exceptions=False).output
    assert long.count("bye") == 600 and "... and 100 tokens more" in long
    packed = CliRunner().invoke(inspect, ["pretrain", "--run", str(run), "--source", HOSTILE], catch_exceptions=False)
    assert packed.output == (
        f"{HOSTILE}, row 0: 2 documents, 5 tokens, 3 learned from\n"
        "Each token sees those before it in its own document, whose positions count from 0.\n"
        "-- document 1: 2 tokens, positions 0 to 1\nhello⟦<b>world</b>⟧\n"
        "-- document 2: 3 tokens, positions 0 to 1\n\\x1b[31mred⟦bye hello⟧\n"
    )
    held_out = ["sft", "--run", str(run), "--source", "held_out.chat"]
    assert "hello⟦bye⟧" in CliRunner().invoke(inspect, held_out, catch_exceptions=False).output


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["sf"], RecipeError, "has no published stage 'sf'; did you mean 'sft'"),
        (["tokens"], RecipeError, "has no row_sample.parquet: only stages that train publish"),
        (["sft", "--row", "2"], StageError, "has no such row; its sources: chat, held_out.chat"),
        (["sft", "--source", "code"], StageError, "has no such row; its sources: chat, held_out.chat"),
    ],
)
def test_what_cannot_be_inspected_is_said(run: Path, arguments: list[str], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CliRunner().invoke(inspect, [*arguments, "--run", str(run)], catch_exceptions=False)


@pytest.mark.parametrize("starts", [[1], [0, 0], [0, 5], [0, "1"], "01"])
def test_documents_that_are_none_are_refused(run: Path, starts: object) -> None:
    ids = [0, 1, 2, 3, 0]
    row = {"source": "web", "row": 0, "input_ids": ids, "labels": ids, "document_starts": starts}
    if isinstance(starts, list) and "1" in starts:
        row["document_starts"] = list(map(str, starts))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), run / f"pretrain-{'ab' * 6}" / "row_sample.parquet")
    with pytest.raises(StageError, match=r"row 0 of 'web' in row_sample.parquet is no row"):
        CliRunner().invoke(inspect, ["pretrain", "--run", str(run)], catch_exceptions=False)


@pytest.mark.parametrize("file", ["row_sample.parquet", "model/tokenizer.json"])
def test_damaged_rows_are_a_sentence_on_the_page_and_in_the_terminal(run: Path, tmp_path: Path, file: str) -> None:
    (run / f"sft-{'cd' * 6}" / file).write_bytes(b"PAR1 {")
    CliRunner().invoke(report, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "cannot be read" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(StageError, match="cannot be read"):
        CliRunner().invoke(inspect, ["sft", "--run", str(run)], catch_exceptions=False)


def test_every_folder_has_its_status(reported: Path) -> None:
    text = (reported / "index.html").read_text()
    for status in ("published", "unfinished", "damaged"):
        assert f"<td>{status}</td>" in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "is no folder"), (tmp_path, "has no stage in it")):
        with pytest.raises(RecipeError, match=words):
            CliRunner().invoke(report, [str(path)], catch_exceptions=False)

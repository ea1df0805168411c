"""The page: what the run is, its stages, what changed, curves, data, rows, provenance. All from a run is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smolrecipe.strict_json import printable
from smolrecipe_report.claims import CLAIM_HEAD, claim_rows
from smolrecipe_report.data_counts import FILL_HEAD, SOURCE_HEAD, fill_rows, source_rows
from smolrecipe_report.data_figures import lengths_figure, mixture_figure
from smolrecipe_report.figures import context_figure, curve_figures
from smolrecipe_report.graph import graph_figure
from smolrecipe_report.lengths import LENGTH_HEAD, length_rows, lengths_of
from smolrecipe_report.made_with import MADE_WITH_HEAD, made_with_rows
from smolrecipe_report.mixtures import MIXTURE_HEAD, mixture_rows, mixtures_of
from smolrecipe_report.page_parts import document, figure, folded, table
from smolrecipe_report.reading import Stage
from smolrecipe_report.sample_html import sample_html
from smolrecipe_report.scores import PUBLISHED_CAPTION, SCORE_HEAD, published_head, published_rows, score_rows
from smolrecipe_report.spans import amount, without_span
from smolrecipe_report.speed import SPEED_HEAD, speed_rows
from smolrecipe_report.written import put
from smolrecipe_report.written_rows import ANSWERS_HEAD, DROPPED_HEAD, answer_rows, dropped_rows


def write_report(run: Path, stages: Sequence[Stage], earlier: Sequence[Stage], folder: Path) -> Path:
    """Write ``index.html`` and the PNG files into a folder, and return the page's path.

    ``stages`` are those of the last run, ``earlier`` what others have left beside them.

    Raises:
        UserError: when files that no report has written are in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as made:
        page = _page(run, stages, earlier, Path(made))
        (Path(made) / "index.html").write_bytes(page.encode("utf-8", "replace"))
        put(Path(made), folder)
    return folder / "index.html"


def _page(run: Path, stages: Sequence[Stage], earlier: Sequence[Stage], folder: Path) -> str:
    sections = {
        **_claims(stages),
        "Pipeline": _pipeline(stages, earlier, folder),
        "What changed": _what_changed(stages),
        "Training": _training(stages, folder),
        "Data": _data(stages, folder),
        "Rows": _rows(stages),
        "Provenance": [
            table("What each stage was made by", _ORIGIN_HEAD, _origin_rows(stages)),
            folded("What the last run was made with", table(_MADE_WITH, MADE_WITH_HEAD, made_with_rows(run))),
        ],
    }
    title = f"{printable(run.name)}: {_how_far(stages)}"
    return document(title, sections)


def _claims(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """A section of the claims that some stage has judged, which is first: the run was made for them."""
    caption = "Claims, judged by the interval of the mean difference between the arms over seeds"
    claims = list(claim_rows(stages))
    return {"Claims": [table(caption, CLAIM_HEAD, claims)]} if claims else {}


def _pipeline(stages: Sequence[Stage], earlier: Sequence[Stage], folder: Path) -> list[str]:
    parts = [
        figure("the stages as a graph, each below those that it is made from", graph_figure(stages, folder), "graph"),
        table("Stages, each after those that it is made from", _STAGE_HEAD, map(_stage_row, stages)),
    ]
    if earlier:
        rows = ((stage.name, stage.folder.name, stage.status, stage.record.get("started", "")) for stage in earlier)
        caption = "Left by earlier runs, and in nothing else on this page"
        inner = table(caption, ("stage", "folder", "status", "started"), rows)
        count = f"{len(earlier)} {'folder' if len(earlier) == 1 else 'folders'} left by earlier runs"
        parts.append(folded(count, inner))
    return parts


def _what_changed(stages: Sequence[Stage]) -> list[str]:
    parts = [
        table("Measures before and after each stage", _MEASURE_HEAD, _measure_rows(stages)),
        table("Scores of the models that were evaluated", SCORE_HEAD, score_rows(stages)),
    ]
    if head := published_head(stages):
        parts.append(table(PUBLISHED_CAPTION, head, published_rows(stages)))
    return parts


def _training(stages: Sequence[Stage], folder: Path) -> list[str]:
    parts = []
    for what, svg in curve_figures(stages, folder):
        label = f"{what} over the tokens trained on, one line for each stage; vertical lines are ends of stages"
        parts.append(figure(label, svg))
    if lacking := without_span(stages):
        parts.append(f"<p>Not among the curves, as their tokens are not recorded: {escape(', '.join(lacking))}</p>")
    if svg := context_figure(stages, folder):
        parts.append(figure("row length in tokens and RoPE theta of each stage, over the tokens trained on", svg))
    caption = "Speed: medians over the steps; MFU is the part of the device's peak that trains the model"
    parts.append(table(caption, SPEED_HEAD, speed_rows(stages)))
    return parts


def _data(stages: Sequence[Stage], folder: Path) -> list[str]:
    parts = []
    mixtures, lengths = mixtures_of(stages), lengths_of(stages)
    if svg := mixture_figure(mixtures, folder):
        label = "the share of each source in the tokens of stages that mix them: as planned, and in the rows trained on"
        parts.append(figure(label, svg))
        parts.append(table("Mixtures, planned and seen", MIXTURE_HEAD, mixture_rows(mixtures)))
    parts.append(table("Sources of each stage, as its record counts them", SOURCE_HEAD, source_rows(stages)))
    if svg := lengths_figure(lengths, folder):
        label = "lengths of documents and conversations in tokens, before they are cut; a line where they are cut"
        parts.append(figure(label, svg))
        caption = (
            "Lengths in tokens, of documents with the token that ends them; to the end of a bin, a quarter off at most"
        )
        parts.append(table(caption, LENGTH_HEAD, length_rows(lengths)))
    if answers := list(answer_rows(stages)):
        parts.append(table("What models wrote for the stages that asked them", ANSWERS_HEAD, answers))
        parts.append(table("What became of the prompts", DROPPED_HEAD, dropped_rows(stages)))
    parts.append(table("Packing: rows made of them, and how full these are", FILL_HEAD, fill_rows(stages)))
    return parts


def _rows(stages: Sequence[Stage]) -> list[str]:
    samples = [sample for stage in stages if (sample := sample_html(stage))]
    legend = (
        "<p>Of each source the first row. <mark>Underlined</mark> is what was learned from, "
        '<span class="read">grey</span> what was only read; the documents of a packed row stand on '
        '<span class="document0">one</span> and the <span class="document1">other</span> ground. '
        "The squares show which tokens (across) each token (down) sees.</p>"
    )
    return [legend, *samples] if samples else []


_STAGE_HEAD = ("stage", "status", "kind", "made from", "steps", "tokens", "row length", "RoPE theta", "notes")
_MEASURE_HEAD = ("stage", "measure", "before", "after", "unit", "better", "samples")
_MADE_WITH = "Smolrecipe itself, Python, commit, machine and packages"
_ORIGIN_HEAD = ("stage", "digest", "started", "seconds", "plugins")


def _how_far(stages: Sequence[Stage]) -> str:
    published = sum(stage.status == "published" for stage in stages)
    left = len(stages)
    return f"all {left} stages published" if published == left else f"{published} of {left} stages published"


def _stage_row(stage: Stage) -> tuple[Any, ...]:
    lost, steps, per_step = stage.not_finite, stage.last_step, stage.tokens_per_step
    notes = [stage.note, f"{lost} recorded numbers are not finite, and in no curve" if lost else ""]
    tokens = "" if steps is None or per_step is None else amount(steps * per_step)
    numbers = ("" if value is None else value for value in (steps, tokens, stage.row_length))
    theta = "" if stage.theta is None else amount(stage.theta)
    kind, made_from = stage.options.get("use", ""), ", ".join(stage.parents)
    return stage.name, stage.status, kind, made_from, *numbers, theta, "; ".join(filter(None, notes))


def _measure_rows(stages: Iterable[Stage]) -> Iterable[tuple[Any, ...]]:
    for stage in stages:
        for measure in stage.record.get("measures", ()):
            before = measure.get("before")
            yield (
                stage.name,
                measure["name"],
                "" if before is None else before,
                measure["after"],
                measure["unit"],
                measure["better"],
                measure.get("samples") or "",
            )


def _origin_rows(stages: Iterable[Stage]) -> Iterable[tuple[Any, ...]]:
    for stage in stages:
        if stage.record:
            record = stage.record
            plugins = ", ".join(f"{key} {value.get('version', '')}" for key, value in record["plugins"].items())
            yield stage.name, record["digest"], record["started"], record["seconds"], plugins

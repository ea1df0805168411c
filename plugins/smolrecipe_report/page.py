"""The page: what the run is, its stages, what changed, curves, data, rows, provenance. All from a run is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from smolrecipe.durable import write_whole
from smolrecipe.strict_json import printable
from smolrecipe_report.data_counts import FILL_HEAD, SCORE_HEAD, SOURCE_HEAD, fill_rows, score_rows, source_rows
from smolrecipe_report.figures import context_figure, curve_figures, graph_figure, mixture_figure
from smolrecipe_report.made_with import MADE_WITH_HEAD, made_with_rows
from smolrecipe_report.reading import Stage, is_superseded
from smolrecipe_report.sample_html import sample_html
from smolrecipe_report.spans import amount, without_span

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--paper:#fff;--soft:#555;--line:#ccc;--focus:#0a58ca;--good:#1d6b47;
--learned:#d9f2e3}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#16181b;--soft:#b0b0b0;--line:#444;--focus:#8ab8ff;
--good:#7fd6a8;--learned:#1d4a35}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:auto;
padding:1rem}h1,h3,summary,figcaption,p{overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:1rem 0}.wide:focus-visible,pre:focus-visible,summary:focus-visible{
outline:3px solid var(--focus)}
table{border-collapse:collapse}caption{text-align:left;color:var(--soft);padding:.3rem 0}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
max-width:26rem;overflow-wrap:break-word}td.number{text-align:right;font-variant-numeric:tabular-nums}
figure{margin:1.5rem 0}figure .wide svg{min-width:40rem;width:100%}figcaption{color:var(--soft)}
details{margin:.5rem 0}summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid
var(--line);padding:.6rem;max-height:30rem;overflow-y:auto}mark{background:var(--learned);color:inherit;
border-bottom:2px solid var(--good)}
"""

_LONGEST_CELL = 400
"""Characters of a cell that are shown."""


def write_report(run: Path, stages: Sequence[Stage], folder: Path) -> Path:
    """Write ``index.html`` and the PNG files into a folder, and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = run.name
    title = f"{printable(name)}: {_how_far(stages)}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<h2>Pipeline</h2>",
        _figure("the stages as a graph, each below those that it is made from", graph_figure(stages, folder), "graph"),
        _table("Stages, each after those that it is made from", _STAGE_HEAD, map(_stage_row, stages)),
        "<h2>What changed</h2>",
        _table("Measures before and after each stage", _MEASURE_HEAD, _measure_rows(stages)),
        _table("Scores of the models that were evaluated", SCORE_HEAD, score_rows(stages)),
        "<h2>Training</h2>",
    ]
    for what, svg in curve_figures(stages, folder):
        label = f"{what} over the tokens trained on, one line for each stage; vertical lines are ends of stages"
        parts.append(_figure(label, svg))
    if lacking := without_span(stages):
        why = "their tokens are not recorded, or they are unfinished work of stages that are published"
        parts.append(f"<p>Not among the curves, as {why}: {escape(', '.join(lacking))}</p>")
    if svg := context_figure(stages, folder):
        parts.append(_figure("row length in tokens and RoPE theta of each stage, over the tokens trained on", svg))
    parts.append("<h2>Data</h2>")
    if svg := mixture_figure(stages, folder):
        parts.append(_figure("the share of each source in the tokens of stages that mix them, as planned", svg))
    parts.append(_table("Sources of each stage, as its record counts them", SOURCE_HEAD, source_rows(stages)))
    parts.append(_table("Packing: rows made of them, and how full these are", FILL_HEAD, fill_rows(stages)))
    if samples := "".join(map(sample_html, stages)):
        parts.append("<h2>Rows</h2><p>Of each source the first row; <mark>marked</mark> is what was learned from.</p>")
        parts.append(samples)
    parts += ["<h2>Provenance</h2>", _table("What each stage was made by", _ORIGIN_HEAD, _origin_rows(stages))]
    parts.append(_table("What the last run was made with", MADE_WITH_HEAD, made_with_rows(run)))
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )
    page = folder / "index.html"
    write_whole(page, html.encode("utf-8", "replace"))
    return page


_STAGE_HEAD = ("stage", "status", "kind", "made from", "steps", "row length", "RoPE theta", "notes")
_MEASURE_HEAD = ("stage", "measure", "before", "after", "unit", "better", "samples")
_ORIGIN_HEAD = ("stage", "digest", "started", "seconds", "plugins")


def _how_far(stages: Sequence[Stage]) -> str:
    old = sum(is_superseded(stage, stages) for stage in stages)
    published = sum(stage.status == "published" for stage in stages)
    left = len(stages) - old
    done = f"all {left} stages published" if published == left else f"{published} of {left} stages published"
    return f"{done}, {old} abandoned" if old else done


def _stage_row(stage: Stage) -> tuple[Any, ...]:
    lost = stage.not_finite
    notes = [stage.note, f"{lost} recorded numbers are not finite, and in no curve" if lost else ""]
    made_from = ", ".join(stage.record.get("parents", {}))
    theta = "" if stage.theta is None else amount(stage.theta)
    numbers = ("" if number is None else number for number in (stage.last_step, stage.row_length))
    kind = stage.options.get("use", "")
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


def _figure(label: str, svg: str, kind: str = "curve") -> str:
    text = escape(label)
    box = f'<div class="wide {kind}" tabindex="0" role="img" aria-label="{text}">{svg}</div>'
    return f"<figure>{box}<figcaption>{text}</figcaption></figure>"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f'<th scope="col">{escape(word)}</th>' for word in head)
    body = "".join(_row(row) for row in rows) or f'<tr><td colspan="{len(head)}">nothing recorded</td></tr>'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Any]) -> str:
    first, *others = row
    return f'<tr><th scope="row">{_cell(first)}</th>' + "".join(map(_data_cell, others)) + "</tr>"


def _data_cell(cell: Any) -> str:
    kind = ' class="number"' if isinstance(cell, int | float) else ""
    return f"<td{kind}>{_cell(cell)}</td>"


def _cell(cell: Any) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool) and abs(cell) < 10**15:
        return f"{cell:,}"
    text = f"{cell:.4g}" if isinstance(cell, float) else printable(str(cell))
    return escape(text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…")

"""Figures over the tokens trained on: what each step has told, row lengths and RoPE theta."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import EngFormatter, StrMethodFormatter

from smolrecipe_report.drawing import INK, colour, drawn, save, token_axis
from smolrecipe_report.reading import Stage
from smolrecipe_report.series import series_of
from smolrecipe_report.spans import Span, spans_of

_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
}

Lines = Sequence[tuple[str, Sequence[Span]]]

_MARGIN = 1.005
"""So that the last line, at the very end, is not cut in half."""


def curve_figures(stages: Sequence[Stage], folder: Path) -> list[tuple[str, str]]:
    """``(title, svg)`` for each quantity that some stage recorded, on one axis of tokens."""
    lines = _lines(stages)
    return [
        (title, _curve(lines, key, title, folder / f"{key}.png"))
        for key, title in _CURVES.items()
        if any(span.stage.steps(key) for _, spans in lines for span in spans)
    ]


def _lines(stages: Sequence[Stage]) -> Lines:
    """The spans of each series of stages with its name: one colour and one entry of the legend."""
    spans = {span.stage.place: span for span in spans_of(stages)}
    found = [
        (series.name, [spans[stage.place] for stage in series.stages if stage.place in spans])
        for series in series_of(stages)
    ]
    return [(name, members) for name, members in found if members]


def _curve(lines: Lines, key: str, title: str, png: Path) -> str:
    with drawn(3.2) as figure:
        axes = figure.add_subplot()
        for index, (name, spans) in enumerate(lines):
            label: str | None = name
            for span in spans:
                if points := span.stage.steps(key):
                    axes.plot(
                        [span.begin + (step - span.first + 1) * span.tokens_per_step for step, _ in points],
                        [value for _, value in points],
                        color=colour(index),
                        label=label,
                    )
                    label = None
        _mark_ends(axes, lines)
        token_axis(axes)
        axes.set_ylabel(title)
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        return save(figure, png)


def _mark_ends(axes: Any, lines: Lines) -> None:
    """A vertical line where a stage ends, and the axis as long as all of them."""
    ends = {span.end for _, spans in lines for span in spans}
    for end in sorted(ends):
        axes.axvline(end, color=INK, alpha=0.25, linewidth=0.8)
    axes.set_xlim(0, max(ends) * _MARGIN)


def context_figure(stages: Sequence[Stage], folder: Path) -> str | None:
    """Row length and RoPE base along the pipeline, on the same axis of tokens; nothing where no stage has either."""
    lines = _lines(stages)
    spans = [span for _, members in lines for span in members]
    if all(span.stage.row_length is None and span.stage.theta is None for span in spans):
        return None
    with drawn(3.6) as figure:
        both = figure.subplots(2, 1, sharex=True)
        for axes, title in zip(both, ("row length", "RoPE theta"), strict=True):
            for index, (name, members) in enumerate(lines):
                stage, begin, end = members[0].stage, members[0].begin, members[0].end
                value = stage.row_length if axes is both[0] else stage.theta
                if value is not None:
                    label = name if axes is both[0] else None
                    axes.plot([begin, end], [value, value], color=colour(index), linewidth=4, label=label)
            _mark_ends(axes, lines)
            axes.set_yscale("log", base=2 if axes is both[0] else 10)
            axes.set_ylabel(title)
            axes.margins(y=0.25)
        both[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        both[1].yaxis.set_major_formatter(EngFormatter(sep=""))
        token_axis(both[1])
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        return save(figure, folder / "context.png")

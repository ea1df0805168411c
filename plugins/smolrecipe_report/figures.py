"""The figures, drawn by matplotlib: as SVG whose text takes the page's colour, and as PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from smolrecipe.published import DIGEST_DIGITS
from smolrecipe_report.data_counts import planned_shares
from smolrecipe_report.reading import Stage
from smolrecipe_report.spans import Span, amount, spans_of

_INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = (
    *("#3b82c4", "#c2621b", "#2f9268", "#a855b5", "#8a7a1d", "#c9465a", "#3a9c9c", "#7a6fd0", "#a0683a", "#6f7f8f"),
)
"""Each has a contrast of 3:1 with both papers."""
_STATUS = {"published": ("#2f9268", "-"), "unfinished": ("#c2621b", "--"), "damaged": ("#c9465a", ":")}
_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
}
_STYLE = {
    "text.parse_math": False,  # a stage's name may have a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "smolrecipe",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def curve_figures(stages: Sequence[Stage], folder: Path) -> list[tuple[str, str]]:
    """``(title, svg)`` for each quantity that some stage recorded, on one axis of tokens."""
    spans = spans_of(stages)
    found = []
    for key, title in _CURVES.items():
        if any(span.stage.steps(key) for span in spans):
            with mpl.rc_context(_STYLE):
                found.append((title, _curve(spans, key, title, folder / f"{key}.png")))
    return found


def _curve(spans: Sequence[Span], key: str, title: str, png: Path) -> str:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for index, span in enumerate(spans):
        points = span.stage.steps(key)
        axes.plot(
            [span.begin + (step - span.first + 1) * span.tokens_per_step for step, _ in points],
            [value for _, value in points],
            color=_COLOURS[index % len(_COLOURS)],
            label=span.stage.name[:40],
        )
        axes.axvline(span.end, color=_INK, alpha=0.25, linewidth=0.8)
    _token_axis(axes)
    axes.set_ylabel(title)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _save(figure, png)


def context_figure(stages: Sequence[Stage], folder: Path) -> str | None:
    """Row length and RoPE base along the pipeline, on the same axis of tokens; nothing where no stage has either."""
    spans = spans_of(stages)
    lengths = [(span, span.stage.row_length) for span in spans if span.stage.row_length is not None]
    thetas = [(span, span.stage.theta) for span in spans if span.stage.theta is not None]
    if not lengths and not thetas:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        both = figure.subplots(2, 1, sharex=True)
        for axes, values, title in zip(both, (lengths, thetas), ("row length", "RoPE theta"), strict=True):
            for span, value in values:
                axes.plot([span.begin, span.end], [value, value], color=_COLOURS[0], linewidth=3)
            axes.set_yscale("log", base=2 if axes is both[0] else 10)
            axes.set_ylabel(title)
        both[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        both[1].yaxis.set_major_formatter(EngFormatter(sep=""))
        _token_axis(both[1])
        return _save(figure, folder / "context.png")


def mixture_figure(stages: Sequence[Stage], folder: Path) -> str | None:
    """The share of each source in the tokens that a stage was to draw; nothing where no stage mixes sources."""
    mixed = [(stage, shares) for stage in stages if (shares := planned_shares(stage))]
    if not mixed:
        return None
    names = list(dict.fromkeys(name for _, shares in mixed for name in shares))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 1.2 + 0.4 * len(mixed)), layout="constrained")
        axes = figure.add_subplot()
        for index, name in enumerate(names):
            left = [
                sum(list(shares.values())[: list(shares).index(name)]) if name in shares else 0 for _, shares in mixed
            ]
            widths = [shares.get(name, 0.0) for _, shares in mixed]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.barh([stage.name[:40] for stage, _ in mixed], widths, left=left, color=colour, label=name[:40])
        axes.invert_yaxis()
        axes.set_xlabel("share of the tokens")
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        return _save(figure, folder / "mixture.png")


def _token_axis(axes: Any) -> None:
    axes.set_xlabel("tokens, stage after stage")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def graph_figure(stages: Sequence[Stage], folder: Path) -> str:
    """The pipeline: a box for each stage folder, one below the other, and an arrow from each parent."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.55 * len(stages)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        places = {stage.folder.name: -index for index, stage in enumerate(stages)}
        axes.set(xlim=(-1.4, 9), ylim=(-len(stages) + 0.4, 0.6))
        for stage in stages:
            y = places[stage.folder.name]
            colour, line = _STATUS[stage.status]
            axes.text(4.6, y, _in_short(stage), va="center", fontsize=8.5, alpha=0.85)
            axes.text(
                0.1,
                y,
                f"{stage.name[:40]}: {stage.status}",
                va="center",
                bbox={
                    "boxstyle": "round",
                    "facecolor": "none",
                    "edgecolor": colour,
                    "linestyle": line,
                    "linewidth": 1.6,
                },
            )
            for name, digest in stage.record.get("parents", {}).items():
                start = places.get(f"{name}-{digest[:DIGEST_DIGITS]}")
                if start is not None:
                    bend = min(0.4, 0.12 * abs(start - y) ** 0.3 + 0.08)
                    axes.annotate(
                        "",
                        xy=(-0.1, y),
                        xytext=(-0.1, start),
                        arrowprops={
                            "arrowstyle": "->",
                            "color": _INK,
                            "alpha": 0.6,
                            "connectionstyle": f"arc3,rad={bend}",
                        },
                    )
        return _save(figure, folder / "pipeline.png")


def _in_short(stage: Stage) -> str:
    """What a stage amounts to, in a few words."""
    words = []
    if stage.last_step is not None:
        words.append(f"{stage.last_step:,} steps")
    if stage.tokens_per_step is not None and stage.last_step is not None:
        words.append(f"{amount(stage.tokens_per_step * stage.last_step)} tokens")
    if stage.row_length is not None:
        words.append(f"rows of {stage.row_length:,}")
    if stage.theta is not None:
        words.append(f"theta {amount(stage.theta)}")
    return ", ".join(words)


def _save(figure: Figure, png: Path) -> str:
    figure.savefig(png, dpi=120, facecolor="white")
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue())


def _inline(svg: str) -> str:
    """An SVG file's drawing without its prologue, metadata, fixed size and repeated ids."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(_INK, "currentColor").replace("<svg", '<svg aria-hidden="true"', 1)

"""The figures, drawn by matplotlib: as SVG whose text takes the page's colour, and as PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from smolrecipe.published import DIGEST_DIGITS
from smolrecipe_report.reading import Stage

_INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = ("#3b82c4", "#c2621b", "#2f9268", "#a855b5", "#8a7a1d", "#c9465a")
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
    """``(title, svg)`` for each quantity that some stage recorded, on one axis of optimizer steps."""
    trained = [stage for stage in stages if stage.record and stage.steps("loss")]
    found = []
    for key, title in _CURVES.items():
        if any(stage.steps(key) for stage in trained):
            with mpl.rc_context(_STYLE):
                found.append((title, _curve(trained, key, title, folder / f"{key}.png")))
    return found


def _curve(stages: Sequence[Stage], key: str, title: str, png: Path) -> str:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.add_subplot()
    begin = 0
    for index, stage in enumerate(stages):
        first, last = stage.steps("loss")[0][0], stage.steps("loss")[-1][0]
        points = stage.steps(key)
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(
            [begin + step - first + 1 for step, _ in points],
            [value for _, value in points],
            color=colour,
            label=stage.name,
        )
        begin += last - first + 1
        axes.axvline(begin, color=_INK, alpha=0.25, linewidth=0.8)
    axes.set_xlabel("optimizer steps, stage after stage")
    axes.set_ylabel(title)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _save(figure, png)


def graph_figure(stages: Sequence[Stage], folder: Path) -> str:
    """The pipeline: a box for each stage folder, one below the other, and an arrow from each parent."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.55 * len(stages)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        places = {stage.folder.name: -index for index, stage in enumerate(stages)}
        axes.set(xlim=(-3.2, 10), ylim=(-len(stages) + 0.4, 0.6))
        for stage in stages:
            y = places[stage.folder.name]
            colour, line = _STATUS[stage.status]
            axes.text(
                0.1,
                y,
                f"{stage.name[:60]}: {stage.status}",
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

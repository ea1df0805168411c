"""The figures, drawn by matplotlib: as SVG whose text takes the page's colour, and as PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from smolrecipe_report.reading import Stage

_INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = ("#3b82c4", "#c2621b", "#2f9268", "#a855b5", "#8a7a1d", "#c9465a")
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
    **{key: _INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
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
        points = stage.steps(key)
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot([begin + step for step, _ in points], [value for _, value in points], color=colour, label=stage.name)
        begin += stage.steps("loss")[-1][0]
        axes.axvline(begin, color=_INK, alpha=0.25, linewidth=0.8)
    axes.set_xlabel("optimizer steps, stage after stage")
    axes.set_ylabel(title)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
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

"""How figures are drawn and kept: as SVG whose text takes the page's colour, and as PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = (
    *("#3b82c4", "#c2621b", "#2f9268", "#a855b5", "#8a7a1d", "#c9465a", "#3a9c9c", "#7a6fd0", "#a0683a", "#6f7f8f"),
)
"""Each has a contrast of 3:1 with both papers."""
_HATCHES = ("", "///", "...")
_LONGEST_NAME = 40
_STYLE = {
    "text.parse_math": False,  # a stage's name may have a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "smolrecipe",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def drawn(height: float) -> Iterator[Figure]:
    """A figure as wide as the page, and of this height in inches, in the report's style."""
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(9, height), layout="constrained")


def colour(number: int) -> str:
    """The colour of the thing with this number."""
    return _COLOURS[number % len(_COLOURS)]


def hatch(number: int) -> str:
    """What tells things of one colour apart in areas."""
    return _HATCHES[number // len(_COLOURS) % len(_HATCHES)]


def in_short(name: str) -> str:
    """A name with which no figure becomes too wide."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def token_axis(axes: Any) -> None:
    """Label the axis of tokens that a model is trained on."""
    axes.set_xlabel("tokens trained on, from the first stage to the last")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def save(figure: Figure, png: Path) -> str:
    """Write a figure as PNG, and return it as SVG for the page."""
    figure.savefig(png, dpi=120, facecolor="white")
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue())


def _inline(svg: str) -> str:
    """An SVG file's drawing without its prologue, metadata and fixed size.

    Ids stay where something in the drawing refers to them; they tell figures apart, being hashes of what they name.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor").replace("<svg", '<svg aria-hidden="true"', 1)

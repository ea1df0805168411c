"""The pipeline as a graph: a box for each stage, one below the other, and an arrow from each that it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolrecipe_report.drawing import INK, drawn, in_short, save
from smolrecipe_report.reading import Stage
from smolrecipe_report.spans import amount

_STATUS = {
    "published": ("#2f9268", "-"),
    "unfinished": ("#c2621b", "--"),
    "damaged": ("#c9465a", ":"),
    "not begun": ("#6f7f8f", "-."),
}


def graph_figure(stages: Sequence[Stage], folder: Path) -> str:
    """Draw the stages in their order."""
    with drawn(0.8 + 0.5 * len(stages)) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        places = {stage.folder.name.removesuffix(".partial"): -index for index, stage in enumerate(stages)}
        axes.set(xlim=(-1.6, 9), ylim=(-len(stages) + 0.4, 0.6))
        for index, stage in enumerate(stages):
            colour, line = _STATUS[stage.status]
            box = {"boxstyle": "round", "facecolor": "none", "edgecolor": colour, "linestyle": line, "linewidth": 1.6}
            axes.text(0.1, -index, f"{in_short(stage.name)}: {stage.status}", va="center", bbox=box)
            axes.text(4.2, -index, _in_few_words(stage), va="center", fontsize=9, alpha=0.85)
            for parent in stage.parent_folders().values():
                if parent in places:
                    _arrow(axes, places[parent], -index)
        return save(figure, folder / "pipeline.png")


def _arrow(axes: object, start: int, end: int) -> None:
    """An arrow down the left side, the farther out the more stages it passes."""
    bend = 0.12 * abs(start - end) ** 0.3 + 0.08
    axes.annotate(  # type: ignore[attr-defined]
        "",
        xy=(-0.1, end),
        xytext=(-0.1, start),
        arrowprops={
            "arrowstyle": "->",
            "color": INK,
            "alpha": 0.6,
            "connectionstyle": f"arc3,rad={min(0.4, bend)}",
        },
    )


def _in_few_words(stage: Stage) -> str:
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

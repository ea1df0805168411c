"""The pipeline as a graph: a box for each stage or series of them, and an arrow from each that it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolrecipe_report.drawing import INK, drawn, save
from smolrecipe_report.reading import Stage
from smolrecipe_report.series import Series, series_of
from smolrecipe_report.spans import amount

_STATUS = {
    "published": ("#2f9268", "-"),
    "unfinished": ("#c2621b", "--"),
    "damaged": ("#c9465a", ":"),
    "not begun": ("#6f7f8f", "-."),
}


def graph_figure(stages: Sequence[Stage], folder: Path) -> str:
    """Draw the stages in their order."""
    boxes = series_of(stages)
    with drawn(0.8 + 0.5 * len(boxes)) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        places = {stage.place: -index for index, series in enumerate(boxes) for stage in series.stages}
        axes.set(xlim=(-1.6, 9), ylim=(-len(boxes) + 0.4, 0.6))
        for index, series in enumerate(boxes):
            status = series.stages[0].status
            colour, line = _STATUS[status]
            box = {"boxstyle": "round", "facecolor": "none", "edgecolor": colour, "linestyle": line, "linewidth": 1.6}
            axes.text(0.1, -index, f"{series.name}: {status}", va="center", bbox=box)
            axes.text(4.2, -index, _in_few_words(series), va="center", fontsize=9, alpha=0.85)
            parents = {folder for stage in series.stages for folder in stage.parent_folders().values()}
            for place in sorted({places[folder] for folder in parents if folder in places}):
                _arrow(axes, place, -index)
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


def _in_few_words(series: Series) -> str:
    stage = series.stages[0]
    words = [f"{len(series.stages)} stages"] if len(series.stages) > 1 else []
    if stage.last_step is not None:
        words.append(f"{stage.last_step:,} {'step' if stage.last_step == 1 else 'steps'}")
    if stage.tokens_per_step is not None and stage.last_step is not None:
        words.append(f"{amount(stage.tokens_per_step * stage.last_step)} tokens")
    if stage.row_length is not None:
        words.append(f"rows of {stage.row_length:,}")
    if stage.theta is not None:
        words.append(f"theta {amount(stage.theta)}")
    return ", ".join(words)

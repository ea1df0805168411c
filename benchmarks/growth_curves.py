"""Curves of a benchmark of growth: the exponent of each, and a picture beside a line of slope 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log, log10
from pathlib import Path
from statistics import linear_regression
from typing import Any

Points = Mapping[int, float]
"""What was measured, by size."""

FLAT = 1.2
"""Over its upper decade a curve that grows by less than this factor is called flat: noise would be its exponent."""

SEEN = 0.2
"""What comes on top of what the smallest takes counts where it is more than this share of that: less is noise."""

HEAD = ("what", "grows in its upper decade", "exponent", "exponent of what the smallest does not take")


def exponent(points: Points) -> float:
    """The slope of a curve in its upper decade, both axes logarithmic: 1 where twice the size takes twice as much."""
    sizes = upper_decade(points)
    return linear_regression([log(size) for size in sizes], [log(points[size]) for size in sizes]).slope


def upper_decade(points: Points) -> list[int]:
    """The sizes from a tenth of the largest on."""
    return [size for size in sorted(points) if 10 * size >= max(points)]


def growth_of(curves: Mapping[str, Points]) -> list[tuple[str, str, float | str, float | str]]:
    """A row of ``HEAD`` for each curve.

    What the smallest takes is mostly there at any size (imports, say) and would hide how the rest grows: the last
    column leaves it out.
    """
    rows: list[tuple[str, str, float | str, float | str]] = []
    for name, points in curves.items():
        sizes = upper_decade(points)
        factor = points[sizes[-1]] / points[sizes[0]]
        least = points[min(points)]
        beyond = {size: points[size] - least for size in sizes if points[size] - least > SEEN * least}
        exponents = ("flat", "") if factor < FLAT else (exponent(points), exponent(beyond) if len(beyond) > 1 else "")
        rows.append((name, f"x {factor:.3g}", *exponents))
    return rows


def draw(file: Path, title: str, size: str, panels: Sequence[tuple[str, Mapping[str, Points]]]) -> None:
    """Write a PNG: a panel for each unit with its curves, and through the middle of each panel lines of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.4 * len(panels), 4.6), squeeze=False)
    for axis, (unit, curves) in zip(axes[0], panels, strict=True):
        for (name, points), marker in zip(curves.items(), "osd^vP*X<>", strict=False):
            sizes = sorted(points)
            axis.plot(sizes, [points[each] for each in sizes], marker=marker, markersize=4, label=name)
        axis.set(xscale="log", yscale="log", xlabel=size, ylabel=unit)
        _draw_slope(axis, curves)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1 if len(curves) < 4 else 2)
    figure.subplots_adjust(wspace=0.35)  # where less than two decades are shown, ticks between them have long labels
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    pyplot.close(figure)


def _draw_slope(axis: Any, curves: Mapping[str, Points]) -> None:
    """Dotted lines of slope 1 behind the curves, a decade apart, without widening what is shown."""
    sizes = sorted({size for points in curves.values() for size in points})
    values = [value for points in curves.values() for value in points.values() if value > 0]
    low, high = min(values) / 1.6, max(values) * 1.6
    ends = sizes[0], sizes[-1]
    first, last = floor(log10(low / ends[1])), ceil(log10(high / ends[0]))
    for power in range(first, last + 1):
        label = "slope 1" if power == first else None
        axis.plot(
            ends, [10.0**power * end for end in ends], color="0.6", linestyle=":", linewidth=1, label=label, zorder=0
        )
    axis.set_ylim(low, high)

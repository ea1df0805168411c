"""Figures of the data: the shares of mixtures, planned and seen, and how long documents and conversations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from smolrecipe_report.drawing import INK, colour, drawn, hatch, in_short, save
from smolrecipe_report.lengths import Lengths
from smolrecipe_report.mixtures import Mixture
from smolrecipe_report.spans import amount

MOST_ROWS = 60
"""Of a figure; tables have the rest."""

_HIGHEST = 0.86
"""Of a row's highest bar, in rows."""


def mixture_figure(mixtures: Sequence[Mixture], folder: Path) -> str | None:
    """Two bars for each stage that mixes sources: the shares it was to draw, and those of what it has read."""
    if not mixtures:
        return None
    names = list(dict.fromkeys(name for mixture in mixtures for name in {**mixture.planned, **mixture.seen}))[
        :MOST_ROWS
    ]
    bars = [
        (f"{in_short(mixture.stage)}, {what}" if what == "planned" else what, shares)
        for mixture in mixtures
        for what, shares in (("planned", mixture.planned), ("seen", mixture.seen_shares() or None))
    ][:MOST_ROWS]
    with drawn(1.1 + 0.28 * len(bars)) as figure:
        axes = figure.add_subplot()
        places = [-(index + 0.45 * (index // 2)) for index in range(len(bars))]
        for number, name in enumerate(names):
            widths = [(shares or {}).get(name, 0.0) for _, shares in bars]
            lefts = [_before(shares or {}, names[:number]) for _, shares in bars]
            look: dict[str, Any] = {
                "color": colour(number),
                "hatch": hatch(number),
                "edgecolor": "white",
                "linewidth": 0.5,
            }
            axes.barh(places, widths, left=lefts, height=0.86, label=in_short(name), **look)
        for place, (_, shares) in zip(places, bars, strict=True):
            if shares is None:
                axes.text(0.01, place, "not recorded", va="center", fontsize=9)
        axes.set_yticks(places, [label for label, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("share of the tokens")
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        return save(figure, folder / "mixture.png")


def _before(shares: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(shares.get(name, 0.0) for name in names)


def lengths_figure(lengths: Sequence[Lengths], folder: Path) -> str | None:
    """A row for each source: bars over the lengths of its documents, and a line where they are cut."""
    if not lengths:
        return None
    shown = lengths[:MOST_ROWS]
    stages = list(dict.fromkeys(of.stage for of in shown))
    with drawn(0.9 + 0.42 * len(shown)) as figure:
        axes = figure.add_subplot()
        for row, of in enumerate(shown):
            bins = [one for one in of.bins if one[0] > 0]  # the axis has no place for what is empty
            highest = max((count for *_, count in bins), default=1)
            axes.bar(
                [shortest for shortest, *_ in bins],
                [_HIGHEST * count / highest for *_, count in bins],
                width=[end - shortest for shortest, end, _ in bins],
                bottom=-row,
                align="edge",
                color=colour(stages.index(of.stage)),
            )
            axes.axhline(-row, color=INK, alpha=0.25, linewidth=0.8)
            if of.limit is not None:
                axes.plot([of.limit, of.limit], [-row, -row + 1], color=INK, linewidth=1.5)
        axes.set_yticks(
            [-row + 0.4 for row in range(len(shown))], [f"{of.stage[:30]}: {of.source[:30]}" for of in shown]
        )
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        longest = max([of.bins[-1][1] for of in shown] + [of.limit or 1 for of in shown])
        shortest = max(1, min(of.bins[0][0] for of in shown))
        axes.set_xscale("log", base=2)
        axes.set_xlim(shortest / 1.1, longest * 1.1)
        axes.set_ylim(-len(shown) + 0.95, 1.05)
        _label_powers(axes, longest)
        axes.set_xlabel("length in tokens; each row's highest bar is its most common length")
        return save(figure, folder / "lengths.png")


def _label_powers(axes: Any, longest: int) -> None:
    """Every second or fourth power of two where there are many."""
    powers = [2**power for power in range(longest.bit_length() + 1)]
    axes.xaxis.set_major_locator(FixedLocator(powers[:: 1 + len(powers) // 14]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value < 10**4 else amount(value))

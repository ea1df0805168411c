"""Figures over the tokens trained on: what each step has told, row lengths and RoPE theta."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import EngFormatter, StrMethodFormatter

from smolrecipe_report.drawing import INK, colour, drawn, in_short, save, token_axis
from smolrecipe_report.reading import Stage
from smolrecipe_report.spans import Span, spans_of

_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
}

_MARGIN = 1.005
"""So that the last line, at the very end, is not cut in half."""


def curve_figures(stages: Sequence[Stage], folder: Path) -> list[tuple[str, str]]:
    """``(title, svg)`` for each quantity that some stage recorded, on one axis of tokens."""
    spans = spans_of(stages)
    return [
        (title, _curve(spans, key, title, folder / f"{key}.png"))
        for key, title in _CURVES.items()
        if any(span.stage.steps(key) for span in spans)
    ]


def _curve(spans: Sequence[Span], key: str, title: str, png: Path) -> str:
    with drawn(3.2) as figure:
        axes = figure.add_subplot()
        for index, span in enumerate(spans):
            points = span.stage.steps(key)
            axes.axvline(span.end, color=INK, alpha=0.25, linewidth=0.8)
            if points:
                axes.plot(
                    [span.begin + (step - span.first + 1) * span.tokens_per_step for step, _ in points],
                    [value for _, value in points],
                    color=colour(index),
                    label=in_short(span.stage.name),
                )
        axes.set_xlim(0, spans[-1].end * _MARGIN)
        token_axis(axes)
        axes.set_ylabel(title)
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        return save(figure, png)


def context_figure(stages: Sequence[Stage], folder: Path) -> str | None:
    """Row length and RoPE base along the pipeline, on the same axis of tokens; nothing where no stage has either."""
    spans = spans_of(stages)
    lengths = [(span, span.stage.row_length) for span in spans if span.stage.row_length is not None]
    thetas = [(span, span.stage.theta) for span in spans if span.stage.theta is not None]
    if not lengths and not thetas:
        return None
    with drawn(3.6) as figure:
        both = figure.subplots(2, 1, sharex=True)
        for axes, values, title in zip(both, (lengths, thetas), ("row length", "RoPE theta"), strict=True):
            for index, span in enumerate(spans):
                value = next((value for other, value in values if other is span), None)
                if value is not None:
                    label = in_short(span.stage.name) if axes is both[0] else None
                    axes.plot([span.begin, span.end], [value, value], color=colour(index), linewidth=4, label=label)
                axes.axvline(span.end, color=INK, alpha=0.25, linewidth=0.8)
            axes.set_yscale("log", base=2 if axes is both[0] else 10)
            axes.set_ylabel(title)
            axes.margins(y=0.25)
        both[0].set_xlim(0, spans[-1].end * _MARGIN)
        both[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        both[1].yaxis.set_major_formatter(EngFormatter(sep=""))
        token_axis(both[1])
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
        return save(figure, folder / "context.png")

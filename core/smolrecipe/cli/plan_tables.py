"""The tables of ``smolrecipe plan``: what would run and why, what it would take, and what that rests on.

80 columns hold what is to be decided on; what only a wider terminal has room for (the error bar of every stage) is
told there and to programs.
"""

from __future__ import annotations

import shutil
import sys

import click

from smolrecipe.cli.plan_outlook import Outlook, StageOutlook, generation_cost
from smolrecipe.cli.tables import print_table
from smolrecipe.planning.backtest import ErrorBar
from smolrecipe.planning.estimate import Estimate, Total
from smolrecipe.planning.hardware import Assumptions
from smolrecipe.planning.workloads import tokens_of, trains

_WIDE = 110
"""Columns from which on every stage has its own error bar."""
_UNKNOWN = "-"


def print_outlook(told: Outlook) -> None:
    """Print all of it but what a dry run alone tells."""
    wide = _is_wide()
    _print_stages(told, wide=wide)
    click.echo()
    _print_work(told, wide=wide)
    _print_generation(told)
    print_total(told.left, told.bar, told.assumptions)
    if any(item.estimate is not None for item in told.stages):
        click.echo()
        _print_backtest(told)
    for problem in told.questions:
        click.echo(f"warning: {problem}")


def _is_wide() -> bool:
    return not sys.stdout.isatty() or shutil.get_terminal_size().columns >= _WIDE


def devices_of(count: int, device: str) -> str:
    """``384 GPUs``, ``CPU``."""
    if device == "cuda":
        return f"{count} GPU{'s' if count > 1 else ''}"
    return f"{count} CPU processes" if count > 1 else "CPU"


def _print_stages(told: Outlook, *, wide: bool) -> None:
    """What would become of each stage; with its digest where there is room, and what it is made from where it folds
    nothing.
    """
    plain = not sys.stdout.isatty()
    headings = ["stage", "kind", *(["consumes"] if plain else []), "runs on", *(["digest"] if wide else []), "status"]
    rows = []
    for item in told.stages:
        stage = item.stage
        cells = {
            "stage": stage.name,
            "kind": stage.use.name,
            "consumes": ", ".join(stage.parents),
            "runs on": devices_of(stage.devices.processes, stage.devices.device),
            "digest": stage.digest[:12],
            "status": item.status,
        }
        rows.append([cells[heading] for heading in headings])
    print_table(headings, rows, title=told.plan.recipe.name)


def _print_work(told: Outlook, *, wide: bool) -> None:
    headings = ("stage", "tokens", "steps", "row", "theta", "GPU", "GiB", "hours", "cost")
    rows = []
    for item in told.stages:
        if not trains(item.workload):
            continue
        gpus = str(item.stage.devices.processes) if item.stage.devices.device == "cuda" else _UNKNOWN
        rows.append(
            (
                item.stage.name,
                _tokens(item),
                _UNKNOWN if item.workload.steps is None else short(item.workload.steps),
                _UNKNOWN if item.workload.row_length is None else str(item.workload.row_length),
                _UNKNOWN if item.theta is None else short(item.theta),
                gpus,
                _UNKNOWN if item.gib is None else f"{item.gib:.0f}",
                _hours(item.estimate, told, wide=wide),
                _cost(item.estimate, told, wide=wide),
            )
        )
    if not rows:
        click.echo("no stage of this recipe says what it amounts to")
        return
    print_table(headings, rows, right=range(1, len(headings)), title="what training takes; GiB of a GPU: --dry-run")


def _print_generation(told: Outlook) -> None:
    """What models write, where a stage has them write."""
    headings = ("stage", "answers", "tokens", "GPU", "hours", "cost")
    rows = []
    for item in told.stages:
        written = item.workload.generates
        if written is None:
            continue
        cost = generation_cost(item, told.assumptions)
        rows.append(
            (
                item.stage.name,
                _UNKNOWN if written.answers is None else short(written.answers),
                _UNKNOWN if written.tokens is None else _bounded(short(written.tokens), at_most=True),
                str(item.stage.devices.processes) if item.stage.devices.device == "cuda" else _UNKNOWN,
                _UNKNOWN if written.hours is None else _bounded(_amount(written.hours), at_most=True),
                _UNKNOWN if cost is None else _bounded(_money(cost), at_most=True),
            )
        )
    if rows:
        click.echo()
        title = "what models write, at the speeds and prices that the recipe states"
        print_table(headings, rows, right=range(1, len(headings)), title=title)


def print_total(left: Total, bar: ErrorBar, assumed: Assumptions) -> None:
    """Print what is left to train and what it costs, with the error bar, and what is not in it."""
    if left.hours:
        low_hours, high_hours = left.between(left.hours, bar)
        low_cost, high_cost = left.between(left.cost, bar)
        click.echo(
            f"still to train: {'at most ' if left.at_most else ''}{_amount(left.hours)} hours "
            f"({_amount(low_hours)} to {_amount(high_hours)}), {_amount(left.gpu_hours)} GPU hours,\n"
            f"{_money(left.cost)} ({_money(low_cost)} to {_money(high_cost)}), if a GPU reaches {assumed.mfu:.1%} "
            f"(--mfu) of {assumed.peak_tflops:g} TFLOP/s\n"
            f"(--gpu {assumed.gpu}, --peak-tflops) and costs ${assumed.price:.2f} an hour (--price)"
        )
    if left.unknown:
        click.echo(
            f"hours not known, as their tokens, model or speed are not: {', '.join(left.unknown)}\n"
            "(--tokens STAGE=N: what a stage trains on; --peak-tflops: its speed)"
        )
    if left.besides:
        click.echo(f"hours not estimated of what else runs on GPUs: {', '.join(left.besides)}")


def _print_backtest(told: Outlook) -> None:
    """The published runs that the error bar comes from."""
    rows = [
        (item.anchor.name, f"{item.anchor.gpu_hours:,.0f}", f"{item.estimated:,.0f}", f"{item.error:+.1%}")
        for item in told.bar.tried
    ]
    headings = ("published run", "GPU hours", "estimate", "error")
    title = f"error bar: the same estimate for published runs, {told.bar.low - 1:+.0%} to {told.bar.high - 1:+.0%}"
    print_table(headings, rows, right=(1, 2, 3), title=title)


def _tokens(item: StageOutlook) -> str:
    tokens = tokens_of(item.workload)
    return _UNKNOWN if tokens is None else _bounded(short(tokens), at_most=item.workload.at_most)


def _hours(found: Estimate | None, told: Outlook, *, wide: bool) -> str:
    if found is None:
        return _UNKNOWN
    text = _bounded(_amount(found.hours), at_most=found.at_most)
    low, high = found.hours * told.bar.low, found.hours * told.bar.high
    return f"{text} ({_amount(low)}-{_amount(high)})" if wide else text


def _cost(found: Estimate | None, told: Outlook, *, wide: bool) -> str:
    if found is None:
        return _UNKNOWN
    text = _bounded(_money(found.cost), at_most=found.at_most)
    low, high = found.cost * told.bar.low, found.cost * told.bar.high
    return f"{text} ({_money(low)}-{_money(high)})" if wide else text


def _bounded(text: str, *, at_most: bool) -> str:
    return f"<{text}" if at_most else text


def short(number: float) -> str:
    """A count in at most six characters: ``8.14T``, ``3.45M``, ``50k``, ``4096``."""
    if number >= 1e15:
        return f"{number:.1g}"
    for unit, size, least in (("T", 1e12, 1e12), ("B", 1e9, 1e9), ("M", 1e6, 999_500), ("k", 1e3, 1e4)):
        if number >= least:
            text = f"{number / size:.3g}"
            return f"{number / size:.0f}{unit}" if "e" in text else f"{text}{unit}"
    return f"{number:g}"


def _amount(value: float) -> str:
    """Hours: two digits behind the point below one, one below ten."""
    if value >= 1e9:
        return f"{value:.3g}"
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _money(value: float) -> str:
    if value >= 1e6:
        return f"${value / 1e6:.3g}M" if value < 1e12 else f"${value:.3g}"
    if value >= 1e3:
        return f"${value / 1e3:.3g}k" if value < 1e4 else f"${value / 1e3:.0f}k"
    return f"${value:,.0f}" if value >= 10 else f"${value:.2f}"

"""Does a learning-rate schedule end where the steps do? Asked of the schedule itself, so of any plugin's."""

from __future__ import annotations

from collections.abc import Callable

from smolrecipe.components import Schedule
from smolrecipe.options import Use

_SLACK = 0.01
"""The share of all steps, and of the peak rate, by which both may differ: schedules round to whole steps."""
_SAMPLES = 400
_BEYOND = 10
"""So many times as many steps are looked at for what a schedule does after the last."""


def schedule_problem(use: Use[Schedule], steps: int, first: int = 1) -> str:
    """A sentence about a schedule that ends before the steps do, or after; nothing where it fits or cannot be asked.

    ``steps`` are those that it is laid out for, ``first`` is the first at which anything is trained with it.
    """

    def factor(step: int) -> float:
        return float(use.component.factor(use.options, step, steps))

    try:
        return _early(use.name, factor, steps, first) or _late(use.name, factor, steps)
    except Exception:  # a plugin's schedule that needs its engine, or refuses these steps: then nothing is said
        return ""


def _early(name: str, factor: Callable[[int], float], steps: int, first: int) -> str:
    peak = max(map(factor, _spread(1, steps)))
    end = factor(steps)
    if end >= peak or peak <= 0:
        return ""
    # The last sampled step that is above the end; from there the first that is not, by halving.
    above = [step for step in _spread(1, steps) if factor(step) > end + 1e-9 * peak]
    low, high = (above[-1] if above else 1), steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if factor(middle) > end + 1e-9 * peak else (low, middle)
    idle = steps - max(high, first)
    if idle <= _SLACK * steps:
        return ""
    rest = f"{end / peak:.2g} of the peak" if end else "0, at which nothing is learned"
    return (
        f"the schedule '{name}' has come to its end at step {high:,} of {steps:,}: {idle:,} steps more run at a rate "
        f"of {rest}"
    )


def _late(name: str, factor: Callable[[int], float], steps: int) -> str:
    peak = max(map(factor, _spread(1, steps)))
    end, beyond = factor(steps), min(map(factor, _spread(steps, _BEYOND * steps)))
    if peak <= 0 or end - beyond <= _SLACK * peak:
        return ""
    low, high = steps, _BEYOND * steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if factor(middle) <= beyond + 1e-9 * peak else (middle, high)
    return (
        f"the schedule '{name}' goes on until step {high:,}, and there are {steps:,}: training ends at "
        f"{end / peak:.2g} of the peak rate, not at {beyond / peak:.2g}"
    )


def _spread(low: int, high: int) -> list[int]:
    """So many steps, evenly between two and with both."""
    return sorted({high, *(low + index * (high - low) // _SAMPLES for index in range(_SAMPLES))})

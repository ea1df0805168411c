"""How long a stage still needs, by what its last steps took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from statistics import median
from typing import Any

STEPS_OF_A_PACE = 20
"""How many of the last steps say how long one takes: their median, which neither a checkpoint between two of them moves
nor the time that a stage lay interrupted."""

_LARGEST = 1e300
"""Numbers beyond are no measurement, and those that are none (``nan``) compare with nothing."""


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def seconds_left(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """The time that the steps to come will take, by step events in order; nothing where fewer than two tell a time."""
    timed = [step for step in steps[-STEPS_OF_A_PACE - 1 :] if is_number(step.get("time"))]
    taken = [
        (later["time"] - earlier["time"]) / (later["step"] - earlier["step"])
        for earlier, later in pairwise(timed)
        if later["step"] > earlier["step"] and later["time"] >= earlier["time"]
    ]
    if not taken:
        return None
    seconds = (steps[-1]["steps"] - steps[-1]["step"]) * median(taken)
    return float(seconds) if is_number(seconds) else None


def duration(seconds: float) -> str:
    """``1:02:03``, or with days ``3 days, 1:02:03``; ``-`` for what no calendar holds."""
    try:
        return str(timedelta(seconds=round(seconds)))
    except (OverflowError, ValueError):
        return "-"

"""How sure a mean difference over seeds is, and what that says of a claim."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

from attrs import frozen
from scipy.stats import t

Verdict = Literal["seen", "not seen at this size", "the opposite is seen"]


@frozen(kw_only=True)
class Difference:
    """The mean of paired differences with the bounds of its interval, in the unit of the measure."""

    mean: float
    low: float
    high: float


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    return stdev(values) / sqrt(len(values))


def paired_difference(before: Sequence[float], after: Sequence[float], confidence: float) -> Difference:
    """The mean of ``after - before`` over at least two pairs, with Student's t for as many pairs less one."""
    differences = [second - first for first, second in zip(before, after, strict=True)]
    mean = fmean(differences)
    half = float(t.ppf((1 + confidence) / 2, len(differences) - 1)) * standard_error(differences)
    return Difference(mean=mean, low=mean - half, high=mean + half)


def verdict(expect: Literal["rises", "falls", "stays"], within: float | None, difference: Difference) -> Verdict:
    """What the interval of a difference says of a claim.

    A rise or a fall is seen where the interval leaves zero out on that side. That something stays is seen where the
    whole interval lies within the bound: not to have seen a difference shows nothing.
    """
    low, high = difference.low, difference.high
    if expect == "falls":
        low, high = -high, -low
    if expect == "stays":
        bound = within or 0.0
        seen, opposite = -bound <= low and high <= bound, low > bound or high < -bound
    else:
        seen, opposite = low > 0, high < 0
    return "seen" if seen else "the opposite is seen" if opposite else "not seen at this size"

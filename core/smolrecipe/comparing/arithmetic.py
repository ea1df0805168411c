"""What follows from the options of a training stage, computed without an engine.

Stage kinds that train name the same things alike: ``steps`` or ``max_steps``, ``global_batch`` (rows),
``sequence_length`` or ``max_length`` (tokens of a row, of a pair of rows twice), ``trajectory_steps``. What a kind
calls otherwise is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from smolrecipe.comparing.sides import SideStage
from smolrecipe.components import Loss, Optimizer, Schedule
from smolrecipe.options import Model, Use, walk
from smolrecipe.planning.decoder_size import parameters_of

_ALIKE = 0.04
"""How far apart shares of the steps may be that rounding to whole steps has moved."""
_SAMPLES = 200
_LENGTHS = (100_000, 1_000_000)
"""Steps with which a schedule is tried whose own length is not known."""


@frozen(kw_only=True)
class Curve:
    """A learning rate over the steps; shares are of all steps, ``None`` where the schedule cannot be asked."""

    schedule: str
    rises: float | None = None
    """The share after which it has risen to its peak; 0 where it starts there."""
    falls: float | None = None
    """The share after which it falls; 1 where it does not."""
    end: float | None = None
    """The last step's rate as a share of the peak."""

    def __str__(self) -> str:
        if self.rises is None or self.falls is None or self.end is None:
            return self.schedule
        rise = f"warms up for {100 * self.rises:.2g} % of the steps, " if self.rises else ""
        fall = f"falls from {100 * self.falls:.2g} % on, to {self.end:.2g} of the peak" if self.falls < 1 else "stays"
        return f"{self.schedule}: {rise}{fall}"

    def is_like(self, other: Curve) -> bool:
        """Whether two are the same but for what rounding to whole steps does."""
        mine, its = (self.rises, self.falls, self.end), (other.rises, other.falls, other.end)
        return self.schedule == other.schedule and all(
            one is None or two is None or math.isclose(one, two, abs_tol=_ALIKE)
            for one, two in zip(mine, its, strict=True)
        )


@frozen(kw_only=True)
class Facts:
    """Numbers of one stage; ``None`` for what its options do not tell."""

    tokens: int | None = None
    """Trained on, over all steps."""
    at_most: bool = False
    """Whether rows may be shorter than the stage allows, so that there may be fewer tokens."""
    length: int | None = None
    """Tokens of the longest row."""
    peak_lr: float | None = None
    curve: Curve | None = None
    parameters: int | None = None


def facts_of(stage: SideStage, *, recorded: bool) -> Facts:
    """What follows from a stage's options; with ``recorded``, what it counted itself when it ran comes before that."""
    options = stage.options
    if not isinstance(options.get("global_batch"), int):
        return Facts()
    summary = stage.record["summary"] if stage.record is not None and recorded else {}
    length = _number(options, "sequence_length") or _number(options, "max_length")
    steps = _number(options, "steps") or _number(options, "max_steps") or _number(summary, "steps")
    counted = _counted_tokens(summary)
    tokens = counted
    if tokens is None and steps is not None and length is not None:
        tokens = steps * int(options["global_batch"]) * length * (2 if _first(stage, Loss) is not None else 1)
    return Facts(
        tokens=tokens,
        at_most=tokens is not None and counted is None and _number(options, "sequence_length") is None,
        length=length,
        peak_lr=_peak_lr(stage),
        curve=_curve_of(stage, _number(options, "trajectory_steps") or steps),
        parameters=_number(summary, "parameters") or _parameters(stage),
    )


def _counted_tokens(summary: Mapping[str, Any]) -> int | None:
    if (tokens := _number(summary, "tokens")) is not None:
        return tokens
    per_pass, passes = _number(summary, "tokens_per_pass"), summary.get("passes")
    return round(per_pass * passes) if per_pass is not None and isinstance(passes, (int, float)) else None


def _number(options: Mapping[str, Any], key: str) -> int | None:
    value = options.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _first(stage: SideStage, kind: type) -> Use[Any] | None:
    """The stage's component of a kind."""
    for _, value, _ in walk(stage.use) if stage.use is not None else ():
        if isinstance(value, Use) and isinstance(value.component, kind):
            return value
    return None


def _peak_lr(stage: SideStage) -> float | None:
    optimizer = _first(stage, Optimizer)
    lr = getattr(optimizer.options, "lr", None) if optimizer is not None else None
    if optimizer is None and isinstance(stage.options.get("optimizer"), Mapping):
        lr = stage.options["optimizer"].get("lr")
    return float(lr) if isinstance(lr, (int, float)) else None


def _curve_of(stage: SideStage, steps: int | None) -> Curve | None:
    """The stage's learning rate; its schedule itself is asked, so any plugin's can be described.

    Where the data decides how many steps there are, the curve is told if it does not depend on that.
    """
    use = _first(stage, Schedule)
    if use is None:
        options = stage.options.get("schedule")
        return Curve(schedule=str(options["use"])) if isinstance(options, Mapping) and "use" in options else None
    try:
        first, *others = [_curve(use, length) for length in ((steps,) if steps is not None else _LENGTHS)]
    except Exception:  # a plugin's schedule that needs its engine, or refuses these steps: its name has to do
        return Curve(schedule=use.name)
    return first if all(first.is_like(other) for other in others) else Curve(schedule=use.name)


def _curve(use: Use[Any], steps: int) -> Curve:
    @functools.cache
    def factor(step: int) -> float:
        return float(use.component.factor(use.options, step, steps))

    peak = _peak_step(factor, steps)
    top = (1 - 1e-6) * factor(peak)
    rises = _edge(lambda step: factor(step) >= top, 1, peak)
    falls = steps if factor(steps) >= top else _edge(lambda step: factor(step) < top, peak, steps) - 1
    if not top > 0 or any((factor(step) >= top) != (rises <= step <= falls) for step in _spread(1, steps)):
        return Curve(schedule=use.name)  # no curve that rises once and falls once
    end = factor(steps) / factor(peak)
    return Curve(
        schedule=use.name,
        rises=rises / steps if rises > 1 else 0.0,
        falls=falls / steps,
        end=end if end >= 1e-4 else 0.0,  # wsd's last step is one short of its minimum
    )


def _peak_step(factor: Callable[[int], float], steps: int) -> int:
    """A step with the largest factor, found on finer and finer grids."""
    low, high = 1, steps
    while True:
        grid = _spread(low, high)
        best = max(range(len(grid)), key=lambda index: factor(grid[index]))
        if len(grid) == high - low + 1:
            return grid[best]
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]


def _spread(low: int, high: int) -> list[int]:
    """At most so many steps, evenly between two and with both."""
    return sorted({high, *(low + index * (high - low) // _SAMPLES for index in range(_SAMPLES))})


def _edge(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first step at which ``holds`` is true, which it is at ``high``."""
    if holds(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _parameters(stage: SideStage) -> int | None:
    for _, value, _ in walk(stage.use) if stage.use is not None else ():
        if isinstance(value, Model) and all(use.component.to_hf is not None for use in value.components.values()):
            return parameters_of(value.to_hf())
    return None

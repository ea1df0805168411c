"""Does a schedule end where the steps do? Schedules are asked themselves, so these are plain functions."""

from __future__ import annotations

from typing import Any

import pytest

from smolrecipe import NoOptions, Schedule, Use
from smolrecipe.planning.schedule_end import schedule_problem


def schedule(factor: Any) -> Use[Schedule]:
    component = Schedule(name="s", summary="s", factor=lambda options, step, steps: factor(step, steps))
    return Use(component, NoOptions())


def wsd(start: int, decay: int, minimum: float = 0.0, warmup: int = 10) -> Use[Schedule]:
    def factor(step: int, steps: int) -> float:
        if step <= warmup:
            return step / warmup
        return max(minimum, 1 - (1 - minimum) * max(0, step - start) / decay)

    return schedule(factor)


@pytest.mark.parametrize(
    ("use", "steps"),
    [
        (wsd(4_198_001, 522_000), 4_720_000),  # SmolLM3's, whose last step is one short of its end
        (wsd(800, 200), 1000),
        (wsd(800, 201), 1000),
        (wsd(800, 198, 0.1), 1000),
        (schedule(lambda step, steps: 1.0), 1000),
        (schedule(lambda step, steps: 1 - step / steps if step < steps else 0.0), 1000),
        (schedule(lambda step, steps: step / steps), 1),
        (schedule(lambda step, steps: 1 / 0), 1000),
    ],
)
def test_schedules_that_fit(use: Use[Schedule], steps: int) -> None:
    assert schedule_problem(use, steps) == ""


def test_a_schedule_that_ends_before_the_steps_do() -> None:
    assert schedule_problem(wsd(500, 200), 1000) == (
        "the schedule 's' has come to its end at step 700 of 1,000: 300 steps more run at a rate of 0, at which "
        "nothing is learned"
    )
    assert "at step 700 of 1,000: 300 steps more run at a rate of 0.1 of the peak" in schedule_problem(
        wsd(500, 200, 0.1), 1000
    )


def test_a_schedule_that_goes_on_after_the_steps() -> None:
    assert schedule_problem(wsd(800, 400), 1000) == (
        "the schedule 's' goes on until step 1,200, and there are 1,000: training ends at 0.5 of the peak rate, "
        "not at 0"
    )
    assert "goes on until step 3,000" in schedule_problem(wsd(2000, 1000), 1000)

"""How long a stage still needs: by its last steps, whatever came between them, and where nothing can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from smolrecipe.cli.views import LastSteps
from smolrecipe.running.pace import duration, seconds_left


def steps(*times: Any, first: int = 1, of: int = 100) -> list[Mapping[str, Any]]:
    return [{"step": first + number, "steps": of, "time": time} for number, time in enumerate(times)]


def test_each_step_to_come_takes_what_the_last_ones_took() -> None:
    assert seconds_left(steps(10.0, 12.0, 14.0)) == 97 * 2.0
    assert seconds_left(steps(*range(50), *range(100, 200, 2))) == pytest.approx(0 * 2.0, abs=1e-9)


def test_neither_an_interruption_nor_a_checkpoint_moves_it() -> None:
    interrupted = [*steps(1.0, 2.0, 3.0), *steps(5000.0, 5001.0, 5002.0, first=3)]
    assert seconds_left(interrupted) == 95 * 1.0
    assert seconds_left(steps(1.0, 2.0, 33.0, 34.0, 35.0)) == 95 * 1.0


def test_a_stage_that_goes_on_is_not_taken_for_a_fast_one() -> None:
    """Its first step here is the fortieth."""
    assert seconds_left(steps(7.0, 8.0, first=40)) == 59 * 1.0


@pytest.mark.parametrize(
    "told", [(), (1.0,), (5.0, 4.0), ("now", None), (float("nan"), 1.0), (1.0, 10**400), (True, False)], ids=str
)
def test_what_tells_no_time_tells_nothing(told: tuple[Any, ...]) -> None:
    assert seconds_left(steps(*told)) is None


def test_it_is_told_in_words_while_there_is_something_left() -> None:
    last = LastSteps()
    for step in steps(*range(0, 200, 2)):
        assert (last.left() == "") == (step["step"] <= 2)
        last.add(step)
        if step["step"] == 50:
            assert last.left() == "0:01:40 left"
    assert last.left() == ""


@pytest.mark.parametrize(("seconds", "words"), [(61.4, "0:01:01"), (90000, "1 day, 1:00:00"), (1e200, "-")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words

"""Watching a run: a live bar per stage on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.running.memory import ON_GPU, RESIDENT, memory_text
from smolrecipe.running.pace import STEPS_OF_A_PACE, duration, seconds_left
from smolrecipe.running.runner import RunView

_LINE_EVERY_SECONDS = 10.0
_NOT_HERE = ("step", "steps", "time", RESIDENT, ON_GPU)
"""Numbers of a step that are said in another way."""


@contextmanager
def make_view(plan: Plan) -> Iterator[RunView]:
    """The view for where standard error goes: bars on a terminal, lines in a file or a pipe."""
    if sys.stderr.isatty():
        from smolrecipe.cli.live_view import LiveView

        with LiveView(plan) as view:
            yield view
    else:
        yield LineView(plan)


class LineView(RunView):
    """One line when a stage starts and ends, and one every ten seconds between."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last_line = 0.0
        self._steps = LastSteps()

    def skipped(self, stage: PlannedStage) -> None:
        """Say that the stage is published."""
        self._say(stage, "published already")

    def started(self, stage: PlannedStage, goes_on: bool, saved: int | None) -> None:
        """Say that the stage starts."""
        self._say(stage, goes_on_text(saved) if goes_on else "starts")
        self._steps = LastSteps()
        self._last_line = time.monotonic()

    def event(self, stage: PlannedStage, event: Mapping[str, Any]) -> None:
        """Show a message at once, a step now and then."""
        if "message" in event:
            self._say(stage, str(event["message"]))
        elif "step" in event:
            self._steps.add(event)
            if self._is_shown(event):
                self._say(stage, ", ".join(filter(None, (step_text(event), self._steps.left(), memory_text(event)))))
                self._last_line = time.monotonic()

    def finished(self, stage: PlannedStage, record: Mapping[str, Any]) -> None:
        """Say how long the stage took."""
        self._say(stage, f"published after {record['seconds']:.0f} s")

    def _is_shown(self, step: Mapping[str, Any]) -> bool:
        return step["step"] == step["steps"] or time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS

    def _say(self, stage: PlannedStage, text: str) -> None:
        click.echo(f"{stage.name}: {text}", err=True)


class LastSteps:
    """The last steps that a running stage has told of, which say how long the others will take."""

    def __init__(self) -> None:
        self._events: deque[Mapping[str, Any]] = deque(maxlen=STEPS_OF_A_PACE + 1)

    def add(self, event: Mapping[str, Any]) -> None:
        """Take a step's event."""
        self._events.append(event)

    def left(self) -> str:
        """``0:02:10 left``, or nothing where that cannot be told, or nothing is left."""
        seconds = seconds_left([*self._events])
        return f"{duration(seconds)} left" if seconds else ""


def goes_on_text(saved: int | None) -> str:
    """How a stage goes on that had been started before; where it goes on from is its own to find."""
    return "goes on" if saved is None else f"goes on (its last checkpoint is of step {saved})"


def step_text(event: Mapping[str, Any]) -> str:
    """A step event as a line: ``step 40/200, loss 3.214, lr 0.002``."""
    numbers = [
        f"{key.replace('_', ' ')} {value:.4g}"
        for key, value in event.items()
        if key not in _NOT_HERE and isinstance(value, (int, float))
    ]
    return ", ".join([f"step {event['step']}/{event['steps']}", *numbers])

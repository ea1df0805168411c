"""The live view of a run: one line for the stage that runs, on a terminal; with a bar where there is room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from smolrecipe.cli.views import LastSteps, goes_on_text
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.running.memory import memory_text
from smolrecipe.running.runner import RunView

_WIDE = 110
"""Columns of a terminal that has room for a bar, and for how long the stage has taken."""


class LiveView(RunView):
    """Draws a line for the stage that runs; finished stages stay above it as lines."""

    def __init__(self, plan: Plan) -> None:
        self._width = max(len(stage.name) for stage in plan.stages)
        self._console = Console(stderr=True, highlight=False)
        is_wide = self._console.width >= _WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=20)] if is_wide else []),
            MofNCompleteColumn(),
            *([TimeElapsedColumn()] if is_wide else []),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._steps = LastSteps()

    def __enter__(self) -> LiveView:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        self._progress.stop()

    def skipped(self, stage: PlannedStage) -> None:
        """Note that the stage is published."""
        self._line(stage, "published already", "dim")

    def started(self, stage: PlannedStage, goes_on: bool, saved: int | None) -> None:
        """Start the stage's bar."""
        if goes_on:
            self._line(stage, goes_on_text(saved), "yellow")
        self._task = self._progress.add_task(f"{stage.name:<{self._width}}", total=None, numbers="", left="")
        self._steps = LastSteps()

    def event(self, stage: PlannedStage, event: Mapping[str, Any]) -> None:
        """Move the bar, or show a message above it."""
        if "message" in event:
            self._line(stage, str(event["message"]), "dim")
        elif "step" in event and self._task is not None:
            self._steps.add(event)
            numbers = "  ".join(_numbers(event))
            done, of, left = event["step"], event["steps"], self._steps.left()
            self._progress.update(self._task, completed=done, total=of, numbers=numbers, left=left)

    def finished(self, stage: PlannedStage, record: Mapping[str, Any]) -> None:
        """Replace the bar by a line."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._line(stage, f"published after {record['seconds']:.0f} s", "green")

    def _line(self, stage: PlannedStage, text: str, style: str) -> None:
        self._console.print(f"{stage.name:<{self._width}}  {text}", style=style, markup=False)


def _numbers(event: Mapping[str, Any]) -> Iterator[str]:
    if "loss" in event:
        yield f"loss {event['loss']:.4g}"
    if "tokens_per_second" in event:
        yield f"{_short(event['tokens_per_second'])} tok/s"
    if memory := memory_text(event):
        yield memory.removeprefix("memory ")


def _short(number: float) -> str:
    """``987``, ``12.3k``, ``4.56M``."""
    for power, sign in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}{sign}"
    return f"{number:.3g}"

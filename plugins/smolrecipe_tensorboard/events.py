"""A stage's events, as TensorBoard's scalars and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter  # noqa: TID253

from smolrecipe import StageContext
from smolrecipe_tensorboard import TensorBoardOptions

FOLDER = "tensorboard"
"""Below the stage's folder."""

_NO_SCALARS = {"step", "steps", "time"}


class EventLog:
    """Takes the events of a stage, and writes each before it returns: nobody says which is the last.

    A stage that goes on after an interruption reports some steps again; TensorBoard forgets those that an earlier file
    has of them (``purge_step``), so that there the first step comes before any sentence. A disk without room costs this
    log, not the stage.
    """

    def __init__(self, options: TensorBoardOptions, context: StageContext) -> None:
        self._options = options
        self._context = context
        self._folder = context.folder / FOLDER
        self._goes_on = self._folder.is_dir() and any(self._folder.iterdir())
        self._held: list[str] = []
        self._writer: SummaryWriter | None = None
        self._step = 0
        self._lost = False

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write what TensorBoard has a place for: finite and other numbers of a step, and sentences."""
        if self._lost:
            return
        try:
            self._write(event)
        except OSError as error:
            self._lost = True
            self._context.say(f"tensorboard is told no more: {error}; all metrics are in metrics.jsonl")

    def _write(self, event: Mapping[str, Any]) -> None:
        if isinstance(step := event.get("step"), int):
            self._write_step(step, event)
        elif self._options.messages and isinstance(message := event.get("message"), str):
            self._held.append(message)
        if self._writer is None and self._held and not self._goes_on:
            self._writer = SummaryWriter(str(self._folder))
        if self._writer is not None:
            for message in self._held:
                # As preformatted Markdown, so that what a stage says is no markup.
                text = "\n".join(f"    {line}" for line in message.splitlines())
                self._writer.add_text("messages", text, self._step)
            self._held.clear()
            self._writer.flush()

    def _write_step(self, step: int, event: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        self._step = step
        for key, value in event.items():
            if key not in _NO_SCALARS and isinstance(value, (int, float)) and not isinstance(value, bool):
                self._writer.add_scalar(key, _scalar(value), step)


def _scalar(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf

"""What happens while the engine trains: progress, sealed checkpoints, a stop, models kept on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState  # noqa: TID253
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: TID253

from smolrecipe import StageContext
from smolrecipe_trl.checkpoints import CourseSoFar, checkpoint_path, finish, thin_out
from smolrecipe_trl.processes import Processes


class Progress(TrainerCallback):
    """Reports each step.

    Args:
        metrics: the engine's name of a metric -> the name it is reported under.
    """

    def __init__(self, context: StageContext, metrics: Mapping[str, str]) -> None:
        self._context = context
        self._metrics = metrics
        self._tokens = 0.0
        self._since = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report a step; the engine logs a step before it saves it."""
        if logs is None or "loss" not in logs:
            return
        now, tokens = time.monotonic(), logs.get("num_tokens", 0.0)
        reported = {name: float(logs[engine]) for engine, name in self._metrics.items() if engine in logs}
        if tokens:
            reported["tokens_per_second"] = round((tokens - self._tokens) / max(now - self._since, 1e-9), 1)
        self._since, self._tokens = now, tokens
        self._context.progress(state.global_step, state.max_steps, **reported)


class SealedCheckpoints(TrainerCallback):
    """Seals a checkpoint when every process has written its part, and only then deletes the oldest."""

    def __init__(self, context: StageContext, processes: Processes, course: Callable[[int], CourseSoFar]) -> None:
        self._context = context
        self._processes = processes
        self._course = course

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait for all, then seal."""
        world = PartialState()
        world.wait_for_everyone()
        if world.is_main_process:
            folder = Path(args.output_dir)
            finish(checkpoint_path(folder, state.global_step), self._course(state.global_step))
            thin_out(folder)
        world.wait_for_everyone()
        self._processes.saved_step = state.global_step
        self._context.saved(state.global_step)


class StopWhenAsked(TrainerCallback):
    """Ends training after the step in which the stage was asked to stop, with a checkpoint of it."""

    def __init__(self, processes: Processes) -> None:
        self.stopped = False
        self._processes = processes

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask, all processes at once."""
        if self._processes.asked_to_stop():
            self.stopped = control.should_save = control.should_training_stop = True


class AtSteps(TrainerCallback):
    """Calls ``act(name)`` for what is kept of a step, on every process."""

    def __init__(self, steps: Mapping[int, list[str]], act: Callable[[str], None]) -> None:
        self._steps = steps
        self._act = act

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Act if this is one of the steps: once it is known to be finite, and before the engine saves it."""
        if logs is not None and "loss" in logs:
            for name in self._steps.get(state.global_step, ()):
                self._act(name)


class AtStart(TrainerCallback):
    """Calls ``act()`` when the model is ready to be trained, on every process."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Act."""
        self._act()

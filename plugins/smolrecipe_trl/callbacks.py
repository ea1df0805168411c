"""What happens while the engine trains: progress, complete checkpoints, models kept on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState  # noqa: TID253
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: TID253

from smolrecipe import StageContext, StageError
from smolrecipe_trl.checkpoints import checkpoint_path, mark_complete


class Progress(TrainerCallback):
    """Reports each step, and ends training at the first that is not finite.

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
        """Report a step; the engine logs a step before it saves it.

        Raises:
            StageError: for a loss or a gradient norm that is not finite.
        """
        if logs is None or "loss" not in logs:
            return
        for name, what in (("loss", "the loss"), ("grad_norm", "the gradient norm")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise StageError(
                    f"{what} is {logs[name]} in step {state.global_step} of {state.max_steps}: lower the learning rate "
                    "or max_grad_norm, or look for broken rows"
                )
        now, tokens = time.monotonic(), logs.get("num_tokens", 0.0)
        reported = {name: float(logs[engine]) for engine, name in self._metrics.items() if engine in logs}
        if tokens:
            reported["tokens_per_second"] = round((tokens - self._tokens) / max(now - self._since, 1e-9), 1)
        self._since, self._tokens = now, tokens
        self._context.progress(state.global_step, state.max_steps, **reported)


class CompleteCheckpoints(TrainerCallback):
    """Marks a checkpoint as complete when every process has written its part."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait for all, then mark."""
        processes = PartialState()
        processes.wait_for_everyone()
        if processes.is_main_process:
            mark_complete(checkpoint_path(Path(args.output_dir), state.global_step))
        processes.wait_for_everyone()


class AtSteps(TrainerCallback):
    """Calls ``act(step)`` after the steps given, on every process."""

    def __init__(self, steps: Mapping[int, list[str]], act: Callable[[str], None]) -> None:
        self._steps = steps
        self._act = act

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Act if this is one of the steps."""
        for name in self._steps.get(state.global_step, ()):
            self._act(name)


class AtStart(TrainerCallback):
    """Calls ``act()`` when the model is ready to be trained, on every process."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Act."""
        self._act()

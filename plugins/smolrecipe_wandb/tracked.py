"""A stage's events, as a run of Weights & Biases."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb

from smolrecipe import StageContext
from smolrecipe_wandb import WandbOptions

_KEPT = "all metrics are in metrics.jsonl"
_NO_METRICS = {"step", "steps", "time", "message"}


def open_run(options: WandbOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    """Start, or go on with, the stage's run; what takes its events is returned.

    A stage keeps its run's id when it is interrupted. A step that it then reports again is not told again online;
    offline it stands in a second file of the same run. Where W&B cannot be had (no key, no network) the stage says so
    once and trains on.
    """
    # Neither the command line, nor the source, nor what the stage prints: secrets may stand in them.
    # No links either: an artifact consists of regular files.
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        symlink=False,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    identity = hashlib.sha256(f"{context.recipe}/{context.folder.name}".encode()).hexdigest()[:16]
    try:
        run = wandb.init(
            project=options.project or context.recipe,
            entity=options.entity,
            group=context.recipe,
            name=context.stage,
            id=identity,
            resume="allow",
            mode=options.mode,
            tags=options.tags,
            dir=str(context.folder),
            settings=settings,
        )
    except Exception as error:
        context.say(
            f"wandb is not told of this stage ({' '.join(str(error).split())}): all metrics are in metrics.jsonl"
        )
        return lambda event: None
    _delete_links(context.folder / "wandb")
    return _Told(run, context)


def _delete_links(folder: Path) -> None:
    """W&B links its service's log, which lies elsewhere, whatever the settings say."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink(missing_ok=True)


class _Told:
    def __init__(self, run: Any, context: StageContext) -> None:
        self._run = run
        self._context = context
        self._last = run.step
        self._lost = False

    def __call__(self, event: Mapping[str, Any]) -> None:
        step = event.get("step")
        if self._lost or not isinstance(step, int) or step <= self._last:
            return
        numbers = {
            key: _number(value)
            for key, value in event.items()
            if key not in _NO_METRICS and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        try:
            self._run.log(numbers, step=step, commit=True)
        except Exception as error:
            self._lost = True
            self._context.say(
                f"wandb is told no more ({' '.join(str(error).split())}): all metrics are in metrics.jsonl"
            )
        self._last = step


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf

"""Hugging Face checkpoints that a stage publishes on its way, every so many steps of the trajectory.

While the stage trains they wait in ``models/step-<n>``, apart from the checkpoints that come and go. When it is done
they move to where they are published, ``checkpoints/step-<n>/model``; a stage that was killed in between takes them
back first. Each is there whole or not at all, and none outlives the checkpoint that the stage went on from: what comes
after that is made again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from smolrecipe import StageError
from smolrecipe.durable import discard, sweep, sync_folder
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_torchtitan.sealed import damage_of

WAITING_FOLDER = "models"

_PARTIAL = ".partial"


class ModelsOnTheWay:
    """The models of one stage's folder. One process of the stage uses it."""

    def __init__(self, folder: Path, steps: Sequence[int], before: int, export: Callable[[Path, Path], None]) -> None:
        """``steps`` are those to publish and count over the trajectory, of which ``before`` came before this stage;
        ``export(checkpoint, target)`` writes a model from a checkpoint.
        """
        self._waiting = folder / WAITING_FOLDER
        self._checkpoints = folder / CHECKPOINTS_FOLDER
        self._steps = steps
        self._before = before
        self._export = export

    def take_back(self) -> None:
        """Undo what ``hand_over`` had done when the stage was killed."""
        for path in sorted(self._checkpoints.glob(f"step-*/{MODEL_FOLDER}")):
            self._waiting.mkdir(exist_ok=True)
            discard(self._waiting / path.parent.name)
            path.rename(self._waiting / path.parent.name)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def go_on(self, step: int | None) -> None:
        """Be as after ``step``, from whose checkpoint the stage goes on; ``None`` for a stage that starts.

        Raises:
            StageError: when a model from before that step is gone; its checkpoint is so, too.
        """
        sweep(self._waiting)
        for path in self._waiting.glob("*") if self._waiting.is_dir() else ():
            made = re.fullmatch(r"step-(\d+)", path.name)
            if made is None or step is None or int(made[1]) > step:
                discard(path)
        for due in self._steps:
            if step is None or due > step:
                break
            if due == step:
                self.saved(due)
            elif not self._place(due).is_dir():
                raise StageError(
                    f"the model of step {due - self._before}, which was to be published, is gone from {self._waiting}: "
                    f"delete {self._waiting.parent} and run again"
                )

    def saved(self, step: int) -> None:
        """Write the model of a step whose checkpoint has become whole, if it is one to publish.

        Raises:
            StageError: when the checkpoint is damaged. It is deleted, so that it is made again.
        """
        if step not in self._steps or self._place(step).is_dir():
            return
        checkpoint = self._checkpoints / f"step-{step}"
        if (damage := damage_of(checkpoint)) is not None:
            discard(checkpoint)
            raise StageError(
                f"the checkpoint of step {step - self._before}, whose model is to be published, is damaged ({damage}): "
                "it is deleted, and made again when the stage runs again"
            )
        partial = self._waiting / f"step-{step}{_PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        self._waiting.mkdir(exist_ok=True)
        self._export(checkpoint, partial)
        for file in partial.iterdir():
            _sync(file)
        sync_folder(partial)
        partial.rename(self._place(step))
        sync_folder(self._waiting)

    def hand_over(self) -> list[int]:
        """Put the models where they are published; returns their steps.

        Raises:
            StageError: when one of them is gone.
        """
        for step in self._steps:
            if not self._place(step).is_dir():
                raise StageError(f"the model of step {step - self._before}, which was to be published, is gone")
        for step in self._steps:
            target = self._checkpoints / f"step-{step}" / MODEL_FOLDER
            target.parent.mkdir(exist_ok=True)
            self._place(step).rename(target)
        if self._waiting.is_dir():
            sweep(self._waiting)
            self._waiting.rmdir()
        return list(self._steps)

    def _place(self, step: int) -> Path:
        return self._waiting / f"step-{step}"


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""torchtitan's checkpoints, made safe to resume from: in a format of our own (``sealed.py``), and only a whole one is
loaded.

DCP's own format is pickles. It would crash on a file that was cut short and load one with a flipped bit without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist  # noqa: TID253
import torch.distributed.checkpoint as dcp  # noqa: TID253
from torch.distributed.checkpoint import CheckpointException  # noqa: TID253
from torchtitan.components.checkpointer import CheckpointManager  # noqa: TID253
from torchtitan.components.checkpointer.base import DATALOADER, MODEL  # noqa: TID253
from torchtitan.components.checkpointer.dcp import AsyncMode  # noqa: TID253
from torchtitan.tools.logging import logger  # noqa: TID253

from smolrecipe import StageError
from smolrecipe.durable import discard, sweep
from smolrecipe_torchtitan.sealed import SEAL, UNSEALED, damage_of
from smolrecipe_torchtitan.sealed_storage import PlainLoadPlanner, PlainSavePlanner, SealedReader, SealedWriter

LEAST_KEPT = 2
"""Whole checkpoints that a running stage keeps: should the last one turn out damaged, there is one before it."""


class StageCheckpoints(CheckpointManager):
    """torchtitan's checkpoint manager with sealed checkpoints.

    Old checkpoints go when a new one is whole, and not when it has only been begun.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's, with how many checkpoints are published, who is told of each that is whole, and how many steps
        of the trajectory came before this stage, which counts its own."""

        keep: int = 1
        saved: Callable[[int], None] = lambda step: None
        before: int = 0

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self._keep = max(LEAST_KEPT, config.keep)
        self._saved = config.saved
        self._before = config.before
        self._unsealed: int | None = None

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future[Any] | None:
        """Write a checkpoint: beside training where ``async_mode`` says so, else now."""
        parts: Any = {
            "storage_writer": SealedWriter(Path(checkpoint_id), self._retire),
            "planner": PlainSavePlanner(),
            "process_group": self.pg,
        }
        if async_mode == AsyncMode.ASYNC:
            saving: Any = dcp.async_save(state_dict, **parts)
            return saving
        dcp.save(state_dict, **parts)
        return None

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """Load a checkpoint, or a Hugging Face folder."""
        if from_hf:
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        reader, planner = SealedReader(Path(checkpoint_id)), PlainLoadPlanner()
        dcp.load(state_dict, storage_reader=reader, planner=planner, process_group=self.pg)
        self.states[MODEL].load_state_dict(state_dict)

    def is_due(self, step: int) -> bool:
        """Whether this step's checkpoint is saved by itself."""
        return bool(self._should_save(step))

    def has_failed(self) -> bool:
        """Whether what was being saved beside training turned out not to be saved."""
        return self.save_future is not None and self.save_future.done() and self.save_future.exception() is not None

    def notice_saved(self) -> None:
        """Take note of a checkpoint that has become whole since the last call."""
        if self.save_future is not None and self.save_future.done():
            self.maybe_wait_for_saving()

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if not self._should_save(curr_step, last_step):
            return False
        self.maybe_wait_for_saving()
        self._unsealed = curr_step
        with self._sentences():
            super()._save(curr_step, last_step)
        if self.save_future is None:
            self._sealed()
        return True

    def _wait_for_saving(self) -> None:
        with self._sentences():
            super()._wait_for_saving()
        self._sealed()

    def _sealed(self) -> None:
        step, self._unsealed = self._unsealed, None
        if step is not None:
            self._saved(step - self._before)

    def _retire(self) -> None:
        try:
            retire(Path(self.folder), self._keep, self.interval)
        except OSError as error:  # which costs room, and no work
            logger.warning("an old checkpoint could not be deleted: %s", error)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what DCP collects from all processes into one sentence, and give back the room of what is unfinished."""
        try:
            yield
        except CheckpointException as error:
            cause = cause_of(error)
            step = self._unsealed if self._unsealed is not None else 0
            if dist.get_rank() == 0:
                with suppress(OSError):
                    discard(Path(self._create_checkpoint_id(step)))
            if isinstance(cause, StageError):
                raise cause from None
            raise StageError(f"the checkpoint of step {step - self._before} could not be saved: {cause}") from cause

    def _load(self, step: int = -1) -> bool:
        # A stage goes on where it stopped in its own data, but starts its data itself after another stage.
        resuming = self._find_load_step() != -1
        self.exclude_from_loading = [] if resuming else [DATALOADER]
        return super()._load(step)

    def _find_load_step(self, folder: str = "") -> int:
        return max(sealed_steps(Path(folder or self.folder)), default=-1)


def cause_of(error: CheckpointException) -> BaseException:
    """What went wrong in one of the processes that saved or loaded together: what a disk said, if one did."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


# --- which there are --------------------------------------------------------------------------------------------------


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step, the last first; whole or not."""
    found = {}
    for path in folder.glob("step-*") if folder.is_dir() else ():
        if match := re.fullmatch(r"step-(\d+)", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items(), reverse=True))


def sealed_steps(folder: Path) -> dict[int, Path]:
    """Those of them that were finished."""
    return {step: path for step, path in steps_of(folder).items() if (path / SEAL).is_file()}


def find_whole(folder: Path, before: int, group: Any, say: Callable[[str], None]) -> int | None:
    """The step of the last whole checkpoint in a folder; later ones, which are not whole, are deleted.

    All processes of ``group`` call this together, before anything is loaded. ``before`` are the steps of the trajectory
    before this stage.
    """
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        sweep(folder)
        found = [steps_of(folder)]
    dist.broadcast_object_list(found, src=0, group=group)
    whole = None
    for step, path in found[0].items():
        damage = damage_seen_by_anyone(path, group)
        if damage is None:
            whole = int(step)
            break
        what = f"was not finished, or {damage}" if damage == UNSEALED else f"is damaged: {damage}"
        say(f"the checkpoint of step {step - before} is not used: it {what}")
        if dist.get_rank() == 0:
            discard(path)
    dist.barrier(group=group)
    return whole


def damage_seen_by_anyone(folder: Path, group: Any) -> str | None:
    """``damage_of``, with the work shared by all processes of ``group``, which all get the same answer."""
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, damage_of(folder, dist.get_rank(), dist.get_world_size()), group=group)
    return next((damage for damage in found if damage is not None), None)


# --- which stay -------------------------------------------------------------------------------------------------------


def retire(folder: Path, keep: int, interval: int) -> None:
    """Delete all but the last checkpoint and the last ``keep`` of those that are saved every ``interval`` steps.

    One that was saved because the stage was asked to stop counts for nothing once there is a later one, so that an
    interrupted stage keeps, and publishes, the same checkpoints as another.
    """
    sealed = sealed_steps(folder)
    regular = [step for step in sealed if step % interval == 0]
    staying = {*list(sealed)[:1], *regular[:keep]}
    for step, path in steps_of(folder).items():
        if step not in staying and step < max(sealed, default=0):
            discard(path)


def leave_published(folder: Path, count: int, interval: int, before: int) -> list[tuple[int, Path]]:
    """Delete all but the ``count`` checkpoints that are published, and return those, the last first.

    Raises:
        StageError: when one of them is damaged. It and those after it are deleted, so that they are made again.
    """
    sweep(folder)
    checkpoints = sealed_steps(folder)
    last = max(checkpoints)
    published = [step for step in checkpoints if step == last or step % interval == 0][:count]
    for step in reversed(published):
        if (damage := damage_of(checkpoints[step])) is not None:
            for later, path in steps_of(folder).items():
                if later >= step:
                    discard(path)
            raise StageError(
                f"the checkpoint of step {step - before} is damaged ({damage}): it is deleted with those after it, and "
                "made again when the stage runs again"
            )
    for step, path in steps_of(folder).items():
        if step not in published:
            discard(path)
    return [(step, checkpoints[step]) for step in published]

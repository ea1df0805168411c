"""torchtitan's checkpoints, made safe to resume from: each is sealed with checksums, and only a whole one is loaded.

::

    checkpoints/step-<n>/__<process>_<i>.distcp     tensors, written by PyTorch's distributed checkpoint (DCP)
                         .metadata                  which tensor is where; DCP writes it last
                         checksums-<process>.json   sha256 of the files that the process wrote
                         data_position.json         how far each data source was read (published checkpoints)

DCP alone would crash on a file that was cut short and load one with a flipped bit without a word.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from torch.distributed.checkpoint import FileSystemReader, Metadata  # noqa: TID253
from torchtitan.components.checkpointer import CheckpointManager  # noqa: TID253
from torchtitan.components.checkpointer.base import DATALOADER  # noqa: TID253

METADATA = ".metadata"


class StageCheckpoints(CheckpointManager):
    """torchtitan's checkpoint manager with sealed checkpoints."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's."""

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if not super()._save(curr_step, last_step):
            return False
        folder = Path(self._create_checkpoint_id(curr_step))
        if self.save_future is None:
            seal(folder, dist.get_rank())
        else:
            self.save_future = _after(self.save_future, lambda: seal(folder, dist.get_rank()))
        return True

    def _load(self, step: int = -1) -> bool:
        # A stage goes on where it stopped in its own data, but starts its data itself after another stage.
        resuming = self._find_load_step() != -1
        self.exclude_from_loading = [] if resuming else [DATALOADER]
        return super()._load(step)


def _after(future: Future[Any], action: Callable[[], None]) -> Future[Any]:
    """A future that is done when ``future`` is and ``action`` has run after it, in the thread that finished it."""
    done: Future[Any] = Future()

    def finish(finished: Future[Any]) -> None:
        try:
            result = finished.result()
            action()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    future.add_done_callback(finish)
    return done


def seal(folder: Path, process: int) -> None:
    """Write the checksums of what this process wrote into a checkpoint. The first process answers for the metadata."""
    files = sorted(folder.glob(f"__{process}_*"))
    if process == 0:
        files.append(folder / METADATA)
    checksums = {file.name: _sha256(file) for file in files}
    target = folder / f"checksums-{process}.json"
    target.with_suffix(".tmp").write_text(json.dumps(checksums, indent=1))
    target.with_suffix(".tmp").replace(target)


def read_metadata(folder: Path) -> Metadata:
    """What a checkpoint holds: tensors with their shapes, and which file each lies in."""
    return FileSystemReader(folder).read_metadata()


def is_whole(folder: Path, share: int = 0, shares: int = 1) -> bool:
    """Whether every file of a checkpoint is there and is what was written.

    ``shares`` processes may each look at a part of the files; the checkpoint is whole when all of them say so.
    """
    written: dict[str, str] = {}
    try:
        for path in folder.glob("checksums-*.json"):
            written.update(json.loads(path.read_text()))
        if written.get(METADATA) != _sha256(folder / METADATA):
            return False
        needed = sorted({info.relative_path for info in read_metadata(folder).storage_data.values()})
        return all(written.get(name) == _sha256(folder / name) for name in needed[share::shares])
    except (OSError, ValueError):
        return False


def steps_of(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step, the last first; whole or not."""
    found = {}
    for path in folder.glob("step-*") if folder.is_dir() else ():
        if match := re.fullmatch(r"step-(\d+)", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items(), reverse=True))


def find_whole(folder: Path, device: torch.device, say: Callable[[str], None]) -> int | None:
    """The step of the last whole checkpoint in a folder; later ones, which are not whole, are deleted.

    All processes call this together, before anything is loaded.
    """
    found = [list(steps_of(folder)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0, device=device)
    whole = None
    for step in found[0] or ():
        path = folder / f"step-{step}"
        if is_whole_everywhere(path, device):
            whole = step
            break
        say(f"the checkpoint of step {step} was not finished, or is damaged: it is not used")
        if dist.get_rank() == 0:
            shutil.rmtree(path)
    dist.barrier()
    return whole


def is_whole_everywhere(folder: Path, device: torch.device) -> bool:
    """``is_whole``, with the work shared by all processes, which all get the same answer."""
    mine = is_whole(folder, dist.get_rank(), dist.get_world_size())
    everyone = torch.tensor(int(mine), device=device)
    dist.all_reduce(everyone, op=dist.ReduceOp.MIN)
    return bool(everyone.item())


def keep_last(folder: Path, count: int) -> list[tuple[int, Path]]:
    """Delete all but the last ``count`` checkpoints and return those, the last first."""
    checkpoints = list(steps_of(folder).items())
    for _, path in checkpoints[count:]:
        shutil.rmtree(path)
    return checkpoints[:count]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

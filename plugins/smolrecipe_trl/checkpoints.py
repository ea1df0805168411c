"""The checkpoints that an interrupted stage goes on from.

::

    trainer/checkpoint-<step>/   what the engine saves: weights, optimizer, schedule, states of random numbers
                course.json      which rows it was trained on, and what was measured before the first step
                seal.json        the sha256 of every file, written last
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from smolrecipe.durable import discard, sweep, write_whole
from smolrecipe_trl.seals import SEAL, damage, seal

_NAME = re.compile(r"checkpoint-(\d+)")
_COURSE = "course.json"

KEPT = 2
"""Sealed checkpoints kept: where the last one is damaged, there is one before it."""


@frozen
class CourseSoFar:
    """What a checkpoint knows besides what the engine saves."""

    step: int
    rows: str
    """The rows it was trained on, see ``RowFiles.identity``."""
    before: Mapping[str, Any]
    """What was measured before the first step: a stage that goes on has another model by then."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the engine writes the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def finish(checkpoint: Path, course: CourseSoFar) -> None:
    """Seal a checkpoint of which every process has written its part."""
    write_whole(checkpoint / _COURSE, json.dumps(asdict(course)))
    seal(checkpoint)


def thin_out(folder: Path) -> None:
    """Delete all checkpoints but the last that are sealed."""
    kept = sorted((path for path in _checkpoints(folder) if (path / SEAL).exists()), key=step_of)[-KEPT:]
    for path in _checkpoints(folder):
        if path not in kept:
            discard(path)


def course_of(checkpoint: Path) -> CourseSoFar:
    """What a whole checkpoint knows besides what the engine saves."""
    return CourseSoFar(**json.loads((checkpoint / _COURSE).read_text(encoding="utf-8")))


def last_sealed_step(folder: Path) -> int:
    """The step of the latest checkpoint that was sealed, 0 where there is none; whether it is damaged is not asked."""
    return max((step_of(path) for path in _checkpoints(folder) if (path / SEAL).exists()), default=0)


def choose(folder: Path, rows: str, remade: Mapping[str, int], say: Callable[[str], None]) -> Path | None:
    """The latest checkpoint that can be gone on from. Those after it are deleted, and it is said why.

    Args:
        rows: the rows there are to train on now.
        remade: name -> step of what has to be published once more on the way.
    """
    sweep(folder)
    there = sorted(_checkpoints(folder), key=step_of, reverse=True)
    for path in there:
        later = next((name for name, step in remade.items() if step <= step_of(path)), None)
        reason = f"comes after '{later}', which is made again," if later is not None else damage(path)
        if reason is None and (course := course_of(path)).step != step_of(path):
            reason = f"is that of step {course.step}"
        elif reason is None and course.rows != rows:
            reason = "was trained on other rows than there are now"
        if reason is None:
            return path
        say(f"{path.name} {reason} and is not used")
        discard(path)
    if there:
        say("no checkpoint is left: starting from the first step")
    return None


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved after."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []

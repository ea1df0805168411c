"""The checkpoints that an interrupted stage goes on from, and telling a whole one from one that was cut short."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
_COMPLETE = "complete.json"

KEPT = 2
"""Checkpoints kept. The engine deletes the oldest before the newest is marked, so that one marked always remains."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the engine writes the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def mark_complete(checkpoint: Path) -> None:
    """Note, once all processes have written theirs, which files the checkpoint has and how long they are."""
    partial = checkpoint / f"{_COMPLETE}.partial"
    partial.write_text(json.dumps(_sizes(checkpoint)))
    partial.replace(checkpoint / _COMPLETE)


def is_complete(checkpoint: Path) -> bool:
    """Whether the checkpoint was marked and still has all of its files in full length."""
    try:
        noted = json.loads((checkpoint / _COMPLETE).read_text())
        found = _sizes(checkpoint)
    except (OSError, ValueError):  # there is no mark, or another process is deleting the checkpoint
        return False
    return all(found.get(name) == size for name, size in noted.items())


def last_complete(folder: Path) -> Path | None:
    """The latest complete checkpoint in the folder."""
    return max((path for path in _checkpoints(folder) if is_complete(path)), key=_step, default=None)


def remove_incomplete(folder: Path) -> list[Path]:
    """Delete the checkpoints that were cut short and return which they were."""
    removed = [path for path in _checkpoints(folder) if not is_complete(path)]
    for path in removed:
        shutil.rmtree(path)
    return removed


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _step(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_COMPLETE))
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}

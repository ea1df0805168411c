"""Files and folders that are there whole or not at all, even when the process or the machine dies in between."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

_REMOVED = ".removed-"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old or its new content, whatever happens."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as ``write_whole`` writes."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has; a renamed file has its new name for sure only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Delete a folder, if it is there. It leaves its place first, so that half of it is never taken for the whole."""
    removed = folder.with_name(f"{_REMOVED}{folder.name}")
    if removed.exists():
        shutil.rmtree(removed)
    if folder.exists():
        folder.rename(removed)
        shutil.rmtree(removed)


def sweep(folder: Path) -> None:
    """Delete what a ``discard`` in this folder has left when it was cut short."""
    for path in folder.glob(f"{_REMOVED}*") if folder.is_dir() else ():
        shutil.rmtree(path)

"""Files and folders that are there whole or not at all, even when the process or the machine dies in between."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_REMOVED = ".removed-"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, to the disk, and rename it into place."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Delete a folder. It leaves its place first, so that half of it is never taken for the whole."""
    removed = folder.with_name(f"{_REMOVED}{folder.name}")
    if removed.exists():
        shutil.rmtree(removed)
    folder.rename(removed)
    shutil.rmtree(removed)


def sweep(folder: Path) -> None:
    """Delete what a ``discard`` in this folder has left when it was cut short."""
    for path in folder.glob(f"{_REMOVED}*") if folder.is_dir() else ():
        shutil.rmtree(path)

"""A local file read from its beginning: that it is one, and that nobody has changed it in the meantime."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from smolrecipe import StageError
from smolrecipe_data.wording import printable


def what_it_is(path: Path) -> str:
    """What is at a path that should be a file, for a sentence; nothing where there is one that can be read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "nothing"
    except (OSError, ValueError) as error:  # a folder on the way that may not be entered, a path no system takes
        return f"nothing that can be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "a folder"
    if not stat.S_ISREG(mode):
        return "a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else "a file that may not be read"


@contextmanager
def open_steady(path: Path) -> Iterator[BinaryIO]:
    """The file, open; whoever has read enough of it leaves the block, and then it must be what it was.

    Raises:
        StageError: for what is no file or cannot be read, and for a file that went away or was changed while it was
            read: its rows so far may be those of two files.
    """
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  closed below, on all ways out
    except (OSError, ValueError) as error:
        found = what_it_is(path) or getattr(error, "strerror", None) or str(error)
        raise StageError(f"{printable(path)} cannot be read: there is {found}") from error
    with file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise StageError(f"{printable(path)} cannot be read: there is {what_it_is(path) or 'no file'}")
        try:
            yield file
        except (StageError, OSError) as error:
            if changed := _change(path, before):
                raise StageError(changed) from error
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise StageError(f"{printable(path)} cannot be read to its end: {reason}") from error
            raise
        if changed := _change(path, before):
            raise StageError(changed)


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe without waiting for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _change(path: Path, before: os.stat_result) -> str:
    """In a sentence what has become of the file since; nothing where it is the same."""
    try:
        now = path.stat()
    except OSError:
        return f"{printable(path)} went away while it was read: put it back and run again"
    if _identity(now) == _identity(before):
        return ""
    return (
        f"{printable(path)} was changed while it was read, so that its rows may be of two files: run again when nobody "
        "writes to it any more"
    )


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""Where files could not be written: which file system it is, and how much room it has left."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
BROKEN = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV}
"""What file systems say that went away: a network that is down, a disk that fails."""

_ALMOST_NOTHING = 4 << 20
"""Free bytes below which a file system counts as full where nothing says which one it was."""


def full_sentence(number: int, path: str | None, folder: Path) -> str:
    """Say that there was no room for ``path``, or for something that a stage with this folder wrote."""
    where = Path(path) if path else _fullest(folder)
    what = f"write {path}" if path else f"write in {where}"
    if number == errno.EFBIG:
        return f"cannot {what}: the file is larger than this process may make it (ulimit -f); raise that limit"
    if number == errno.EDQUOT:
        return f"cannot {what}: the quota is used up; delete something there, or choose another place with --runs"
    return (
        f"cannot {what}: no space is left on the disk ({room(where)}); make room there, or choose another place "
        "with --runs"
    )


def unfinished_sentence(words: str, folder: Path) -> str:
    """Say that a library could not write a file to its end; it keeps the system's reason to itself."""
    where = _fullest(folder)
    if is_almost_full(where):
        return full_sentence(errno.ENOSPC, None, folder)
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return full_sentence(errno.EFBIG, None, folder)
    return f"cannot write in {where} ({words.strip()}; {room(where)}): look for a quota there"


def forbidden_sentence(number: int, path: str | None, folder: Path) -> str:
    """Say that ``path``, or something in the folder, may not be written (or read)."""
    what = path or f"something in {folder}"
    if number == errno.EROFS:
        return f"cannot write {what}: the file system is read-only; mount it for writing, or choose another with --runs"
    return f"no permission for {what}: mend its owner or mode, or choose another place with --runs"


def broken_sentence(number: int, path: str | None, folder: Path) -> str:
    """Say that the file system below ``path`` fails."""
    return f"cannot reach {path or f'something in {folder}'} ({os.strerror(number)}): look after that disk or mount"


def room(path: Path) -> str:
    """``1.5 MiB of 64.0 MiB free`` on the file system of a path, or of the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    free, size = _free(path)
    return f"{_text(free)} of {_text(size)} free"


def is_almost_full(folder: Path) -> bool:
    """Whether the file system of a folder has next to nothing left."""
    return _free(folder)[0] < _ALMOST_NOTHING


def _fullest(folder: Path) -> Path:
    """The folder itself, unless it has room and another that programs write to has none."""
    others = [Path(tempfile.gettempdir()), Path("/dev/shm"), Path.cwd()]
    return next((path for path in (folder, *others) if path.is_dir() and is_almost_full(path)), folder)


def _free(path: Path) -> tuple[int, int]:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _text(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

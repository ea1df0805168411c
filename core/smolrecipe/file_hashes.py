"""Hashes of files, each made once as long as the file stays as it is: in this process, and of large ones for good.

Sources call ``file_hash`` for their ``fingerprint``. A data set of ten terabytes takes hours to read. Its hashes are
kept in the run store, so that the next command, which needs them for the same digests, looks at sizes and times alone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from pathlib import Path

from smolrecipe.durable import write_whole

MEMORY_FOLDER = ".file-hashes"
"""In the run store; may be deleted at any time."""

_LARGE = 2**24
"""Bytes: a smaller file is read again sooner than it is worth remembering, in some 10 ms."""
_SETTLED = 2.0
"""Seconds since a file last changed. A change that comes so soon after may bear the same time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

_memory: Path | None = None


def remember_in(store: Path) -> None:
    """Have hashes of large files remembered in a run store, the folder of all runs."""
    global _memory
    _memory = store / MEMORY_FOLDER


def file_hash(file: Path) -> str:
    """The file's sha256.

    Raises:
        OSError: when it cannot be read.
    """
    stat = file.stat()
    if stat.st_size == 0:
        return hashlib.sha256().hexdigest()  # unread: what the kernel shows as a file may have no end
    return _hash(file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.cache
def _hash(file: Path, *state: int) -> str:
    """``state`` (inode, size, times of change) is there to forget the hash when the file changes."""
    _, size, _, changed_ns = state
    if _memory is None or size < _LARGE:
        return _read(file)
    name = hashlib.sha256(os.fsencode(file.resolve()) + repr(state).encode()).hexdigest()
    if (known := _remembered(_memory / name)) is not None:
        return known
    settled = time.time() - changed_ns / 1e9 > _SETTLED
    found = _read(file)
    if settled and _is_still(file, state):
        _remember(_memory / name, found)
    return found


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_still(file: Path, state: tuple[int, ...]) -> bool:
    stat = file.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == state


def _remembered(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    text = content.decode("ascii", "replace")
    return text if _SHA256.fullmatch(text) else None


def _remember(path: Path, digest: str) -> None:
    """Where the store cannot be written, the next command reads the file again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, digest)
    except OSError:
        return

"""What ended a stage's process, told from the exception that reached its end, and said in a sentence.

The engines wrap what the system told them, in ways of their own. Everything that an exception was raised from is looked
at: a full disk below a checkpoint's error is a full disk.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from smolrecipe.errors import UserError
from smolrecipe.running.disk import (
    BROKEN,
    FORBIDDEN,
    FULL,
    broken_sentence,
    forbidden_sentence,
    full_sentence,
    unfinished_sentence,
)

Kind = Literal["told", "disk", "memory", "lost", "crash"]

_WRITTEN_ERRNO = re.compile(r"(?:os error |errno )(\d+)", re.IGNORECASE)
_WRITTEN = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
}
_FAILED_WRITE = re.compile(r"PytorchStreamWriter failed writing|file write failed|unexpected pos \d+ vs \d+")
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory|bad_alloc", re.IGNORECASE
)
_LOST = re.compile(
    r"Connection (closed|reset) by peer|Connection reset by remote peer|Connection refused|Broken pipe|"
    r"Timed out waiting|Timeout waiting for|Socket Timeout|Wait timeout|failed to recv, got 0 bytes|"
    r"gloo/transport|ncclRemoteError|ncclSystemError|NCCL.*(timed? ?out|abort)|Watchdog caught collective",
    re.IGNORECASE,
)
_LOST_TYPES = {"DistNetworkError", "DistStoreError", "DistBackendError"}


@frozen
class Cause:
    """Why a process ended: ``told`` by the stage itself, something about the ``disk`` or ``memory``, another process
    that was ``lost`` to it, or a ``crash``; and what is said of it.
    """

    kind: Kind
    message: str


def cause_of(error: BaseException, folder: Path) -> Cause:
    """The cause that an exception tells of; ``folder`` is the stage's."""
    chain = list(_chain(error, implicit=True))
    own = isinstance(error, UserError)
    said = str(error) if own else _plain(error)
    if found := _full(chain, folder) or _unreachable(list(_chain(error, implicit=False)), folder):
        return Cause("disk", f"{said} ({found})" if own else found)
    if any(_is_lost(link) for link in chain):
        return Cause("lost", said)
    if own:
        return Cause("told", said)
    if any(_is_out_of_memory(link) for link in chain):
        return Cause("memory", f"memory ran out ({said}): {LESS_MEMORY}")
    if found := _vanished(error, folder):
        return Cause("disk", found)
    return Cause("crash", said)


LESS_MEMORY = (
    "take fewer rows at a time (a smaller micro-batch with as many more accumulation steps) or shorter rows, or share "
    "the model among more devices"
)


def _plain(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException, *, implicit: bool, seen: set[int] | None = None) -> Iterator[BaseException]:
    """The exception, all that it was raised from, and those of other processes that it carries.

    ``implicit``: what was being handled meanwhile, too, which may have nothing to do with it.
    """
    seen = set() if seen is None else seen
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    carried = getattr(error, "failures", None)  # torch.distributed.checkpoint: rank -> (exception, traceback)
    inner = [pair[0] for pair in carried.values() if isinstance(pair, tuple)] if isinstance(carried, Mapping) else []
    if isinstance(error, BaseExceptionGroup):
        inner.extend(error.exceptions)
    if implicit:
        inner.append(error.__context__)
    for other in (error.__cause__, *inner):
        if isinstance(other, BaseException):
            yield from _chain(other, implicit=implicit, seen=seen)


def _full(chain: list[BaseException], folder: Path) -> str:
    for link in chain:
        if (number := _errno_of(link)) in FULL:
            return full_sentence(number, _path_of(link), folder)
    if words := next((str(link) for link in chain if _FAILED_WRITE.search(str(link))), ""):
        return unfinished_sentence(words, folder)
    return ""


def _unreachable(chain: list[BaseException], folder: Path) -> str:
    for link in chain:
        number, path = _errno_of(link), _path_of(link)
        if number in FORBIDDEN and (number != errno.EPERM or path):
            return forbidden_sentence(number, path, folder)
        if number in BROKEN and isinstance(link, OSError):
            return broken_sentence(number, path, folder)
    return ""


def _errno_of(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    for words, number in _WRITTEN.items():
        if words in text:
            return number
    match = _WRITTEN_ERRNO.search(text)
    return int(match[1]) if match and type(error).__name__ in ("SafetensorError", "OSError", "Exception") else 0


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return False  # of the network at large; what the processes of a stage say to each other has other names
    return type(error).__name__ in _LOST_TYPES or (isinstance(error, RuntimeError) and bool(_LOST.search(str(error))))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_NO_MEMORY.search(str(error)))


def _vanished(error: BaseException, folder: Path) -> str:
    """A sentence about a file outside the stage's folder that is not there; a missing file of its own is a bug."""
    for link in _chain(error, implicit=False):
        if isinstance(link, FileNotFoundError):
            path = _path_of(link)
            if path is None:
                return f"a file that the stage reads is not there: {link}; bring it back"
            if not Path(path).absolute().is_relative_to(folder.absolute()):
                return f"{path}, which the stage reads, is not there (any more): bring it back"
    return ""


def _path_of(error: BaseException) -> str | None:
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(path, bytes):
        return path.decode(errors="replace")
    return str(path) if isinstance(path, str) or hasattr(path, "__fspath__") else None

"""One process writes a run: the lock of a recipe's run store, and who holds it.

::

    runs/<recipe>/run.lock    held (flock) for the whole of a run, and deleted when that ends

The kernel frees the lock when the last process that holds its descriptor is gone, however it went. A stage's first
process and what writes its log inherit the descriptor: where the runner alone was killed, the lock lasts as long as
they do. What a killed run leaves is the file, unlocked, with the name of the process that is gone.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import asdict, frozen

from smolrecipe.errors import RecipeError, UserError
from smolrecipe.running.redact import redact
from smolrecipe.running.store import unwritable

LOCK_FILE = "run.lock"

WAIT_SECONDS = 20.0
"""How long a run waits for the processes of one that was killed: the kernel ends them, and they need a moment."""

_POLL_SECONDS = 0.1
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_LARGEST = 1 << 16


class LockedError(UserError):
    """Another process writes this run."""


@frozen(kw_only=True)
class Holder:
    """Who wrote a lock file."""

    process: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.since}: {self.command})"

    @property
    def is_dead(self) -> bool:
        """Whether that process is known to be gone; of another machine's nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


@frozen(kw_only=True)
class HeldLock:
    """The lock of a run while it is held."""

    descriptor: int
    """To be inherited by what writes the run."""
    left: Holder | None
    """Who held it before and ended without finishing."""


@contextmanager
def hold_run(root: Path, command: str) -> Iterator[HeldLock]:
    """Hold the run store ``root`` (``runs/<recipe>``, which exists) for this process, which runs ``command``.

    Raises:
        LockedError: when another process holds it; the message names that process.
        RecipeError: when the file system cannot lock, or not be written.
    """
    path = root / LOCK_FILE
    descriptor = _lock(path)
    try:
        left = _read(path)
        holder = Holder(process=os.getpid(), host=socket.gethostname(), since=_now(), command=redact(command))
        _write(root, descriptor, holder)
        yield HeldLock(descriptor=descriptor, left=left)
    finally:
        if _is_still_there(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Open and lock the file, and be sure that it is still the one with that name: who held it may have deleted it."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_there(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = _read(path)
            lives = holder is not None and not holder.is_dead
            if path.exists() and (lives or time.monotonic() > end):
                os.close(descriptor)
                raise LockedError(_refusal(path.parent, holder)) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _CANNOT_LOCK:
                raise
            raise RecipeError(
                [
                    f"the file system of {path.parent} cannot lock files ({error.strerror}), so that two runs could "
                    "write the same artifacts: mount it with locks (Lustre: -o flock), or choose another with --runs"
                ]
            ) from None
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise unwritable(path.parent, error) from None


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        named, locked = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)


def _read(path: Path) -> Holder | None:
    """Who the file names; nobody where it is new, or being written in this moment."""
    try:
        with path.open("rb") as file:
            return Holder(**json.loads(file.read(_LARGEST)))
    except (OSError, ValueError, TypeError):
        return None


def _write(root: Path, descriptor: int, holder: Holder) -> None:
    content = json.dumps(asdict(holder)).encode()
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    except OSError as error:
        raise unwritable(root, error) from None


def _refusal(root: Path, holder: Holder | None) -> str:
    if holder is None:
        return f"{root} is being written by another process, which does not say its name: wait for it"
    if holder.is_dead:
        return (
            f"{root} was being written by {holder}, which is gone, and what it started still holds the lock after "
            f"{WAIT_SECONDS:.0f} s: end those processes, or wait for them"
        )
    return (
        f"{root} is being written by {holder}: wait until it has ended, or stop it (kill {holder.process}: it saves "
        "first) and run the same command again, which goes on from there"
    )


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")

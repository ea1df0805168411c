"""One process writes an artifact: the locks of a recipe's run store, and who holds them.

::

    runs/<recipe>/run.lock                   held (flock) for the whole of a run, and deleted when that ends
    runs/<recipe>/<stage>-<digest12>.lock    held by a process that runs this one stage, which shares run.lock with
                                             others that run other stages: a whole run is alone, single stages are not
    runs/<recipe>/common.lock                held by such a process while it writes what is common to all stages

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
from smolrecipe.running.held_file import is_held
from smolrecipe.running.redact import redact
from smolrecipe.running.store import unwritable
from smolrecipe.strict_json import read_mapping

LOCK_FILE = "run.lock"
COMMON_FILE = "common.lock"
_SUFFIX = ".lock"

WAIT_SECONDS = 20.0
"""How long a run waits for the processes of one that was killed: the kernel ends them, and they need a moment."""

ELSEWHERE_SECONDS = 120.0
"""How long one stage's run waits for its lock where a process of another machine holds it, which may have died with
that machine: servers of network file systems free its locks after a lease, of 90 seconds in NFS."""

_POLL_SECONDS = 0.1
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_LARGEST = 1 << 16
_LARGEST_PROCESS = 1 << 31


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
    def is_here(self) -> bool:
        """Whether that process is, or was, one of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether that process is known to be gone; of another machine's nothing is known."""
        if not self.is_here:
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
    """The lock of a run, or of one of its stages, while it is held."""

    descriptor: int
    """To be inherited by what writes the run."""
    left: Holder | None
    """Who held it before and ended without finishing."""
    shared: int | None = None
    """The descriptor of the run's lock where this is a stage's."""

    @property
    def inherited(self) -> tuple[int, ...]:
        """All descriptors that what writes the run, or the stage, inherits."""
        return (self.descriptor,) if self.shared is None else (self.descriptor, self.shared)


@contextmanager
def hold_run(root: Path, command: str) -> Iterator[HeldLock]:
    """Hold the run store ``root`` (``runs/<recipe>``, which exists) for this process, which runs ``command``.

    Raises:
        LockedError: when another process holds it, or a stage of it; the message names that process.
        RecipeError: when the file system cannot lock, or not be written.
    """
    path = root / LOCK_FILE
    with _held(path, _lock(path)) as descriptor:
        left = _read(path)
        _write(root, descriptor, command)
        yield HeldLock(descriptor=descriptor, left=left)


@contextmanager
def hold_stage(root: Path, folder_name: str, command: str) -> Iterator[HeldLock]:
    """Hold one stage of the run store for this process, which may run beside others that hold other stages.

    Raises:
        LockedError: when another process holds that stage, or the whole store; the message names that process.
        RecipeError: when the file system cannot lock, or not be written.
    """
    run, path = root / LOCK_FILE, root / f"{folder_name}{_SUFFIX}"
    with _held(run, _lock(run, shared=True), shared=True) as shared:
        killed = _read(run)
        os.ftruncate(shared, 0)  # nobody holds the whole store, and many may hold this
        with _held(path, _lock(path, elsewhere=ELSEWHERE_SECONDS)) as descriptor:
            left = _read(path) or killed
            _write(root, descriptor, command)
            yield HeldLock(descriptor=descriptor, left=left, shared=shared)


@contextmanager
def hold_common(root: Path) -> Iterator[None]:
    """Wait until no other process that runs a single stage writes what is common to all stages, and keep them off.

    Raises:
        RecipeError: when the file system cannot lock, or not be written.
    """
    path = root / COMMON_FILE
    with _held(path, _lock(path, patient=True)):
        yield


def holders(root: Path) -> list[Holder]:
    """Who the lock files in a run store name: its writers, and those that ended without deleting theirs."""
    return [holder for path in sorted(root.glob(f"*{_SUFFIX}")) if (holder := _read(path)) is not None]


@contextmanager
def _held(path: Path, descriptor: int, *, shared: bool = False) -> Iterator[int]:
    """Close and delete a lock file at the end; one that others share is the last one's to delete."""
    try:
        yield descriptor
    finally:
        if _is_still_there(path, descriptor) and (not shared or _is_last(descriptor)):
            path.unlink()
        os.close(descriptor)


def _is_last(descriptor: int) -> bool:
    """Make a shared lock the only one, if it is; where it is not, it is lost."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock(path: Path, *, shared: bool = False, elsewhere: float = 0.0, patient: bool = False) -> int:
    """Open and lock the file, and be sure that it is still the one with that name: who held it may have deleted it.

    A holder that lives is not waited for, but where the caller is ``patient``; one of another machine ``elsewhere``
    seconds.
    """
    begun = time.monotonic()
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is_still_there(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = _read(path) or _holder_of_a_stage(path)
            if holder is None or holder.is_dead:
                patience = WAIT_SECONDS
            else:
                patience = 0.0 if holder.is_here else elsewhere
            if path.exists() and not patient and time.monotonic() - begun >= patience:
                os.close(descriptor)
                raise LockedError(_refusal(path, holder)) from None
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


def _holder_of_a_stage(run: Path) -> Holder | None:
    """Who holds a stage's lock, where the run's is shared by such: the first that is found."""
    if run.name != LOCK_FILE:
        return None
    for path in sorted(run.parent.glob(f"*{_SUFFIX}")):
        if path.name not in (LOCK_FILE, COMMON_FILE) and is_held(path):
            return _read(path)
    return None


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
    """Who the file names; nobody where it is new, or being written in this moment, or no lock file of ours."""
    try:
        told = read_mapping(path, most_bytes=_LARGEST)
        holder = Holder(**{name: told[name] for name in ("process", "host", "since", "command")})
    except (ValueError, KeyError):
        return None
    is_process = isinstance(holder.process, int) and not isinstance(holder.process, bool)
    texts = (holder.host, holder.since, holder.command)
    if not is_process or not 0 < holder.process < _LARGEST_PROCESS or not all(isinstance(text, str) for text in texts):
        return None
    return holder


def _write(root: Path, descriptor: int, command: str) -> None:
    """Write into a lock file that this process, which runs ``command``, holds it."""
    holder = Holder(process=os.getpid(), host=socket.gethostname(), since=_now(), command=redact(command))
    content = json.dumps(asdict(holder)).encode()
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    except OSError as error:
        raise unwritable(root, error) from None


def _refusal(path: Path, holder: Holder | None) -> str:
    root = path.parent if path.name == LOCK_FILE else path.with_suffix("")
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

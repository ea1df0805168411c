"""Handing files that others have made to a library: bounded, and whatever the library makes of them is a sentence."""

from __future__ import annotations

import errno
import resource
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smolrecipe.errors import StageError, UserError
from smolrecipe.strict_json import printable

_OUR_OWN_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE}
"""What the system says of this machine, and not of the files."""


@contextmanager
def untrusted(what: str, *, seconds: float | None = None, gib: float | None = None) -> Iterator[None]:
    """Around a library's work on a file from elsewhere: whatever that raises becomes a ``StageError``.

    A library that panics (some are written in Rust) counts as one that raises. ::

        with untrusted(f"the tokenizer in {folder} does not load", seconds=60):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    Args:
        what: the beginning of the sentence, which names the file; what the library said follows.
        seconds: how long it may take. Only the main thread's Python code is interrupted; elsewhere nothing is.
        gib: how much memory it may take on top of what this process has; for work in pure Python.

    Raises:
        StageError: for everything that goes wrong, except ``UserError``s, which pass, and trouble with this machine.
    """
    try:
        with _alarm(seconds), _less_memory(gib):
            yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except _TimeIsUp:
        raise StageError(f"{what}: it takes longer than {seconds:g} s") from None
    except MemoryError:
        more = f" than {gib:g} GiB" if gib is not None else " than there is"
        raise StageError(f"{what}: it takes more memory{more}") from None
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _OUR_OWN_TROUBLE:
            raise
        if not isinstance(error, (OSError, ValueError)):
            traceback.print_exception(error)  # it may be a bug: for the log
        raise StageError(f"{what}: {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """What an exception says, as a line that a terminal can show."""
    words = " ".join(str(error).split())
    if isinstance(error, (KeyError, IndexError, AttributeError, TypeError, AssertionError)) or not words:
        words = f"{type(error).__name__}: {words}".removesuffix(": ")
    return printable(words)


class _TimeIsUp(BaseException):
    """The seconds that some work may take are over. No library that catches exceptions is to catch it."""


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    begin = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 1e-3))


@contextmanager
def _less_memory(gib: float | None) -> Iterator[None]:
    """Let this process have no more than ``gib`` on top of the address space that it has."""
    size = _address_space() if gib is not None else None
    if gib is None or size is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = size + int(gib * 2**30)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None

"""Starting a stage's processes and waiting for them, with their output, freed of secrets, in the stage's log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from smolrecipe.running import redact
from smolrecipe.stage import die_with_parent
from smolrecipe.stopping import Asked, Interrupted, asked_to_stop

_POLL_SECONDS = 0.1

GRACE_SECONDS = 15.0
"""How long processes that are no stage's, or are stopped because of a failure, may take to end before they are killed.
"""

_KILLED_SECONDS = 5.0
"""How long the kernel may take to end what was killed."""

_LOG_SECONDS = 5.0
"""How long the last lines may take to reach the log once the processes have ended."""


class InterruptedProcessesError(Interrupted):
    """The processes were stopped because this program was asked to stop."""

    def __init__(self, number: int, *, killed: bool) -> None:
        super().__init__(number)
        self.killed = killed
        """Whether they had not ended by themselves."""


def run_processes(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    each_poll: Callable[[], None],
    *,
    grace: float = GRACE_SECONDS,
    inherit: Sequence[int] = (),
) -> int:
    """Run the command in a process group of its own until it ends; call ``each_poll`` several times a second.

    On Ctrl-C or SIGTERM the group gets SIGTERM and ``grace`` seconds, and then SIGKILL; at once on another Ctrl-C. An
    exception in this process ends the group before it goes on. The first process, and what writes the log, hold the
    descriptors ``inherit`` for as long as they live.

    Returns:
        The exit code, negative for a signal.

    Raises:
        InterruptedProcessesError: when this program was asked to stop; the processes have ended.
    """
    with asked_to_stop() as asked, _redacted(log, environment, inherit) as output:
        process = _start(command, environment, output, inherit)
        try:
            while (code := process.poll()) is None and asked.number is None:
                each_poll()
                time.sleep(_POLL_SECONDS)
            if asked.number is not None:
                killed = not _stop(process, grace, asked, each_poll)
        except BaseException:
            _stop(process, GRACE_SECONDS, asked)
            raise
    each_poll()
    if asked.number is not None:
        raise InterruptedProcessesError(asked.number, killed=killed)
    assert code is not None
    return code


def _start(
    command: Sequence[str], environment: Mapping[str, str], output: int, inherit: Sequence[int]
) -> subprocess.Popen[bytes]:
    runner = os.getpid()

    def die_with_runner() -> None:
        die_with_parent()
        if os.getppid() != runner:
            os._exit(1)  # it was killed between starting this process and that request

    return subprocess.Popen(
        list(command),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_runner,
        pass_fds=tuple(inherit),
    )


@contextmanager
def _redacted(log: Path, environment: Mapping[str, str], inherit: Sequence[int]) -> Iterator[int]:
    """The writing end of a pipe whose other end is appended to the log, freed of secrets, by a process of its own.

    That process outlives this one, and so what a stage says last is in the log even when the runner is killed.
    """
    log.touch()
    reading, writing = os.pipe()
    try:
        writer = subprocess.Popen(
            [sys.executable, "-I", "-S", redact.__file__, str(log)],
            env={**os.environ, **environment},
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)
        with suppress(subprocess.TimeoutExpired):
            writer.wait(_LOG_SECONDS)
        # Whatever still holds the other end is no part of the stage, and the log is complete as far as that goes.
        writer.kill()
        writer.wait()


def _stop(
    process: subprocess.Popen[bytes], grace: float, asked: Asked, each_poll: Callable[[], None] = lambda: None
) -> bool:
    """End the process and all that it started: politely, then not.

    Returns:
        Whether the process ended by itself.
    """
    end = time.monotonic() + grace
    by_itself = False
    try:
        _signal(process, signal.SIGTERM)
        while time.monotonic() < end and not asked.at_once and not by_itself:
            each_poll()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
                by_itself = True
    finally:
        _signal(process, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_SECONDS)
    return by_itself


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

"""Starting a stage's processes and waiting for them, with their output in the stage's log."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from smolrecipe.stage import die_with_parent

_POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0
"""How long an interrupted stage may take to end by itself before it is killed."""


def run_processes(
    command: Sequence[str], environment: Mapping[str, str], log: Path, each_poll: Callable[[], None]
) -> int:
    """Run the command in a process group of its own until it ends; call ``each_poll`` several times a second.

    An exception in this process (Ctrl-C above all) ends the whole group before it goes on.

    Returns:
        The exit code, negative for a signal.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            while (code := process.poll()) is None:
                each_poll()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _end_group(process)
            raise
    each_poll()
    return code


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all it started: politely, then not. A second Ctrl-C does not leave orphans."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

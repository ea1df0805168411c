"""One of the other machines of a stage: it starts its part of the processes, and ends with the stage.

It takes no lock and publishes nothing; machine 0 does. What its processes print goes to standard error: the stage's
folder is published the moment that its work is done, with every file in it under a checksum.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from smolrecipe import RecipeError, near_miss
from smolrecipe.launching import (
    TASK_FILE,
    WORKER,
    LostProcessesError,
    Plan,
    RunStore,
    Watch,
    asked_to_stop,
    ends_file,
    is_alive,
    read_notes,
    redact,
)
from smolrecipe.stage import ENDS_VARIABLE, GRACE_VARIABLE
from smolrecipe_slurm import TorchrunOptions, agent_command, environment, uneven

_POLL_SECONDS = 0.2
_AFTER_PUBLISHING = 30.0
"""Seconds in which processes end whose stage is published."""


def join(plan: Plan, store: RunStore, name: str, options: TorchrunOptions, node: int, grace: float) -> int:
    """Run machine ``node``'s part of the stage ``name``.

    Returns:
        The exit code: 0 when the stage is done, 143 when this was asked to stop, 1 for all else.

    Raises:
        RecipeError: when there is no such stage, or it does not fill the machines.
    """
    stage = plan.by_name.get(name)
    if stage is None:
        raise RecipeError([f"recipe '{plan.recipe.name}' has no stage '{name}'{near_miss(name, plan.by_name)}"])
    devices = stage.devices
    if devices.processes % options.nodes:
        raise RecipeError([uneven(devices.processes, options.nodes)])
    folder = store.partial(stage).absolute()
    variables = {
        **environment(options, devices),
        GRACE_VARIABLE: str(grace),
        ENDS_VARIABLE: str(ends_file(folder)),
    }
    command = agent_command(options, devices.processes, node, [*WORKER, str(folder / TASK_FILE)])
    watch, has_met, published_at = Watch(folder), False, 0.0
    with asked_to_stop() as asked, _redacted() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while process.poll() is None and asked.number is None:
                time.sleep(_POLL_SECONDS)
                has_met = has_met or _works_here(folder)
                if has_met and not store.is_published(stage):
                    watch.look()
                elif store.is_published(stage):
                    published_at = published_at or time.monotonic()
                    if not has_met or time.monotonic() - published_at > _AFTER_PUBLISHING:
                        break  # nobody will come to the meeting
        except LostProcessesError:
            click.echo(f"{name}: a process of the stage is gone, and these have not ended since", err=True)
        finally:
            _stop(process, grace if asked.number is not None else 0.0)
    if store.is_published(stage) or process.returncode == 0:
        return 0
    if asked.number is not None:
        return 128 + asked.number
    click.echo(f"{name}: this machine's processes have ended before the stage was done; machine 0 says why", err=True)
    return 1


def _works_here(folder: Path) -> bool:
    """Whether a process of the stage lives on this machine: what an earlier attempt has left says nothing then."""
    here = socket.gethostname()
    return any(note.host == here and is_alive(folder, rank) for rank, note in read_notes(folder).items())


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """End the agent: politely, for it to pass on, and then not; its processes do not outlive it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace + 5)
    process.kill()
    process.wait()


@contextmanager
def _redacted() -> Iterator[int]:
    """The writing end of a pipe that goes to standard error, freed of secrets."""
    writer = subprocess.Popen(
        [sys.executable, "-I", "-S", redact.__file__, "/dev/stderr"], stdin=subprocess.PIPE, start_new_session=True
    )
    assert writer.stdin is not None
    try:
        yield writer.stdin.fileno()
    finally:
        writer.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            writer.wait(5)
        writer.kill()
        writer.wait()

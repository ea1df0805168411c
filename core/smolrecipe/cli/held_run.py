"""Holding a run store for as long as a command writes it, and what people may say about how it is written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from smolrecipe.planning.plan import PlannedStage
from smolrecipe.running.redact import redact
from smolrecipe.running.run_lock import HeldLock, hold_run, hold_stage
from smolrecipe.running.runner import GRACE_SECONDS
from smolrecipe.running.store import RunStore
from smolrecipe.stage import GRACE_VARIABLE

F = TypeVar("F", bound=Callable[..., Any])


def grace_option(function: F) -> F:
    """The option of commands that run stages."""
    return click.option(
        "--grace",
        type=click.FloatRange(min=0),
        default=GRACE_SECONDS,
        show_default=True,
        envvar=GRACE_VARIABLE,
        metavar="SECONDS",
        help="On Ctrl-C or SIGTERM, how long the stage has to save and end before it is killed; a second Ctrl-C kills "
        f"it at once (also {GRACE_VARIABLE}).",
    )(function)


@contextmanager
def held(store: RunStore, only: PlannedStage | None = None) -> Iterator[HeldLock]:
    """Make the run store, hold it for this process, and say what became of a run that ended without finishing.

    With ``only``, no more than that stage is held, and other processes may hold others.

    Raises:
        UserError: when another process holds it, or nothing can be written there.
    """
    store.open()
    command = command_line()
    with hold_run(store.root, command) if only is None else hold_stage(store.root, only.folder_name, command) as lock:
        if lock.left is not None:
            click.echo(f"note: the run before was killed: {lock.left}; this one goes on from what it left", err=True)
        yield lock


def command_line() -> str:
    """What was typed, without secrets."""
    return redact(shlex.join(["smolrecipe", *sys.argv[1:]]))

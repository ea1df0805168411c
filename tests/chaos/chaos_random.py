"""Kills at random times: of a run's processes, one of them or all, from outside."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chaos_counts import count
from chaos_runs import Bench, children

VICTIMS = ("the runner", "the stage", "what writes the log", "all at once", "all one after the other")


def descendants(process: int) -> list[int]:
    """A process' children, their children and so on."""
    found = children(process)
    return [*found, *(other for child in found for other in descendants(child))]


def victims(run: int, which: str) -> list[int]:
    """The processes to kill, of a run whose runner has this number, in this order."""
    below = descendants(run)
    writers = [process for process in below if "redact.py" in _command(process)]
    if which == "the runner":
        return [run]
    if which == "what writes the log":
        return writers
    if which == "the stage":
        return [process for process in below if process not in writers]
    return [run, *below] if which == "all at once" else [*reversed(below), run]


def _command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def kill_after(seconds: float, which: str) -> Callable[[subprocess.Popen[bytes]], None]:
    """Something to do to a run meanwhile: wait, and kill."""

    def kill(run: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
            return  # it has ended before
        for process in victims(run.pid, which):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            if which == "all one after the other":
                time.sleep(0.01)

    return kill


def run_with_kills(
    bench: Bench, runs: Path, luck: random.Random, longest: float, kills: int, counted: str, seconds: float
) -> list[str]:
    """Run again and again, killed at random times up to ``longest`` seconds apart, then in peace.

    Returns:
        What a run said that no killed run is to say.
    """
    wrong = []
    for _ in range(kills):
        which, wait = luck.choice(VICTIMS), luck.uniform(0.0, longest)
        ended = bench.run(runs, meanwhile=kill_after(wait, which), seconds=seconds)
        count(counted, which)
        if "Traceback" in ended.output:
            wrong.append(f"a run that lost {which} after {wait:.2f} s said:\n{ended.output}")
        if ended.code == 0:
            break
    bench.run(runs, seconds=seconds).check(0)
    return wrong

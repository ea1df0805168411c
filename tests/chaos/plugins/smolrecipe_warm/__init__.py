"""A launcher whose processes are forks of one that has imported every engine: what takes seconds once, not each time.

For tests that start hundreds of stages. ``server.py`` is the process that forks, at the socket that the environment
variable CHAOS_WARM names; ``client.py`` stands for the forks where the runner looks for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import smolrecipe
from smolrecipe import Devices, Launcher


def command(options: object, devices: Devices, worker: Sequence[str]) -> list[str]:
    """A process that asks the server for forks, and ends as they do."""
    client = Path(__file__).with_name("client.py")
    return [sys.executable, "-I", "-S", str(client), os.environ["CHAOS_WARM"], str(devices.processes), *worker[1:]]


@smolrecipe.hookimpl
def smolrecipe_launchers() -> Iterable[Launcher]:
    """Offer ``warm``."""
    yield Launcher(
        name="warm",
        summary="forks of a process that has imported every engine",
        capacity=lambda options: {"cuda": 0},
        command=command,
    )

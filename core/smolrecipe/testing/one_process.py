"""A plugin with the launcher that example recipes run under: a plugin that is tested alone has none of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from smolrecipe import Devices, Launcher, NoOptions, hookimpl

NAME = "smolrecipe_kit_launcher"
"""The name that the plugin is registered under."""

LAUNCHER = "local"
"""The launcher of a recipe that names none."""


def capacity(options: NoOptions) -> Mapping[str, int]:
    """One process, and no accelerator."""
    return {"cpu": 1, "cuda": 0}


def command(options: NoOptions, devices: Devices, worker: Sequence[str]) -> list[str]:
    """The command line that runs the module ``worker[0]`` with its arguments in one process."""
    return [sys.executable, "-m", *worker]


@hookimpl
def smolrecipe_launchers() -> Iterator[Launcher]:
    """Offer ``local``, as the plugin of that name does."""
    yield Launcher(name=LAUNCHER, summary="one process on this machine", capacity=capacity, command=command)

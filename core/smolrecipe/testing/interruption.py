"""A plugin that kills a stage's process (SIGKILL) in a moment that the kit chooses; loaded only to that end.

The environment variable ``SMOLRECIPE_KILL`` says when, as JSON: ``{"stage": "one", "step": 3}`` right after the stage
has reported that step, ``{"stage": "one", "seconds": 0.5}`` so long after it began, and ``{"stage": "one"}`` when its
work is done and nothing is published yet.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from smolrecipe import Artifact, StageContext, hookimpl

NAME = "smolrecipe_kit_kill"
"""The name that the plugin is registered under."""

KILL = "SMOLRECIPE_KILL"
"""Environment variable with the moment."""


def _moment(run: StageContext) -> Mapping[str, Any]:
    """When this process is to be killed; nothing where another stage is meant, or another of its processes."""
    moment: Mapping[str, Any] = json.loads(os.environ.get(KILL, "{}"))
    return moment if run.rank == 0 and moment.get("stage") == run.stage else {}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@hookimpl
def smolrecipe_before_stage(run: StageContext) -> None:
    """Set the trap."""
    moment = _moment(run)
    if "seconds" in moment:
        timer = threading.Timer(moment["seconds"], _die)
        timer.daemon = True
        timer.start()
    if "step" in moment:
        report = run.report

        def report_and_die(event: Mapping[str, Any]) -> None:
            report(event)
            if event.get("step", -1) >= moment["step"]:
                _die()

        # A context is frozen for stages; this is the one way to stand between a stage and what it reports.
        object.__setattr__(run, "report", report_and_die)


@hookimpl
def smolrecipe_after_stage(run: StageContext, artifact: Artifact) -> None:
    """Die with the work done, where that is the moment."""
    if set(_moment(run)) == {"stage"}:
        _die()

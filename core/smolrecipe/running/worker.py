"""One process of a running stage: what ``python -m smolrecipe _stage task.json`` does."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict

from smolrecipe.catalog import Catalog
from smolrecipe.components import StageKind, Tracker
from smolrecipe.durable import write_json
from smolrecipe.errors import StageStopped, UserError
from smolrecipe.options import Use
from smolrecipe.recipe.converter import make_converter
from smolrecipe.running.causes import cause_of
from smolrecipe.running.memory import MemoryMeter
from smolrecipe.running.metrics import MetricsWriter
from smolrecipe.running.notes import OwnNote
from smolrecipe.running.redact import redact, redact_value
from smolrecipe.running.task import RESULT_FILE, Task
from smolrecipe.stage import LAUNCHER_VARIABLE, METRICS_FILE, StageContext, die_with_parent


def run_task(task: Task, catalog: Catalog, hook: Any) -> int:
    """Run the task's stage in this process and leave its result, or why there is none, in the stage's folder.

    Returns:
        The exit code: 0, or 1 for a failure.
    """
    _end_with_launcher()
    faulthandler.enable()
    folder = Path(task.folder)
    rank, of = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    note = OwnNote(folder, rank, of)
    try:
        converter = make_converter(catalog, artifacts={name: Path(path) for name, path in task.inputs.items()})
        use = converter.structure(dict(task.use), Use[StageKind])
        context = _context(task, rank, of, [converter.structure(dict(name), Use[Tracker]) for name in task.trackers])
        hook.smolrecipe_before_stage(run=context)
        artifact = use.component.run(use.options, context)
        hook.smolrecipe_after_stage(run=context, artifact=artifact)
        if rank == 0:
            write_json(folder / RESULT_FILE, redact_value(asdict(artifact)))
    except StageStopped as stopped:
        note.stopped(stopped.step)
        return 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # torch.distributed.checkpoint's errors are no Exception
        cause = cause_of(error, folder)
        note.failed(cause.kind, redact(cause.message))
        told = isinstance(error, UserError)
        if not told:
            traceback.print_exc()
        if told or cause.kind in ("disk", "memory"):
            sys.stderr.write(cause.message + "\n")
        return 1
    note.done()
    return 0


def _end_with_launcher() -> None:
    """See to it that this process ends when asked to, and does not outlive the one that started it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, unless the stage heeds it
    die_with_parent()
    launcher = os.environ.pop(LAUNCHER_VARIABLE, "")
    if launcher and launcher != str(os.getppid()):
        os._exit(1)


def _context(task: Task, rank: int, of: int, trackers: list[Use[Tracker]]) -> StageContext:
    sinks: list[Callable[[Mapping[str, Any]], None]] = []
    memory = MemoryMeter(of)

    def report(event: Mapping[str, Any]) -> None:
        if not sinks:
            return
        event = {key: value if isinstance(value, (int, float)) else redact_value(value) for key, value in event.items()}
        if "step" in event:
            event |= {key: value for key, value in memory().items() if key not in event}
        for sink in sinks:
            sink(event)

    context = StageContext(
        recipe=task.recipe,
        stage=task.stage,
        folder=Path(task.folder),
        inputs={name: Path(path) for name, path in task.inputs.items()},
        rank=rank,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        world_size=of,
        report=report,
    )
    if rank == 0:
        sinks.append(MetricsWriter(context.folder / METRICS_FILE))
        sinks.extend(tracker.component.open(tracker.options, context) for tracker in trackers)
    return context

"""One process of a running stage: what ``python -m smolrecipe _stage task.json`` does."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict

from smolrecipe.catalog import Catalog
from smolrecipe.components import StageKind, Tracker
from smolrecipe.errors import StageStopped, UserError
from smolrecipe.options import Use
from smolrecipe.recipe.converter import make_converter
from smolrecipe.running.metrics import MetricsWriter
from smolrecipe.running.store import write_json
from smolrecipe.running.task import FAILURE_FILE, RESULT_FILE, Task
from smolrecipe.stage import METRICS_FILE, StageContext, die_with_parent


def run_task(task: Task, catalog: Catalog, hook: Any) -> int:
    """Run the task's stage in this process and leave its result, or its failure, in the stage's folder.

    Returns:
        The exit code: 0, or 1 for a failure.
    """
    die_with_parent()
    folder = Path(task.folder)
    try:
        converter = make_converter(catalog)
        use = converter.structure(dict(task.use), Use[StageKind])
        context = _context(task, [converter.structure(dict(tracker), Use[Tracker]) for tracker in task.trackers])
        hook.smolrecipe_before_stage(run=context)
        artifact = use.component.run(use.options, context)
        hook.smolrecipe_after_stage(run=context, artifact=artifact)
    except StageStopped as stopped:
        write_json(folder / FAILURE_FILE, {"stopped": stopped.step})
        return 1
    except UserError as error:
        _fail(folder, str(error), crash=False)
        return 1
    except Exception as error:
        traceback.print_exc()
        _fail(folder, "".join(traceback.format_exception_only(error)).strip(), crash=True)
        return 1
    if context.rank == 0:
        write_json(folder / RESULT_FILE, asdict(artifact))
    return 0


def _context(task: Task, trackers: list[Use[Tracker]]) -> StageContext:
    rank = int(os.environ.get("RANK", "0"))
    sinks: list[Callable[[Mapping[str, Any]], None]] = []

    def report(event: Mapping[str, Any]) -> None:
        for sink in sinks:
            sink(event)

    context = StageContext(
        recipe=task.recipe,
        stage=task.stage,
        folder=Path(task.folder),
        inputs={name: Path(path) for name, path in task.inputs.items()},
        rank=rank,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        report=report,
    )
    if rank == 0:
        sinks.append(MetricsWriter(context.folder / METRICS_FILE))
        sinks.extend(tracker.component.open(tracker.options, context) for tracker in trackers)
    return context


def _fail(folder: Path, message: str, *, crash: bool) -> None:
    """Leave the failure for the runner. The first process to fail is the one to blame: the others only lost it."""
    sys.stderr.write(message + "\n")
    if not (folder / FAILURE_FILE).exists():
        write_json(folder / FAILURE_FILE, {"message": message, "crash": crash})

"""A stage's events, as a run in a database of trackio's.

Its ``init`` starts a thread that writes now and then, so that a kill loses steps, and may ask the network: for who is
logged in, or where a variable names a Space or a server. Here its storage is called instead, which writes a step before
it returns.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackio import sqlite_storage
from trackio.utils import RESERVED_KEYS

from smolrecipe import StageContext
from smolrecipe_trackio import TrackioOptions

FOLDER = "trackio"
"""Below the stage's folder."""

_NO_METRICS = {"step", "steps", "time", "message"}
_STEERING = ("TRACKIO_", "SPACE_", "SYSTEM")
"""How variables begin that have trackio read from the Hub, or write elsewhere or otherwise than here."""
# A file beside the database would be published with it, and not be what it is to whoever opens it elsewhere.
_HERE = {"TRACKIO_SQLITE_JOURNAL_MODE": "delete"}
_LARGEST_STEP = 2**63 - 1


def open_run(options: TrackioOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    """Start, or go on with, the stage's run; what takes its events is returned.

    A stage keeps its run when it is interrupted, and a step that it then reports again is not told again. Where trackio
    takes no such project, or its database is damaged, the stage says so once and trains on.
    """
    told = _Told(options.project or context.recipe, context)
    try:
        told.begin()
    except Exception as error:
        context.say(f"trackio is not told of this stage ({_words(error)}): all metrics are in metrics.jsonl")
        return lambda event: None
    return told


class _Told:
    def __init__(self, project: str, context: StageContext) -> None:
        self._project = project
        self._context = context
        self._folder = context.folder / FOLDER
        self._run = hashlib.sha256(f"{context.recipe}/{context.folder.name}".encode()).hexdigest()[:32]
        self._times: Counter[int] = Counter()
        self._config: dict[str, Any] | None = None
        self._lost = False

    def begin(self) -> None:
        """Mend what a kill has left in the database, so that nothing of it is published, and see what is there."""
        storage = sqlite_storage.SQLiteStorage
        with _only_in(self._folder):
            storage.validate_project_name(self._project)
            if storage.get_project_db_path(self._project).exists():
                storage.init_db(self._project)
            if storage.get_max_step_for_run(self._project, self._context.stage, run_id=self._run) is None:
                now = datetime.now(UTC).isoformat()
                self._config = {"_Username": None, "_Created": now, "_Group": self._context.recipe}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write the numbers of a step."""
        step = event.get("step")
        if self._lost or not isinstance(step, int) or abs(step) > _LARGEST_STEP:
            return
        self._times[step] += 1
        try:
            with _only_in(self._folder):
                sqlite_storage.SQLiteStorage.bulk_log(
                    project=self._project,
                    run=self._context.stage,
                    run_id=self._run,
                    metrics_list=[dict(_numbers(event))],
                    steps=[step],
                    config=self._config,
                    # trackio writes nothing twice under one of these. A stage may tell of a step more than once.
                    log_ids=[f"{self._run}-{step}-{self._times[step]}"],
                )
        except Exception as error:
            self._lost = True
            self._context.say(f"trackio is told no more ({_words(error)}): all metrics are in metrics.jsonl")
        self._config = None


@contextmanager
def _only_in(folder: Path) -> Iterator[None]:
    """Have trackio work in a folder, whatever the environment says and it was imported with."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_STEERING)}
    elsewhere = sqlite_storage.TRACKIO_DIR
    for name in before:
        del os.environ[name]
    os.environ.update(_HERE)
    sqlite_storage.TRACKIO_DIR = folder
    try:
        yield
    finally:
        sqlite_storage.TRACKIO_DIR = elsewhere
        for name in _HERE:
            del os.environ[name]
        os.environ.update(before)


def _numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in event.items():
        if key not in _NO_METRICS and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"__{key}" if key in RESERVED_KEYS else key, _number(value)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _words(error: Exception) -> str:
    return " ".join(str(error).split())

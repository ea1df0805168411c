"""Running a plan: skip what is published, resume what is half done, publish what succeeds."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from attrs import define, frozen

from smolrecipe.catalog import Catalog, Provider
from smolrecipe.errors import StageError, UserError
from smolrecipe.options import Use, walk
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.converter import unstructure
from smolrecipe.running.metrics import MetricsFollower
from smolrecipe.running.process import run_processes
from smolrecipe.running.store import LOG_FILE, RunStore
from smolrecipe.running.task import CONTROL_FILES, FAILURE_FILE, RESULT_FILE, Task
from smolrecipe.stage import METRICS_FILE, read_events

WORKER = ("smolrecipe", "_stage")
"""The Python module, with its command, that runs a task file in a stage's process."""


class RunView(Protocol):
    """Who watches a run: the terminal, a log, a test."""

    def skipped(self, stage: PlannedStage) -> None:
        """The stage is published already."""

    def started(self, stage: PlannedStage, resumed_at: int | None) -> None:
        """The stage starts, or goes on after the step that it had reached."""

    def event(self, stage: PlannedStage, event: Mapping[str, Any]) -> None:
        """A line of the stage's metrics."""

    def finished(self, stage: PlannedStage, record: Mapping[str, Any]) -> None:
        """The stage is published."""


class InterruptedRunError(UserError):
    """The run was stopped from outside while a stage was running."""

    exit_code = 130

    def __init__(self, stage: str, step: int | None) -> None:
        after = f" after step {step}" if step is not None else ""
        super().__init__(f"interrupted in stage '{stage}'{after}: the same command goes on from its last checkpoint")


@frozen(kw_only=True)
class Outcome:
    """A stage after a run: its record, and whether it ran or had been published before."""

    stage: PlannedStage
    record: Mapping[str, Any]
    ran: bool


@define(kw_only=True)
class Runner:
    """Runs the stages of a plan one after the other, each in processes of its own."""

    plan: Plan
    store: RunStore
    catalog: Catalog
    view: RunView
    plugins: tuple[str, ...] | None = None

    def run(self) -> list[Outcome]:
        """Run every stage that is not published.

        Raises:
            StageError: when a stage fails; what ran before it stays published.
            InterruptedRunError: on Ctrl-C; the same plan goes on from there.
        """
        return [self.complete(stage) for stage in self.plan.stages]

    def complete(self, stage: PlannedStage) -> Outcome:
        """Run one stage, if it is not published; those it consumes are.

        Raises:
            StageError: when it fails.
            InterruptedRunError: on Ctrl-C.
        """
        ran = not self.store.is_published(stage)
        if ran:
            with self.store.lock(stage):
                self._run_stage(stage)
        else:
            self.view.skipped(stage)
        return Outcome(stage=stage, record=self.store.record(stage), ran=ran)

    def _run_stage(self, stage: PlannedStage) -> None:
        folder = self.store.partial(stage)
        metrics = folder / METRICS_FILE
        self.view.started(stage, resumed_at=_last_step(metrics) if folder.exists() else None)
        folder.mkdir(exist_ok=True)
        for name in CONTROL_FILES:
            (folder / name).unlink(missing_ok=True)
        task = self._task(stage, folder).write()
        launcher = self.plan.recipe.launcher
        command = launcher.component.command(launcher.options, stage.devices, [*WORKER, str(task)])
        follower = MetricsFollower(metrics)

        def show_events() -> None:
            for event in follower.new_events():
                self.view.event(stage, event)

        started = time.time()
        try:
            environment = launcher.component.environment(launcher.options, stage.devices)
            code = run_processes(command, environment, folder / LOG_FILE, show_events)
        except KeyboardInterrupt:
            raise InterruptedRunError(stage.name, _last_step(metrics)) from None
        if code != 0 or not (folder / RESULT_FILE).exists():
            raise _failure(stage, folder, code)
        result = json.loads((folder / RESULT_FILE).read_text())
        for name in CONTROL_FILES:
            (folder / name).unlink(missing_ok=True)
        record = self._record(stage, result, started)
        self.store.publish(stage, record)
        self.view.finished(stage, record)

    def _task(self, stage: PlannedStage, folder: Path) -> Task:
        return Task(
            recipe=self.plan.recipe.name,
            stage=stage.name,
            folder=str(folder.absolute()),
            use=unstructure(stage.use),
            inputs={
                parent: str(self.store.published(self.plan.by_name[parent]).absolute()) for parent in stage.parents
            },
            trackers=tuple(unstructure(tracker) for tracker in self.plan.recipe.trackers),
            plugins=self.plugins,
        )

    def _record(self, stage: PlannedStage, result: Mapping[str, Any], started: float) -> dict[str, Any]:
        components = [value for _, value, _ in walk(stage.use) if isinstance(value, Use)]
        providers = {
            provider.plugin: provider for provider in (self.catalog.provider(use.component) for use in components)
        }
        return {
            "recipe": self.plan.recipe.name,
            "stage": stage.name,
            "kind": stage.use.name,
            "digest": stage.digest,
            "parents": {parent: self.plan.by_name[parent].digest for parent in stage.parents},
            "options": unstructure(stage.use),
            "plugins": _identities(providers),
            "loaded": _identities(self.catalog.loaded),
            "host": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
            "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 2),
            "measures": result["measures"],
            "summary": result["summary"],
        }


def _identities(providers: Mapping[str, Provider]) -> dict[str, dict[str, str]]:
    """Plugins by name: which distribution and version each is, and a hash of its source."""
    return {
        name: {"distribution": provider.distribution, "version": provider.version, "source": provider.hash_source()}
        for name, provider in sorted(providers.items())
    }


def _last_step(metrics: Path) -> int | None:
    steps = [event["step"] for event in read_events(metrics) if "step" in event]
    return steps[-1] if steps else None


def _failure(stage: PlannedStage, folder: Path, code: int) -> StageError:
    log = folder / LOG_FILE
    failure = folder / FAILURE_FILE
    if failure.exists():
        told = json.loads(failure.read_text())
        if not told["crash"]:
            return StageError(f"stage '{stage.name}': {told['message']}")
        reason = f"crashed with {told['message']}"
    elif code < 0:
        reason = f"was ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    else:
        reason = f"ended with exit code {code}" if code else "ended without a result"
    return StageError(f"stage '{stage.name}' {reason}; its log: {log}")

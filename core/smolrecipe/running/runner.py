"""Running a plan: skip what is published, resume what is half done, publish what succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from attrs import Factory, define, evolve, frozen

from smolrecipe.catalog import Catalog
from smolrecipe.errors import StageError
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.converter import unstructure
from smolrecipe.running.blame import reason_of
from smolrecipe.running.failures import StageFailureError, failure, interruption, refusal, runner_failure
from smolrecipe.running.inputs import Inputs
from smolrecipe.running.metrics import MetricsFollower, last_saved
from smolrecipe.running.notes import ends_file, prepare_notes, wait_for_writers
from smolrecipe.running.process import run_processes
from smolrecipe.running.publishing import ResultLeft, publish, record_left, result_left, result_of
from smolrecipe.running.record import Beginning, begin, stage_record
from smolrecipe.running.store import LOG_FILE, RunStore
from smolrecipe.running.task import RESULT_FILE, Task
from smolrecipe.running.watch import LostProcessesError, Watch
from smolrecipe.stage import ENDS_VARIABLE, GRACE_VARIABLE, METRICS_FILE, STAGE_FILE

GRACE_SECONDS = 60.0

WORKER = ("smolrecipe", "_stage")
"""The Python module, with its command, that runs a task file in a stage's process."""

_ONLY_PUBLISHED = "had been done when the run before ended, and only has to be published"


class RunView(Protocol):
    """Who watches a run: the terminal, a log, a test."""

    def skipped(self, stage: PlannedStage) -> None:
        """The stage is published already."""

    def started(self, stage: PlannedStage, goes_on: bool, saved: int | None) -> None:
        """The stage starts, or goes on; ``saved`` is the step of the last checkpoint that it has told of."""

    def event(self, stage: PlannedStage, event: Mapping[str, Any]) -> None:
        """A line of the stage's metrics."""

    def finished(self, stage: PlannedStage, record: Mapping[str, Any]) -> None:
        """The stage is published."""


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
    inputs: Inputs = Factory(lambda self: Inputs(store=self.store), takes_self=True)
    command: str = "the same command"
    """What a person types to go on after a failure or an interruption."""
    grace: float = GRACE_SECONDS
    """How long a stage has to save and end, once the run is asked to stop, before it is killed."""
    inherit: tuple[int, ...] = ()
    """Descriptors that processes which write the run are to hold: that of its lock."""
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    """Held while that is written which is common to all stages, where others of them may be run by other processes."""

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
            self._make(stage)
        else:
            self.view.skipped(stage)
        return Outcome(stage=stage, record=self.store.record(stage), ran=ran)

    def _make(self, stage: PlannedStage) -> None:
        """Run and publish the stage; what goes wrong leaves here with all that there is to say about it."""
        folder = self.store.partial(stage)
        try:
            record = record_left(self.store, stage)
            if record is None:
                record = self._work(stage, folder)
            else:
                self.view.event(stage, {"message": _ONLY_PUBLISHED})
            publish(self.store, stage, record)
        except KeyboardInterrupt as interrupt:
            raise interruption(stage.name, folder, self.command, interrupt, self.grace) from None
        except StageFailureError:
            raise
        except StageError as error:
            raise refusal(error, folder, self.command) from None
        except BrokenPipeError:
            raise  # nobody watches any more
        except OSError as error:
            raise runner_failure(stage.name, error, folder, self.command) from None
        self.inputs.trust(stage)
        self.view.finished(stage, record)

    def _work(self, stage: PlannedStage, folder: Path) -> Mapping[str, Any]:
        """The record of the stage, which is done when this returns."""
        wait_for_writers(folder)
        left = result_left(folder)
        if left is None:
            self.inputs.require(stage, self.plan, lambda text: self.view.event(stage, {"message": text}))
            self.view.started(stage, goes_on=folder.exists(), saved=last_saved(folder / METRICS_FILE))
            folder.mkdir(exist_ok=True)
            for name in (RESULT_FILE, STAGE_FILE):
                (folder / name).unlink(missing_ok=True)
            prepare_notes(folder, stage.devices.processes)
            beginning = self._begin(stage)
            left = self._run_processes(stage, folder)
        else:
            self.view.event(stage, {"message": _ONLY_PUBLISHED})
            beginning = self._begin(stage)
        beginning = evolve(beginning, at=time.time() - left.seconds)
        try:
            return stage_record(self.plan, stage, self.catalog, left.result, beginning)
        except StageError:
            (folder / RESULT_FILE).unlink()  # refused once, it is not to be published by the next run
            raise

    def _begin(self, stage: PlannedStage) -> Beginning:
        with self.alone():
            return begin(self.plan, stage, self.catalog, self.store)

    def _run_processes(self, stage: PlannedStage, folder: Path) -> ResultLeft:
        task = self._task(stage, folder).write()
        launcher = self.plan.recipe.launcher
        command = launcher.component.command(launcher.options, stage.devices, [*WORKER, str(task)])
        environment = {
            **launcher.component.environment(launcher.options, stage.devices),
            GRACE_VARIABLE: str(self.grace),
            ENDS_VARIABLE: str(ends_file(folder).absolute()),
        }
        follower = MetricsFollower(folder / METRICS_FILE)
        watch = Watch(folder)
        step: int | None = None

        def look() -> None:
            nonlocal step
            for event in follower.new_events():
                step = event.get("step", step)
                self.view.event(stage, event)
            if stage.devices.processes > 1:
                watch.look()

        log = folder / LOG_FILE
        try:
            code = run_processes(command, environment, log, look, grace=self.grace, inherit=self.inherit)
        except LostProcessesError:
            code = 1
        left = result_of(folder)
        if left is None:
            reason = reason_of(folder, log, code, stage.devices.processes, step)
            raise failure(stage.name, reason, folder, self.command)
        return left

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

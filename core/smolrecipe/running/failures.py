"""What is said when a run ends before its end: what happened, in which stage, what is kept, and how to go on."""

from __future__ import annotations

from pathlib import Path

from smolrecipe.errors import InterruptedRunError, StageError
from smolrecipe.running.causes import cause_of
from smolrecipe.running.metrics import last_saved
from smolrecipe.running.notes import read_notes
from smolrecipe.running.process import InterruptedProcessesError
from smolrecipe.running.publishing import result_of
from smolrecipe.running.redact import redact
from smolrecipe.running.store import LOG_FILE
from smolrecipe.stage import METRICS_FILE
from smolrecipe.stopping import Interrupted


class StageFailureError(StageError):
    """A stage that failed, with all that is said of it."""


def failure(stage: str, reason: str, folder: Path, command: str) -> StageFailureError:
    """The error for a stage that failed; ``reason`` is what follows its name."""
    return StageFailureError(redact(f"stage '{stage}'{reason}{_closing(folder, command)}"))


def refusal(error: StageError, folder: Path, command: str) -> StageFailureError:
    """The error for a stage that was refused by the runner itself, in its own words."""
    return StageFailureError(redact(f"{error}{_closing(folder, command)}"))


def runner_failure(stage: str, error: OSError, folder: Path, command: str) -> StageFailureError:
    """The error for a stage whose runner could not write or read what it had to."""
    cause = cause_of(error, folder)
    reason = f": {cause.message if cause.kind == 'disk' else error}"
    return failure(stage, reason, folder, command)


def interruption(
    stage: str, folder: Path, command: str, interrupt: KeyboardInterrupt, grace: float
) -> InterruptedRunError:
    """The error for a run that was asked to stop while this stage was running.

    Args:
        stage: its name.
        folder: the stage's.
        command: what goes on.
        interrupt: how the run was asked to stop, and the stage stopped.
        grace: the seconds that it was given.
    """
    # What lies there from an earlier attempt says nothing about this one.
    started = isinstance(interrupt, InterruptedProcessesError)
    notes = read_notes(folder).values() if started else ()
    stopped = next((note.step for note in notes if note.state == "stopped"), None)
    failed = next((note for note in notes if note.state == "failed" and note.cause != "lost"), None)
    saved = last_saved(folder / METRICS_FILE)
    if stopped is not None:
        kept = f"saved after step {stopped}"
    elif started and result_of(folder) is not None:
        kept = "which was done, and only has to be published"
    elif saved is not None:
        kept = f"which goes on from its last checkpoint, of step {saved}"
    else:
        kept = "which has saved no checkpoint yet"
    if stopped is None and isinstance(interrupt, InterruptedProcessesError) and interrupt.killed:
        kept += f" (it had not ended by itself within {grace:g} s, and was killed)"
    if failed is not None:
        kept += f" (when it was asked to stop, it failed: {failed.message})"
    exit_code = interrupt.exit_code if isinstance(interrupt, Interrupted) else Interrupted().exit_code
    return InterruptedRunError(redact(f"interrupted in stage '{stage}', {kept}\n  to go on: {command}"), exit_code)


def _closing(folder: Path, command: str) -> str:
    """What every sentence about a failure ends with."""
    saved = last_saved(folder / METRICS_FILE)
    kept = "last good step: none, no checkpoint was saved" if saved is None else f"last good step: {saved}, saved"
    log = f"; its log: {folder / LOG_FILE}" if (folder / LOG_FILE).exists() else ""
    return f"\n  {kept}{log}\n  to go on: {command}"

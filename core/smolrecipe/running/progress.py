"""How far a run has come, read from its folder alone: while it is written, when it has ended, or when it was lost.

Nothing is held or changed, and nothing in the folder is trusted to be what a run writes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from smolrecipe.errors import RecipeError
from smolrecipe.published import DIGEST_DIGITS, is_stage_name, read_events, read_record
from smolrecipe.running.notes import Note, read_notes, seems_alive
from smolrecipe.running.pace import is_number, seconds_left
from smolrecipe.running.run_lock import Holder, holders
from smolrecipe.running.store import PROVENANCE_FOLDER
from smolrecipe.stage import METRICS_FILE, STAGE_FILE
from smolrecipe.strict_json import printable, read_mapping

Status = Literal["published", "running", "interrupted", "failed", "not begun", "damaged"]

LOST_SECONDS = 600.0
"""How long a writer on another machine may tell nothing before it counts as lost with that machine."""


@frozen(kw_only=True)
class StageProgress:
    """How far one stage has come."""

    stage: str
    status: Status
    folder: Path
    step: int | None = None
    steps: int | None = None
    checkpoint: int | None = None
    """The last step that is saved."""
    numbers: Mapping[str, float] = field(factory=dict)
    """Of the last step: loss, learning rate, tokens per second; those that are finite."""
    seconds_left: float | None = None
    """Of a stage that is running: the steps that are left, each as long as the last ones took."""
    seconds: float | None = None
    """What a published stage took."""
    told: float | None = None
    """When it last told of anything, in seconds since 1970."""
    message: str = ""
    """Why it failed, or what is damaged."""


@frozen(kw_only=True)
class RunProgress:
    """How far a run has come."""

    folder: Path
    stages: Sequence[StageProgress]
    writers: Sequence[Holder]
    """The processes that say they write it, of which some may be gone."""

    @property
    def told(self) -> float | None:
        """When a stage that is not published last told of anything, in seconds since 1970."""
        return max((stage.told for stage in self.stages if stage.told is not None), default=None)

    def is_lost(self, writer: Holder) -> bool:
        """Whether a writer is gone, or is on another machine and has told nothing for so long that it may be."""
        quiet = self.told is not None and time.time() - self.told > LOST_SECONDS
        return writer.is_dead or (not writer.is_here and quiet)

    @property
    def is_over(self) -> bool:
        """Whether nobody is writing it, as far as this machine can tell."""
        return all(map(self.is_lost, self.writers)) and all(stage.status != "running" for stage in self.stages)


def run_progress(root: Path) -> RunProgress:
    """How far the run in ``root`` (``runs/<recipe>``) has come, its stages in the order in which they run.

    Raises:
        RecipeError: when the folder is not that of a run.
    """
    folders = list(_planned(root)) or list(_found(root))
    writers = holders(root)
    if not folders and not writers:
        there = "is no folder" if not root.is_dir() else "has no stages in it"
        raise RecipeError([f"{root} is no run: it {there}; name the folder of one (runs/<recipe>)"])
    return RunProgress(folder=root, stages=[_stage_progress(name, folder) for name, folder in folders], writers=writers)


def _planned(root: Path) -> Iterable[tuple[str, Path]]:
    """The stages of the last run, with the folders of what they publish."""
    documents = sorted((root / PROVENANCE_FOLDER).glob("*.json"), key=_changed, reverse=True)
    for document in documents:
        try:
            stages = read_mapping(document)["stages"]
            return [(name, root / f"{name}-{_digest(name, said)}") for name, said in stages.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # being written, or damaged: the one before it
    return ()


def _digest(name: Any, said: Any) -> str:
    digest = said["digest"]
    if not is_stage_name(name) or not isinstance(digest, str) or not digest.isalnum() or len(digest) < DIGEST_DIGITS:
        raise ValueError(name)
    return digest[:DIGEST_DIGITS]


def _found(root: Path) -> Iterable[tuple[str, Path]]:
    """The stages that have folders, in a run that has not said which it has, the oldest first."""
    folders = {path.with_suffix("") for path in sorted(root.glob("*-*")) if path.is_dir()}
    named = [(folder.name.rpartition("-")[0], folder) for folder in sorted(folders, key=_begun)]
    return [(name, folder) for name, folder in named if is_stage_name(name) and is_stage_name(folder.name)]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _begun(folder: Path) -> float:
    return _changed(folder) or _changed(folder.with_suffix(".partial"))


def _stage_progress(name: str, folder: Path) -> StageProgress:
    if folder.is_dir():
        return _published(name, folder)
    partial = folder.with_suffix(".partial")
    if not partial.is_dir():
        return StageProgress(stage=name, status="not begun", folder=folder)
    notes = read_notes(partial)
    events = read_events(partial / METRICS_FILE)
    failed = next((note for note in notes.values() if note.state == "failed"), None)
    last_told = events[-1].get("time") if events else None
    told = last_told if is_number(last_told) else None
    if any(map(seems_alive, notes.values())) or (_elsewhere(notes.values()) and _is_recent(told)):
        status: Status = "running"
    else:
        status = "interrupted" if failed is None else "failed"
    steps = [event for event in events if _is_step(event)]
    last = steps[-1] if steps else {}
    return StageProgress(
        stage=name,
        status=status,
        folder=partial,
        step=last.get("step"),
        steps=last.get("steps"),
        checkpoint=next((event["checkpoint"] for event in reversed(events) if "checkpoint" in event), None),
        numbers=_numbers(last),
        seconds_left=seconds_left(steps) if status == "running" and steps else None,
        told=told,
        message=printable(str(failed.message)) if failed is not None and status == "failed" else "",
    )


def _elsewhere(notes: Iterable[Note]) -> bool:
    """Whether a process of another machine works at the stage, for all that it has said."""
    return any(note.state == "started" and note.host != socket.gethostname() for note in notes)


def _is_recent(told: float | None) -> bool:
    return told is not None and time.time() - told < LOST_SECONDS


def _published(name: str, folder: Path) -> StageProgress:
    try:
        record = read_record(folder / STAGE_FILE)
    except ValueError as error:
        return StageProgress(stage=name, status="damaged", folder=folder, message=printable(str(error)))
    steps = [event for event in read_events(folder / METRICS_FILE) if _is_step(event)]
    last = steps[-1] if steps else {}
    return StageProgress(
        stage=name,
        status="published",
        folder=folder,
        step=last.get("step"),
        steps=last.get("steps"),
        numbers=_numbers(last),
        seconds=record["seconds"] if is_number(record["seconds"]) else None,
    )


def _is_step(event: Mapping[str, Any]) -> bool:
    return "step" in event and "steps" in event


def _numbers(event: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value) for key, value in event.items() if key not in ("step", "steps", "time") and is_number(value)
    }

"""How an artifact comes to exist whole or not at all, wherever a kill comes in between.

The order, each step on the disk before the next: the stage's files; ``stage.json``, from which on the stage is done and
only its publishing may have to be repeated; the manifest; the folder's published name. A stage whose processes had all
said that they were done before the runner was killed is published from what they left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.durable import sync_folder, write_json, write_whole
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.published import read_record
from smolrecipe.running.manifest import MANIFEST_FILE, make_manifest, manifest_text
from smolrecipe.running.notes import NOTES_FOLDER, all_done, remove_notes, since_last_boot
from smolrecipe.running.store import RunStore
from smolrecipe.running.task import CONTROL_FILES, RESULT_FILE, TASK_FILE
from smolrecipe.stage import STAGE_FILE


def publish(store: RunStore, stage: PlannedStage, record: Mapping[str, Any]) -> Path:
    """Write the record and the manifest, make all durable and give the folder its published name."""
    folder = store.partial(stage)
    _remove_unfinished(folder)
    manifest = {name: entry for name, entry in make_manifest(folder).items() if _is_published(name)}
    for below in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(below)
    sync_folder(folder)
    write_json(folder / STAGE_FILE, record)
    for name in CONTROL_FILES:
        (folder / name).unlink(missing_ok=True)
    remove_notes(folder)
    content = (folder / STAGE_FILE).read_bytes()
    manifest[STAGE_FILE] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_whole(folder / MANIFEST_FILE, manifest_text(manifest))
    folder.rename(store.published(stage))
    sync_folder(store.root)
    return store.published(stage)


def record_left(store: RunStore, stage: PlannedStage) -> Mapping[str, Any] | None:
    """The record of a stage that was being published when its run was killed."""
    folder = store.partial(stage)
    try:
        record = read_record(folder / STAGE_FILE)
    except ValueError:
        return None
    return record if (record["stage"], record["digest"]) == (stage.name, stage.digest) else None


@frozen(kw_only=True)
class ResultLeft:
    """What a stage has handed back, and how long it had taken."""

    result: Mapping[str, Any]
    seconds: float


def result_left(folder: Path) -> ResultLeft | None:
    """The result of a stage whose processes have all said that they are done.

    After a power cut nothing is believed: what they had written into the folder need not have reached the disk.
    """
    return result_of(folder) if since_last_boot(folder) else None


def result_of(folder: Path) -> ResultLeft | None:
    """The result of the stage that has just ended in this folder, if its processes have all said that they are done."""
    if not all_done(folder):
        return None
    try:
        result = json.loads((folder / RESULT_FILE).read_bytes())
        seconds = (folder / RESULT_FILE).stat().st_mtime - (folder / TASK_FILE).stat().st_mtime
    except (OSError, ValueError):
        return None
    return ResultLeft(result=result, seconds=seconds)


def _is_published(name: str) -> bool:
    return name not in (*CONTROL_FILES, STAGE_FILE) and not name.startswith(f"{NOTES_FOLDER}/")


def _remove_unfinished(folder: Path) -> None:
    """Delete what a kill has left of files that were being written beside their place (``.<name>.new``)."""
    for path in folder.rglob(".*.new"):
        if path.is_file():
            path.unlink()

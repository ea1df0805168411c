"""The run store: where artifacts live, and how one comes to exist whole or not at all.

::

    runs/<recipe>/<stage>-<digest12>/           a published artifact
        stage.json                              resolved options, parents, versions, timings, measures
        manifest.json                           sha256 and size of every other file
        metrics.jsonl  log.txt  model/ ...
    runs/<recipe>/<stage>-<digest12>.partial/   a stage that is running or was interrupted
    runs/<recipe>/<stage>-<digest12>.lock       held by the process that runs it
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.errors import RecipeError, StageError
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.stage import STAGE_FILE

MANIFEST_FILE = "manifest.json"
LOG_FILE = "log.txt"


@frozen
class RunStore:
    """The folder of one recipe's artifacts, ``root`` being ``runs/<recipe>``."""

    root: Path

    def open(self) -> None:
        """Make the folder.

        Raises:
            RecipeError: when it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RecipeError(
                [f"the run store {self.root} cannot be written ({error.strerror}): choose another with --runs"]
            ) from None

    def published(self, stage: PlannedStage) -> Path:
        """Where the stage's artifact is, or will be."""
        return self.root / stage.folder_name

    def partial(self, stage: PlannedStage) -> Path:
        """Where the stage works until it is published."""
        return self.root / f"{stage.folder_name}.partial"

    def is_published(self, stage: PlannedStage) -> bool:
        """Whether the stage's artifact exists; the manifest is written last, before the folder gets its name."""
        return (self.published(stage) / MANIFEST_FILE).is_file()

    def record(self, stage: PlannedStage) -> Mapping[str, Any]:
        """What ``stage.json`` of a published stage says."""
        record: Mapping[str, Any] = json.loads((self.published(stage) / STAGE_FILE).read_text())
        return record

    def publish(self, stage: PlannedStage, record: Mapping[str, Any]) -> Path:
        """Write the record and the manifest, make them durable and give the folder its published name."""
        folder = self.partial(stage)
        write_json(folder / STAGE_FILE, record)
        manifest = {str(path.relative_to(folder)): _entry(path) for path in _files(folder)}
        write_json(folder / MANIFEST_FILE, manifest)
        _sync(folder)
        folder.rename(self.published(stage))
        _sync(self.root)
        return self.published(stage)

    @contextmanager
    def lock(self, stage: PlannedStage) -> Iterator[None]:
        """Hold the stage for this process.

        Raises:
            StageError: when another process holds it; the message names that process.
        """
        path = self.root / f"{stage.folder_name}.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise StageError(
                    f"stage '{stage.name}' is being run by {file.read().strip() or 'another process'}: wait for it"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file holds either its old or its new content, whatever happens."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

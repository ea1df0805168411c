"""The run store: where artifacts live.

::

    runs/<recipe>/<stage>-<digest12>/           a published artifact
        stage.json                              resolved options, parents, versions, timings, measures
        manifest.json                           sha256 and size of every other file
        metrics.jsonl  log.txt  model/ ...
    runs/<recipe>/<stage>-<digest12>.partial/   a stage that is running or was interrupted
    runs/<recipe>/run.lock                      held by the process that writes the run; see ``run_lock`` for others
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.durable import write_json
from smolrecipe.errors import RecipeError, StageError
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.published import read_record
from smolrecipe.running.disk import FULL, room
from smolrecipe.stage import STAGE_FILE

LOG_FILE = "log.txt"
PROVENANCE_FOLDER = "provenance"
"""In a recipe's run store: what its runs were made with."""


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
        except OSError as error:
            raise unwritable(self.root, error) from None

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file that belongs to the recipe as a whole.

        Raises:
            RecipeError: when it cannot be written.
        """
        try:
            write_json(self.root / name, value)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def published(self, stage: PlannedStage) -> Path:
        """Where the stage's artifact is, or will be."""
        return self.root / stage.folder_name

    def partial(self, stage: PlannedStage) -> Path:
        """Where the stage works until it is published."""
        return self.root / f"{stage.folder_name}.partial"

    def is_published(self, stage: PlannedStage) -> bool:
        """Whether the stage's artifact exists: its folder gets that name when everything in it is written.

        One that lacks its manifest, or another file, was damaged since; that is no reason to make it again unasked.
        """
        return self.published(stage).is_dir()

    def record(self, stage: PlannedStage) -> Mapping[str, Any]:
        """What ``stage.json`` of a published stage says.

        Raises:
            StageError: when it is damaged, or that of another artifact.
        """
        folder = self.published(stage)
        try:
            record = read_record(folder / STAGE_FILE)
            if (record["stage"], record["digest"]) != (stage.name, stage.digest):
                raise ValueError(f"{folder / STAGE_FILE} is that of another artifact")
        except ValueError as error:
            raise StageError(
                f"stage '{stage.name}' is published, but {error}: restore that file from a copy, or delete {folder} "
                f"and run the same command again, which repeats stage '{stage.name}'"
            ) from None
        return record


def unwritable(root: Path, error: OSError) -> RecipeError:
    """The refusal of a run store in which nothing can be written."""
    left = f"; {room(root)}" if error.errno in FULL else ""
    return RecipeError([f"the run store {root} cannot be written ({error.strerror}{left}): choose another with --runs"])

"""What the runner tells a stage's processes, and what they leave for it: JSON files in the stage's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from smolrecipe.durable import write_json

TASK_FILE = "task.json"
RESULT_FILE = "result.json"
ATTEMPTS_FILE = "attempts.json"
"""When the stage was started, and with what; more than once where it was interrupted."""
CONTROL_FILES = (TASK_FILE, RESULT_FILE, ATTEMPTS_FILE)
"""Files that only a running stage needs; none of them is published."""


@frozen(kw_only=True)
class Task:
    """One stage to run: its resolved options as plain data, and the folders of the artifacts it consumes."""

    recipe: str
    stage: str
    folder: str
    use: Mapping[str, Any]
    inputs: Mapping[str, str]
    trackers: tuple[Mapping[str, Any], ...] = ()
    plugins: tuple[str, ...] | None = None
    """Names of the only plugins to load, ``None`` for all."""

    def write(self) -> Path:
        """Write the task into its folder."""
        path = Path(self.folder) / TASK_FILE
        write_json(path, asdict(self))
        return path

    @classmethod
    def read(cls, path: Path) -> Task:
        """The task in a file."""
        raw = json.loads(path.read_text())
        plugins = raw.pop("plugins")
        return cls(**raw, plugins=None if plugins is None else tuple(plugins))

"""``metrics.jsonl``: one JSON line for each event of a stage, written by its first process, followed by the runner."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolrecipe.stage import read_events


class MetricsWriter:
    """Appends events. A resumed stage goes back some steps: lines of steps that are done again are dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._resumed = path.exists()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Append the event, with the time in seconds since 1970."""
        if self._resumed and "step" in event:
            self._drop_from(int(event["step"]))
            self._resumed = False
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({**event, "time": round(time.time(), 3)}, ensure_ascii=False) + "\n")
        self._file.flush()

    def _drop_from(self, step: int) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        kept = [event for event in read_events(self._path) if event.get("step", -1) < step]
        beside = self._path.with_suffix(".new")
        beside.write_text("".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept), encoding="utf-8")
        beside.replace(self._path)


class MetricsFollower:
    """Reads what was appended since the last look. Survives the file being replaced by a resumed stage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._inode = path.stat().st_ino if path.exists() else None

    def new_events(self) -> list[dict[str, Any]]:
        """Events that were appended since the last call."""
        if not self._path.exists():
            return []
        stat = self._path.stat()
        if stat.st_ino != self._inode:
            # Replaced on resuming: what was kept has been shown before, so start at its end but for the newest line.
            offset = 0 if self._inode is None else max(0, self._offset_of_last_line())
            self._offset, self._inode = offset, stat.st_ino
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _offset_of_last_line(self) -> int:
        data = self._path.read_bytes().rstrip(b"\n")
        return data.rfind(b"\n") + 1

"""``metrics.jsonl``: one JSON line for each event of a stage, written by its first process, followed by the runner.

A kill may come between any two bytes. Each event is one write of one line; a line that was cut short is dropped before
another is written, so that what is read is always whole lines, and each step stands there once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe.published import parse_event

METRICS_NEW = ".metrics.jsonl.new"
"""Beside the metrics while their end is being dropped; what a kill leaves of it is of no use."""


class MetricsWriter:
    """Appends events. A resumed stage goes back some steps: lines of steps that are done again are dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._resumed = path.exists()
        if self._resumed:
            _drop_torn_line(path)
        self._descriptor: int | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Append the event, with the time in seconds since 1970."""
        line = _line({**event, "time": round(time.time(), 3)})
        reached = _reached(event)
        if self._resumed and reached is not None:
            # A checkpoint comes after its step.
            first_step, first_saved = (reached, reached) if "step" in event else (reached + 1, reached)
            self._go_back(first_step, first_saved, line)
            self._resumed = False
        else:
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # the disk is about to be full: the next write says so
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def _go_back(self, first_step: int, first_saved: int, line: bytes) -> None:
        """Drop what was told of these and later ones, and append the line, all at once."""

        def is_kept(event: Mapping[str, Any]) -> bool:
            reached = _reached(event)
            return reached is None or reached < (first_step if "step" in event else first_saved)

        beside = self._path.with_name(METRICS_NEW)
        beside.write_bytes(b"".join((*map(_line, filter(is_kept, read_whole_lines(self._path))), line)))
        beside.replace(self._path)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class MetricsFollower:
    """Reads what was appended since the last look. Survives the file being replaced by a resumed stage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        data = path.read_bytes() if path.exists() else b""
        self._offset = data.rfind(b"\n") + 1
        self._seen: set[bytes] | None = set(data[: self._offset].splitlines())
        self._inode = path.stat().st_ino if path.exists() else None

    def new_events(self) -> list[dict[str, Any]]:
        """Events that were appended since the last call."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            replaced = self._inode is not None and inode != self._inode
            self._inode = inode
            if replaced:
                self._offset = 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.splitlines()
        if replaced and self._seen is not None:
            # What was kept has been there before, or was shown since. A stage goes back once, when it is resumed.
            lines, self._seen = [line for line in lines if line not in self._seen], None
        elif self._seen is not None:
            self._seen.update(lines)
        return [*_parsed(lines)]


def last_saved(path: Path) -> int | None:
    """The step of the last checkpoint that the stage has told of."""
    return max((event["checkpoint"] for event in read_whole_lines(path) if "checkpoint" in event), default=None)


def last_step(path: Path) -> int | None:
    """The last step that the stage has told of."""
    return max((event["step"] for event in read_whole_lines(path) if "step" in event), default=None)


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """The events of all whole lines; what stands after the last line's end is none."""
    data = path.read_bytes() if path.exists() else b""
    return [*_parsed(data[: data.rfind(b"\n") + 1].splitlines())]


def _parsed(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    return (event for line in lines if (event := parse_event(line)) is not None)


def _reached(event: Mapping[str, Any]) -> int | None:
    """The step that an event is about; nothing for a sentence."""
    found = event.get("step", event.get("checkpoint"))
    return found if isinstance(found, int) else None


def _line(event: Mapping[str, Any]) -> bytes:
    # ASCII: no character is torn in two by a kill, and none of them ends a line for some reader.
    return json.dumps(event).encode() + b"\n"


def _drop_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)

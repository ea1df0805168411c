"""How each process of a stage fares, in its own words: one small file for each, which the runner reads.

::

    <stage>.partial/.processes/<rank>.json    what the process with that rank has said last; it holds a lock on the file
                                              for as long as it lives
    <stage>.partial/.processes/ends.json      how its processes ended, as told by a launcher that knows

The runner makes the files and fills them with blanks; processes write over these. A process whose disk has become full
can still say so.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, evolve, frozen

from smolrecipe.errors import StageError
from smolrecipe.running.held_file import is_held
from smolrecipe.strict_json import read_json

NOTES_FOLDER = ".processes"
ENDS_FILE = "ends.json"

_ROOM = 4096
"""Bytes of a note: a write of one memory page is not torn by a kill."""
_ROOM_FOR_ENDS = 64
"""Bytes for how one process ended."""
_LONGEST_MESSAGE = 3000

_WAIT_SECONDS = 20.0
"""How long a run waits for processes that a killed run has left: the kernel has been told to end them."""


@frozen(kw_only=True)
class Note:
    """What a process has said last."""

    rank: int
    of: int = 1
    """How many processes it was told that there are."""
    process: int = 0
    host: str = ""
    boot: str = ""
    """Identifies the machine and its time since it was last switched on."""
    state: Literal["started", "done", "stopped", "failed"] = "started"
    cause: str = ""
    """Of one that failed: a kind of ``causes.Cause``."""
    message: str = ""
    step: int | None = None
    """Of one that stopped when asked to: the step that it has saved."""
    at: float = 0.0
    """Seconds since 1970."""


def wait_for_writers(folder: Path) -> None:
    """Wait until no process of an earlier run works in ``folder``.

    Raises:
        StageError: when one does not end.
    """
    end = time.monotonic() + _WAIT_SECONDS
    while living := [note for rank, note in read_notes(folder).items() if is_alive(folder, rank)]:
        if time.monotonic() > end:
            raise StageError(
                f"process {living[0].process} on {living[0].host}, which an earlier run has left behind, still works "
                f"in {folder}: end it (kill -9 {living[0].process}) and run the same command again"
            )
        time.sleep(0.1)


def prepare_notes(folder: Path, processes: int) -> None:
    """Make the blank notes of a stage that is about to start in ``folder``."""
    notes = folder / NOTES_FOLDER
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir()
    for rank in range(processes):
        _path(folder, rank).write_bytes(b" " * _ROOM)
    (notes / ENDS_FILE).write_bytes(b" " * (_ROOM_FOR_ENDS * processes + 2))


def remove_notes(folder: Path) -> None:
    """Delete the notes."""
    if (folder / NOTES_FOLDER).exists():
        shutil.rmtree(folder / NOTES_FOLDER)


class OwnNote:
    """The note of this process. Its lock is held, and the note kept open, until the process ends."""

    def __init__(self, folder: Path, rank: int, of: int) -> None:
        path = _path(folder, rank)
        path.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._note = Note(rank=rank, of=of, process=os.getpid(), host=socket.gethostname(), boot=boot())
        self._write(self._note)

    def done(self) -> None:
        """Say that the work is done."""
        self._write(evolve(self._note, state="done"))

    def stopped(self, step: int) -> None:
        """Say that it has saved ``step`` and ends as it was asked to."""
        self._write(evolve(self._note, state="stopped", step=step))

    def failed(self, cause: str, message: str) -> None:
        """Say why it fails."""
        self._write(evolve(self._note, state="failed", cause=cause, message=message[:_LONGEST_MESSAGE]))

    def _write(self, note: Note) -> None:
        text = json.dumps(asdict(evolve(note, at=time.time())))
        while len(text) > _ROOM:  # characters that take several bytes each
            note = evolve(note, message=note.message[: len(note.message) // 2])
            text = json.dumps(asdict(evolve(note, at=time.time())))
        os.pwrite(self._descriptor, text.encode().ljust(_ROOM), 0)


def read_notes(folder: Path) -> dict[int, Note]:
    """What the processes have said, by rank; one that has not said anything yet is left out."""
    found = {}
    for path in (folder / NOTES_FOLDER).glob("*.json"):
        told = _read(path)
        try:
            found[int(path.stem)] = Note(**(told or {}))
        except (TypeError, ValueError):
            continue  # blank, or of another version
    return dict(sorted(found.items()))


def is_alive(folder: Path, rank: int) -> bool:
    """Whether the process that has written this note still runs; its children by ``fork`` count as it."""
    return is_held(_path(folder, rank))


def seems_alive(note: Note) -> bool:
    """Whether the process that has written a note still runs, as far as a look can tell that touches no lock.

    Of a process of another machine, or of before this one was last switched on, that is no.
    """
    if not boot() or (note.host, note.boot) != (socket.gethostname(), boot()):
        return False
    try:
        # The number may be another process' by now, which then began after the last word of this one.
        ticks = int(Path(f"/proc/{int(note.process)}/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError, TypeError, OverflowError):
        return False
    begun = time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    return isinstance(note.at, int | float) and begun <= note.at + 1.0


def ends_file(folder: Path) -> Path:
    """Where a launcher may say how its processes ended; see ``smolrecipe.stage.ENDS_VARIABLE``."""
    return folder / NOTES_FOLDER / ENDS_FILE


def read_ends(folder: Path) -> dict[int, tuple[int, float]]:
    """What a launcher has said of how its processes ended, by rank: exit code, negative for a signal, and the time."""
    told = _read(ends_file(folder))
    try:
        return {int(rank): (int(code), float(at)) for rank, (code, at) in told.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def all_done(folder: Path) -> bool:
    """Whether every process has said that its work is done."""
    notes = read_notes(folder)
    ranks = range(notes[0].of if 0 in notes else 1)
    return all(rank in notes and notes[rank].state == "done" for rank in ranks)


def since_last_boot(folder: Path) -> bool:
    """Whether all of the notes were written by processes on this machine, which has not been switched off since.

    What they wrote into the stage's folder is there then, whether or not it had reached the disk.
    """
    return bool(boot()) and {note.boot for note in read_notes(folder).values()} == {boot()}


def boot() -> str:
    """An identity of this machine that it loses when it is switched off; nothing where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _path(folder: Path, rank: int) -> Path:
    return folder / NOTES_FOLDER / f"{rank}.json"


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError:
        return None

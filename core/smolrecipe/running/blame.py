"""Which of a stage's processes is to blame, when it failed: the others say no more than that they lost it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from smolrecipe.running.notes import Note, read_ends, read_notes

_HINTS = {
    signal.SIGKILL: "out of memory? Or by hand, or by a scheduler",
    signal.SIGBUS: "a file that it had mapped was cut short, or /dev/shm is full",
    signal.SIGTERM: "from outside",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE), "a fault in compiled code"),
}
_LAUNCHER_WAITS = 20.0
"""Seconds. A launcher that ends the others after a failure gives them longer before it kills them (torchrun: 30)."""

_OWN_WORDS_FIRST = 1.5
"""Seconds by which a process' own explanation goes before a signal that ended another: that may be what it led to."""

_WATCHDOG = re.compile(rb"Watchdog caught collective operation timeout|ProcessGroupNCCL.*heartbeat")
_PEER_GONE = re.compile(r"(closed|reset) by (remote )?peer|Broken pipe|got 0 bytes", re.IGNORECASE)
"""What is said of a process that is gone, and not of one that keeps silent."""
_LOG_END = 1 << 18


@frozen(kw_only=True)
class _Suspect:
    at: float
    rank: int
    text: str


def reason_of(folder: Path, log: Path, code: int, processes: int, step: int | None) -> str:
    """Why the stage that worked in ``folder`` failed: what follows ``stage 'x'``, with its space or colon.

    Args:
        folder: the stage's, with the notes of its processes.
        log: its log.
        code: the exit code of its first process, which is the launcher where there are several.
        processes: how many it was to have.
        step: the last step that it told of since it was started.
    """
    notes, ends = read_notes(folder), read_ends(folder)
    stopped = next((note for note in notes.values() if note.state == "stopped"), None)
    if processes == 1:
        return _stopped(stopped) if stopped is not None else _alone(notes.get(0), code)
    where = "before its first step was done" if step is None else f"in step {step + 1}"
    watchdog = _WATCHDOG.search(_end_of(log)) is not None
    suspects = [*_failed(notes, processes, where), *_ended(notes, ends, processes, where, watchdog)]
    if suspects:
        return min(suspects, key=lambda suspect: suspect.at).text
    if stopped is not None:
        return _stopped(stopped)
    lost = sorted((note for note in notes.values() if note.state == "failed"), key=lambda note: note.at)
    gave_up = {rank for rank, (how, _) in ends.items() if watchdog and how == -signal.SIGABRT}
    silent = [rank for rank in range(processes) if rank not in notes or notes[rank].state == "started"]
    silent = [rank for rank in silent if rank not in gave_up]
    if lost or gave_up:
        message = f" ({_first_line(lost[0].message)})" if lost else ""
        if any(_PEER_GONE.search(note.message) for note in lost) and silent and silent[0] in notes:
            how, _ = ends.get(silent[0], (0, 0.0))
            return _lost(notes, silent[0], processes, where, _signalled(how) if how < 0 else "ended without a word")
        if silent:
            return _silent(notes, silent, processes, where, message)
        return f" failed {where}: its {processes} processes lost each other{message}; look at the network between them"
    if terminated := [rank for rank, (how, _) in sorted(ends.items()) if how == -signal.SIGTERM]:
        return _lost(notes, terminated[0], processes, where, _signalled(-signal.SIGTERM))
    if not notes:
        return f" could not start its processes{_launcher(code)}"
    return f" was ended {where}, and none of its {processes} processes said why{_launcher(code)}"


def _stopped(note: Note) -> str:
    return f" was asked to stop by a signal from outside, and saved after step {note.step}"


def _alone(note: Note | None, code: int) -> str:
    if note is not None and note.state == "failed":
        return f" crashed with {note.message}" if note.cause == "crash" else f": {note.message}"
    if code < 0:
        return f" {_signalled(code)}"
    return f" ended with exit code {code} and said no more" if code else " ended without a result"


def _failed(notes: Mapping[int, Note], processes: int, where: str) -> Iterator[_Suspect]:
    """The processes that know why they failed."""
    for rank, note in notes.items():
        if note.state == "failed" and note.cause != "lost":
            crashed = note.cause == "crash"
            text = f": {note.message}"  # what the stage says itself mostly concerns all of its processes
            if note.cause != "told":
                name = _name(notes, rank, processes)
                text = f" failed {where}: {name} {'crashed with' if crashed else 'ended:'} {note.message}"
            yield _Suspect(at=note.at - (0 if crashed else _OWN_WORDS_FIRST), rank=rank, text=text)


def _ended(
    notes: Mapping[int, Note], ends: Mapping[int, tuple[int, float]], processes: int, where: str, watchdog: bool
) -> Iterator[_Suspect]:
    """The processes that a signal ended, unless it came from their launcher, or from themselves after waiting."""
    times = [*(note.at for note in notes.values() if note.state == "failed"), *(at for _, at in ends.values())]
    for rank, (code, at) in ends.items():
        by_launcher = code == -signal.SIGTERM or (code == -signal.SIGKILL and at - min(times) > _LAUNCHER_WAITS)
        gave_up = watchdog and code == -signal.SIGABRT
        spoke = rank in notes and notes[rank].state != "started"
        if not by_launcher and not gave_up and not spoke:
            how = _signalled(code) if code < 0 else f"ended with exit code {code} and said no more"
            yield _Suspect(at=at, rank=rank, text=_lost(notes, rank, processes, where, how))


def _lost(notes: Mapping[int, Note], rank: int, processes: int, where: str, how: str) -> str:
    name = _name(notes, rank, processes)
    return f" lost {name}, which {how}, {where}; the others cannot go on without it and were ended"


def _silent(notes: Mapping[int, Note], ranks: list[int], processes: int, where: str, message: str) -> str:
    if never := [rank for rank in ranks if rank not in notes]:
        return f" could not begin: rank {never[0]} of {processes} never started{message}"
    names = " and ".join(_name(notes, rank, processes) for rank in ranks)
    return (
        f" hung: {names} did not answer {where}, and the others gave up waiting{message}; look at that machine, its "
        "device and its network"
    )


def _name(notes: Mapping[int, Note], rank: int, processes: int) -> str:
    note = notes.get(rank)
    process = f" (process {note.process} on {note.host})" if note is not None else ""
    return f"rank {rank} of {processes}{process}"


def _signalled(code: int) -> str:
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was ended by signal {-code}"
    hint = f" ({_HINTS[number]})" if number in _HINTS else ""
    return f"was ended by {number.name}{hint}"


def _launcher(code: int) -> str:
    return f" (its launcher {_signalled(code) if code < 0 else f'ended with exit code {code}'})"


def _first_line(message: str) -> str:
    line = message.strip().partition("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]}..."


def _end_of(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_END))
            return file.read()
    except OSError:
        return b""

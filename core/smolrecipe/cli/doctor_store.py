"""The part of ``smolrecipe doctor`` that tries the run store: room, locks, renaming, and whose clock its files get."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smolrecipe.cli.doctor_findings import Finding
from smolrecipe.durable import discard, sync_folder, write_whole
from smolrecipe.provenance.machine import NETWORK_FILE_SYSTEMS, file_system
from smolrecipe.running.disk import is_almost_full, room

_SKEW_SECONDS = 5.0
_REMEDY = "choose another run store with --runs"


def look_at_store(runs: Path) -> Iterator[Finding]:
    """What can be done below ``runs``, or where it would be made; what is tried there is gone afterwards."""
    folder = runs.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield Finding(subject="room", status="lacks", told=f"{folder} is no folder", remedy=_REMEDY)
        return
    kind = file_system(folder)
    remote = kind in NETWORK_FILE_SYSTEMS
    full = is_almost_full(folder)
    yield Finding(
        subject="room",
        status="lacks" if full else "ok",
        told=f"{runs}{'' if runs.is_dir() else ' (not there yet)'}: {room(folder)}",
        remedy=f"make room there, or {_REMEDY}" if full else "",
        facts={"path": str(runs), "exists": runs.is_dir()},
    )
    yield Finding(
        subject="file system",
        status="note" if remote else "ok",
        told=f"{kind or 'unknown'}{', over a network: checkpoints take as long as that does' if remote else ''}",
        facts={"type": kind, "network": remote},
    )
    try:
        tried = Path(tempfile.mkdtemp(prefix=".smolrecipe-doctor-", dir=folder))
    except OSError as error:
        yield Finding(
            subject="writing",
            status="lacks",
            told=f"{folder} cannot be written ({error.strerror})",
            remedy=f"mend its owner or mode, or {_REMEDY}",
        )
        return
    try:
        yield _tried("locks", "two runs cannot write the same artifacts", _lock, tried)
        yield _tried("renaming", "artifacts appear whole or not at all", _rename, tried)
        yield _skew(tried)
    finally:
        discard(tried)


def _tried(subject: str, meaning: str, attempt: Callable[[Path], str], folder: Path) -> Finding:
    """What came of an attempt, which says what went wrong, or raises it."""
    try:
        wrong = attempt(folder)
    except OSError as error:
        wrong = error.strerror or str(error)
    return Finding(
        subject=subject,
        status="lacks" if wrong else "ok",
        told=f"not on this file system ({wrong})" if wrong else f"tried: {meaning}",
        remedy=f"mount it with locks (Lustre: -o flock), or {_REMEDY}" if wrong else "",
        facts={"works": not wrong},
    )


def _lock(folder: Path) -> str:
    """Take the lock of a run as a run does, and see whether it keeps a second one out."""
    path = folder / "run.lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        return "a lock that is held keeps nobody out"
    finally:
        os.close(first)
        os.close(second)


def _rename(folder: Path) -> str:
    """Publish as a stage does: write a file durably, and give the folder its name."""
    partial, published = folder / "stage.partial", folder / "stage"
    partial.mkdir()
    write_whole(partial / "file", "content")
    partial.rename(published)
    sync_folder(folder)
    return "" if (published / "file").read_text() == "content" and not partial.exists() else "the folder did not move"


def _skew(folder: Path) -> Finding:
    before = time.time()
    (folder / "now").write_text("")
    written, after = (folder / "now").stat().st_mtime, time.time()
    skew = max(before - written, written - after, 0.0)
    wrong = skew > _SKEW_SECONDS
    return Finding(
        subject="clock",
        status="note" if wrong else "ok",
        told=f"{skew:.0f} s apart from this machine's" if wrong else "that of this machine",
        remedy="synchronise both" if wrong else "",
        facts={"skew_seconds": skew},
    )

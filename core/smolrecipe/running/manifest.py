"""The manifest of an artifact: which files it consists of, and what is not as it was when they were published.

An artifact consists of regular files. Each but ``manifest.json`` itself stands in the manifest with its SHA-256 and
its size; the manifest has one way to be written, so that a changed byte of it is found as well. A folder counts by the
files in it: an empty one is nothing, neither when it is added nor when it is gone. Links, pipes, sockets and devices
are never published, and are damage where they turn up; nothing is read through them. Times and permissions do not
count.

Whoever can replace files and manifest together is not found out: for that, compare manifests with a copy elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

from smolrecipe.errors import StageError
from smolrecipe.strict_json import parse_json, printable, read_bytes

MANIFEST_FILE = "manifest.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_READERS = 8
"""Threads that read files; hashing lets go of the interpreter, and one disk is not kept busy by one of them."""

_TRIES = 4
"""How often a file that is still written to is read again before an artifact is given up."""

_LARGEST_NUMBER = 2**63 - 1


@frozen
class Entry:
    """What the manifest says of one file."""

    sha256: str
    size: int


@frozen
class Stamp:
    """What changes whenever somebody writes to a file, or puts another in its place: learned without reading it."""

    inode: int
    size: int
    modified: int
    changed: int


@define
class Found:
    """What lies in an artifact's folder: its regular files by name, and what has no place there, with the reason."""

    files: dict[str, os.stat_result] = Factory(dict)
    odd: dict[str, str] = Factory(dict)

    def stamps(self) -> dict[str, Stamp]:
        """The stamp of each file."""
        return {name: _stamp(status) for name, status in self.files.items()}


def make_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of the files in ``folder``, all of which are on the disk when this returns.

    Raises:
        StageError: when there is something else than regular files, or a name that is no UTF-8 text.
    """
    found = look_into(folder)
    found.files.pop(MANIFEST_FILE, None)
    odd = {**found.odd, **{name: "has a name that is no UTF-8 text" for name in found.files if not _is_utf8(name)}}
    if odd:
        name, reason = next(iter(sorted(odd.items())))
        raise StageError(
            f"{folder / printable(name)} {reason}: an artifact consists of regular files, so have the stage write one"
        )
    entries: dict[str, tuple[Entry, Stamp]] = {}
    for _ in range(_TRIES):
        stamps = look_into(folder).stamps()
        stamps.pop(MANIFEST_FILE, None)
        entries = {name: entries[name] for name in stamps.keys() & entries.keys() if entries[name][1] == stamps[name]}
        lacking = sorted(stamps.keys() - entries.keys())
        if not lacking:
            return {
                name: {"sha256": entries[name][0].sha256, "bytes": entries[name][0].size} for name in _in_order(stamps)
            }
        with ThreadPoolExecutor(_READERS) as readers:
            read = readers.map(lambda name: _read_durably(folder / name), lacking)
            entries |= dict(zip(lacking, read, strict=True))
    raise StageError(
        f"{folder / lacking[0]} is still being written, though the stage is done: have it end its processes first"
    )


def manifest_text(manifest: Mapping[str, Mapping[str, Any]]) -> str:
    """The one way in which a manifest is written."""
    ordered = {name: {key: manifest[name][key] for key in ("sha256", "bytes")} for name in _in_order(manifest)}
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> dict[str, Entry]:
    """What the manifest of an artifact says, by file.

    Raises:
        ValueError: when it is not what publishing writes; the message begins with the file's name, not its path.
    """
    try:
        content = read_bytes(folder / MANIFEST_FILE)
    except ValueError as error:
        raise ValueError(str(error).replace(str(folder / MANIFEST_FILE), MANIFEST_FILE, 1)) from None
    raw = parse_json(content, MANIFEST_FILE)
    if not isinstance(raw, dict):
        raise ValueError(f"{MANIFEST_FILE} holds no mapping")
    entries = {name: _entry(name, value) for name, value in raw.items()}
    if manifest_text(raw).encode() != content:
        raise ValueError(f"{MANIFEST_FILE} was changed: it says it in another way than publishing does")
    return entries


def damages(folder: Path, *, sizes_only: bool = False, unchanged: Mapping[str, Stamp] | None = None) -> list[str]:
    """What is wrong with an artifact's files, each as a sentence about one of them; empty for one that is whole.

    Args:
        folder: the artifact.
        sizes_only: take a file of the right size for the right one, without reading it.
        unchanged: files that were right before, and whose stamps then: those that still have them are not read again.

    Raises:
        ValueError: when its manifest cannot be read, or is not what publishing writes.
    """
    expected = read_manifest(folder)
    found = look_into(folder)
    found.files.pop(MANIFEST_FILE, None)
    wrong = {name: f"{printable(name)} {reason}" for name, reason in found.odd.items()}
    wrong |= {name: f"{printable(name)} is missing" for name in expected.keys() - found.files.keys() - wrong.keys()}
    wrong |= {name: f"{printable(name)} was added" for name in found.files.keys() - expected.keys()}
    stamps = found.stamps()
    to_read = []
    for name in expected.keys() & found.files.keys():
        size, right = found.files[name].st_size, expected[name].size
        if size != right:
            wrong[name] = f"{printable(name)} was changed (it has {size:,} bytes, not {right:,})"
        elif not sizes_only and (unchanged or {}).get(name) != stamps[name]:
            to_read.append(name)
    with ThreadPoolExecutor(_READERS) as readers:
        read = readers.map(lambda name: _what_is_wrong(folder / name, expected[name]), to_read)
        wrong |= {name: f"{printable(name)} {what}" for name, what in zip(to_read, read, strict=True) if what}
    return [wrong[name] for name in sorted(wrong)]


def look_into(folder: Path) -> Found:
    """What lies in a folder, however deep; no link is followed."""
    found = Found()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            entries = list(os.scandir(folder / below))
        except OSError as error:
            found.odd[below or "the folder"] = f"cannot be read ({error.strerror})"
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                found.odd[name] = f"cannot be read ({error.strerror})"
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append(name)
            elif stat.S_ISREG(status.st_mode):
                found.files[name] = status
            else:
                found.odd[name] = "is a link" if stat.S_ISLNK(status.st_mode) else "is no regular file"
    return found


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Folder by folder, as paths are sorted."""
    return sorted(names, key=lambda name: name.split("/"))


def _entry(name: str, value: Any) -> Entry:
    if not _is_file_name(name):
        raise ValueError(f"{MANIFEST_FILE} was changed: {printable(name)!r} is no file of an artifact")
    right = (
        isinstance(value, dict)
        and value.keys() == {"sha256", "bytes"}
        and isinstance(value["sha256"], str)
        and _SHA256.fullmatch(value["sha256"]) is not None
        and isinstance(value["bytes"], int)
        and not isinstance(value["bytes"], bool)
        and 0 <= value["bytes"] <= _LARGEST_NUMBER
    )
    if not right:
        raise ValueError(f"{MANIFEST_FILE} was changed: what it says of {printable(name)} is no checksum with a size")
    return Entry(value["sha256"], value["bytes"])


def _is_file_name(name: str) -> bool:
    parts = name.split("/")
    return name != MANIFEST_FILE and _is_utf8(name) and "\0" not in name and not {"", ".", ".."} & {*parts}


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _what_is_wrong(path: Path, expected: Entry) -> str:
    try:
        with _open(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest == expected.sha256 else "was changed"


def _read_durably(path: Path) -> tuple[Entry, Stamp]:
    """A file's entry once the disk has the file, with its stamp from before it was read."""
    with _open(path) as file:
        os.fsync(file.fileno())
        stamp = _stamp(os.fstat(file.fileno()))
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), file.tell()), stamp


def _open(path: Path) -> BufferedReader:
    """Open what was a regular file a moment ago, and not what somebody has put in its place since."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")

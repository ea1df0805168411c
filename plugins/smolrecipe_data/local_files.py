"""The ``files`` source: what its paths name, and the identity of their content. Reading is in ``read_files``."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from smolrecipe.file_hashes import file_hash
from smolrecipe_data.rows import column_problems
from smolrecipe_data.source_options import FilesOptions, HfDatasetOptions
from smolrecipe_data.steady_files import what_it_is
from smolrecipe_data.wording import printable

_MOST_FILES = 100_000
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt", ".md")
DOCUMENTS = (".txt", ".md")
"""Formats in which a file is one document; the others hold rows."""


def expand(path: Path) -> list[Path]:
    """The files that a path or a glob names, a glob's by name."""
    return [match for match in _matches(path) if _is_file(match)]


def suffix(path: Path) -> str:
    """The ending that tells the format, ``""`` for one that is not read."""
    return next((ending for ending in SUFFIXES if path.name.endswith(ending)), "")


def check(options: FilesOptions) -> Iterable[str]:
    """Formats that are not read, or not into the shape asked for, and fields that the shape does not have."""
    if not options.paths:
        yield "'paths' is empty: name at least one file"
    for path in options.paths:
        if _is_everywhere(path):
            yield f"{printable(path)} names files of the whole machine: begin it with the folder that they lie in"
        for file in expand(path):
            if not suffix(file):
                yield f"cannot read {printable(file)}: formats are {', '.join(SUFFIXES)}"
            elif suffix(file) in DOCUMENTS and options.yields != "text":
                yield f"{printable(file)} can only yield text rows, not {options.yields} rows"
    yield from column_problems(options.yields, options.columns)


def missing(options: FilesOptions) -> Iterable[str]:
    """Paths at which there is nothing to read on this machine: no file, one without rows, or something else."""
    for path in options.paths:
        if not expand(path):
            found = what_it_is(path)
            yield f"no file at {printable(path)}" + (f": there is {found}" if found != "nothing" else "")
            continue
        for match in _matches(path):
            found = what_it_is(match)
            if found and not _is_folder(match):
                yield f"{printable(match)} cannot be read: there is {found}"
            elif not found and suffix(match) not in DOCUMENTS and not match.stat().st_size:
                yield f"{printable(match)} is empty (0 bytes): write it again, or take it off 'paths'"


def fingerprint(options: FilesOptions) -> str:
    """A hash of the content of all files in reading order, wherever they lie."""
    whole = hashlib.sha256()
    for path in options.paths:
        for file in expand(path):
            whole.update(f"{suffix(file)} {file_hash(file)}\n".encode())
    return whole.hexdigest()


def folder_fingerprint(options: HfDatasetOptions) -> str:
    """A hash of the folder that ``id`` names; nothing for a data set of the Hub, which its options identify.

    Raises:
        OSError: where the folder holds so many files that it cannot be what was meant.
    """
    root = Path(options.id)
    if not root.is_dir():
        return ""
    found = list(itertools.islice((path for path in root.rglob("*") if path.is_file()), _MOST_FILES + 1))
    if len(found) > _MOST_FILES:
        raise OSError(
            errno.EFBIG, f"it holds more than {_MOST_FILES:,} files: name the data set's own folder", str(root)
        )
    whole = hashlib.sha256()
    for file in sorted(found):
        whole.update(f"{file.relative_to(root).as_posix()} {file_hash(file)}\n".encode())
    return whole.hexdigest()


def files(options: FilesOptions) -> Iterator[Path]:
    """All files in reading order."""
    for path in options.paths:
        yield from expand(path)


def _matches(path: Path) -> list[Path]:
    """All that a path or a glob names, whatever it is, a glob's by name."""
    folder, pattern = _glob_of(path)
    if not pattern or _is_file(path):
        return [path]
    try:
        return [] if _is_everywhere(path) else sorted(folder.glob(pattern))
    except (OSError, ValueError):  # '**' inside a name, a folder that may not be listed
        return []


def _glob_of(path: Path) -> tuple[Path, str]:
    """The folder that a glob starts from, and the pattern below it: empty for a path that is none."""
    globbed = next((index for index, part in enumerate(path.parts) if any(mark in part for mark in "*?[")), None)
    return (path, "") if globbed is None else (Path(*path.parts[:globbed]), "/".join(path.parts[globbed:]))


def _is_everywhere(path: Path) -> bool:
    """Whether a glob goes through all folders from the root on, which would take minutes, or forever."""
    folder, pattern = _glob_of(path)
    return pattern.startswith("**") and folder.is_absolute() and len(Path(os.path.normpath(folder)).parts) == 1


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # below a folder that may not be entered
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
